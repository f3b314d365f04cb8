"""The exec action: runs a program of this host with the alert's JSON on its standard input.

There is no shell, and nothing of an event is in the arguments. Exit codes are those of sysexits.h: 0 delivered;
64 (EX_USAGE) and 65 (EX_DATAERR) refused for good; any other, and death by a signal, to be tried again.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from actions.base import Action, ActionError, Context, Delivered, Delivery, Outcome, Refused, Retry
from actions.exec_run import Run, signal_name
from actions.http import resolved
from settings.actions import ActionSettings
from settings.base import NotEmpty, PositiveDuration
from settings.problems import Mistake
from settings.secrets import MaybeSecret, Secret, notes_on_defaults

FOR_GOOD = frozenset({os.EX_USAGE, os.EX_DATAERR})
DEATH_S = 1.0
SHORTEST_LINE = 8
_SENSITIVE = re.compile(r"password|passwd|secret|token|passphrase|credential|key", re.IGNORECASE)


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise Mistake("this cannot be the name of an environment variable", "letters, digits and _")
    return name


def _without_nul(value: str | Secret) -> str | Secret:
    if isinstance(value, str) and "\0" in value:
        raise Mistake("no program can be given the control character NUL", "remove it")
    return value


WithoutNul = AfterValidator(_without_nul)


class ExecSettings(ActionSettings):
    """`command` is the program and its arguments, `environment` all that it finds in its environment.

    The program is a path: an absolute one, or with a slash in it and then beside the configuration. It may run
    more than once for one alert, as any attempt that was cut short is made again.
    """

    type: Literal["exec"] = "exec"
    command: Annotated[tuple[Annotated[str, WithoutNul], ...], NotEmpty]
    environment: dict[Annotated[str, AfterValidator(_variable)], Annotated[MaybeSecret, WithoutNul]] = Field(
        default_factory=dict
    )
    timeout_ms: PositiveDuration = Field(default=10_000, alias="timeout")

    @field_validator("command")
    @classmethod
    def _program_is_a_path(cls, command: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        program = command[0]
        if "/" not in program or program.endswith("/"):
            hint = "such as /usr/local/bin/page, or ./page for one beside this file; $PATH is not searched"
            raise Mistake("this is not the path of a program", hint, at=(0,))
        directory: Path = (info.context or {}).get("directory", Path())
        return (str((directory / program).absolute()), *command[1:])

    @property
    def program(self) -> str:
        """Its absolute path."""
        return self.command[0]

    def notes(self) -> tuple[str, ...]:
        notes = []
        if not os.path.isfile(self.program):
            notes.append(f"there is no program {self.program} here")
        elif not os.access(self.program, os.X_OK):
            notes.append(f"{self.program} is not executable here")
        for name, value in self.environment.items():
            if _SENSITIVE.search(name):
                notes += notes_on_defaults(f"environment.{name}", value)
                if isinstance(value, str):
                    notes.append(
                        f"'environment.{name}' stands in clear; write {{env: NAME}} to keep it out of the file"
                    )
        return tuple(notes)


class ExecAction(Action[ExecSettings]):
    """One process for each attempt, with a session and a process group of its own, which ends with the attempt.

    Raises ActionError where a value of the environment cannot be had.
    """

    settings_type = ExecSettings

    def __init__(self, name: str, settings: ExecSettings, context: Context) -> None:
        super().__init__(name, settings, context)
        self.time_limit_s = settings.timeout_ms / 1_000
        self._environment: dict[str, str] = {}
        self._secrets: list[str] = []
        for variable, value in settings.environment.items():
            if isinstance(value, str):
                self._environment[variable] = value
                continue
            text = resolved(name, f"environment.{variable}", value)
            if "\0" in text:
                raise ActionError(f"action {name}: the environment.{variable} from {value.source} has a NUL in it")
            self._environment[variable] = text
            # Of a key in several lines, a program may well print one.
            self._secrets += [text, *(line for line in text.splitlines() if len(line) >= SHORTEST_LINE)]

    def recipients(self) -> tuple[str, ...]:
        return (self.settings.program,)

    def secrets(self) -> Iterable[str]:
        return self._secrets

    async def deliver(self, delivery: Delivery) -> Outcome:
        run = Run(self.settings.command, self._environment)
        try:
            await run.to_its_end(delivery.body)
        except asyncio.CancelledError:
            # If it had come to its own end by then, what it did is done, and said so even now.
            if await run.cut_short():
                raise
        finally:
            run.close()
        if run.code is None:
            return Retry(run.trouble)
        answer = run.printed.start.decode("utf-8", "replace").strip()
        if run.code < 0:
            return Retry(f"killed by {signal_name(-run.code)} {answer}".strip())
        said = f"exit {run.code} {answer}".strip()
        if run.code == 0:
            return Delivered(said)
        return Refused(said) if run.code in FOR_GOOD else Retry(said)
