"""One part of a document against its model: references resolved where a plain value is wanted, mistakes placed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from settings.base import SettingsModel
from settings.document import MISSING, At, Document, Trap, read_plain
from settings.problems import Mistake, Problem, WrongType, closest, did_you_mean
from settings.secrets import HOW_TO_REFER, LiteralSecret, Secret, SecretError, is_reference, read_reference
from settings.wording import mistakes_of, model_at, setting_names, takes_secrets

_SENSITIVE = re.compile(
    r"password|secret|token|passphrase|credential|authorization|api_?key|url$|^environment$|^properties$", re.IGNORECASE
)
_OF_NAMES = ("missing", "extra_forbidden")
_OF_TYPES = ("int_type", "float_type", "bool_type")

M = TypeVar("M", bound=SettingsModel)


class Judge:
    """Collects in `problems` what is wrong with a document; `directory` is where relative files are."""

    def __init__(self, document: Document, directory: Path) -> None:
        self.document = document
        self.problems: list[Problem] = list(document.problems)
        self._directory = directory
        self._origins: dict[At, Secret] = {}  # the values that came from a reference
        self._unresolved: set[At] = set()  # the references that gave none, which is reported

    def wrong(self, at: At, message: str, hint: str | None = None, *, key: bool = False) -> None:
        self.problems.append(self.document.problem(at, message, hint, key=key))

    def model(self, model: type[M], at: At) -> M | None:
        """The part of the document as a model, or None when something is wrong with it, which is then reported."""
        while True:
            try:
                return model.model_validate(
                    self.document.get(at), by_alias=True, by_name=False, context={"directory": self._directory}
                )
            except ValidationError as error:
                errors = error.errors(include_url=False, include_input=False)
            if not any(self._taken_elsewhere(model, at, error) for error in errors):
                self._report(model, at, errors)
                return None

    def text(self, at: At) -> str | None:
        """A text of the document, a reference resolved; None for what is no text, which its model will report."""
        if is_reference(self.document.get(at)) and at not in self._unresolved:
            self._resolve(at)
        value = self.document.get(at)
        return value if isinstance(value, str) else None

    def take_environment(self, at: At, variable: str, text: str) -> None:
        """Let an environment variable win over what the document says."""
        self.document.put(at, text)
        self._origins[at] = Secret(env=variable)

    def _taken_elsewhere(self, model: type[SettingsModel], at: At, error: ErrorDetails) -> bool:
        """Whether the value at fault could be replaced: a reference by its text, such a text by a number."""
        if error["type"] in _OF_NAMES:
            return False
        place = self.document.nearest((*at, *error["loc"]))
        value = self.document.get(place)
        if is_reference(value) and place not in self._unresolved and not takes_secrets(model, error["loc"]):
            return self._resolve(place)
        # The environment knows text alone: where a number or a boolean is wanted, it is read as in YAML.
        if place in self._origins and isinstance(value, str) and error["type"] in _OF_TYPES:
            plain = read_plain(value)
            if isinstance(plain, bool | int | float):
                self.document.put(place, plain)
                return True
        return False

    def _resolve(self, at: At) -> bool:
        written = self.document.get(at)
        try:
            reference = read_reference(written, self._directory)
            value = replace(reference, default=None).resolve()
        except Mistake as mistake:
            self._place(at, mistake)
        except SecretError as error:
            self.wrong(at, str(error))
        else:
            if value is not None:
                self.document.put(at, value.get_secret_value())
                self._origins[at] = reference
                return True
            if "default" in written:
                self.document.put(at, written["default"], (*at, "default"))
                return True
            hint = f"set it, or give a default: {{env: {reference.env}, default: …}}"
            self.wrong(at, f"{reference.source} is not set, or empty", hint)
        self._unresolved.add(at)
        return False

    def _report(self, model: type[SettingsModel], at: At, errors: Sequence[ErrorDetails]) -> None:
        meant = set()
        for loc in (error["loc"] for error in errors if error["type"] == "extra_forbidden"):
            names, name = setting_names(model_at(model, loc)), str(loc[-1])
            taken = self.document.get(self.document.nearest((*at, *loc[:-1])))
            self.wrong((*at, *loc), f"unknown setting '{name}'", did_you_mean(name, names, taken), key=True)
            meant.add((*loc[:-1], closest(name, set(names).difference(taken))))
        for error in errors:
            loc = error["loc"]
            if error["type"] == "missing" and loc not in meant:  # a misspelt name is one mistake, not two
                self.wrong((*at, *loc[:-1]), f"'{loc[-1]}' is missing", key=True)
            elif error["type"] not in _OF_NAMES:
                place = self.document.nearest((*at, *loc))
                shown = place not in self._origins and not _SENSITIVE.search(_name(place))
                for mistake in mistakes_of(error, self.document.get(place), shown):
                    self._place(place, mistake, key=loc[-1:] == ("[key]",))

    def _place(self, at: At, mistake: Mistake, *, key: bool = False) -> None:
        at = self.document.nearest((*at, *mistake.at))
        value = self.document.get(at)
        if at in self._unresolved:
            return
        if value is MISSING and isinstance(mistake, LiteralSecret):
            mistake = Mistake(value.message, HOW_TO_REFER)
        elif isinstance(value, Trap) and not isinstance(mistake, LiteralSecret):
            # Quotes, which the trap's own hint offers, help only where text is taken.
            wanted = mistake.hint or mistake.message
            mistake = Mistake(value.message, wanted if isinstance(mistake, WrongType) else value.hint)
        origin = f"; the value comes from {self._origins[at].source}" if at in self._origins else ""
        self.wrong(at, mistake.message + origin, mistake.hint, key=key)


def _name(at: At) -> str:
    return next((step for step in reversed(at) if isinstance(step, str)), "")
