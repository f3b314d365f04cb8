"""What every command does first: find the configuration, load it, and say what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from actions.registry import ACTION_TYPES
from settings import ConfigError, Problem, Settings, load

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The configuration; else $TUA_CONFIG, else tua.yaml.",
        show_default=False,
        readable=False,  # not judged here: loading it says what is wrong with it, as for every mistake
    ),
]
_STYLES = {"error": "bold red", "note": "bold yellow"}


def load_or_exit(path: Path) -> Settings:
    """The settings. On a mistake, all of them go to standard error and the command ends with exit code 1."""
    try:
        return load(path, ACTION_TYPES)
    except ConfigError as error:
        show(error.problems)
        count = len(error.problems)
        _standard_error().print(f"{path}: {count} mistake{'s' if count > 1 else ''}", soft_wrap=True)
        raise typer.Exit(1) from None


def show(problems: Iterable[Problem]) -> None:
    """Problems on standard error, one a line, in colour on a terminal only."""
    console = _standard_error()
    for problem in problems:
        line = Text(f"{problem.file}:{problem.line}:{problem.column}: ")
        line.append(f"{problem.severity}: ", style=_STYLES[problem.severity]).append(problem.message)
        if problem.hint:
            line.append(f" ({problem.hint})", style="dim")
        console.print(line, soft_wrap=True)


def _standard_error() -> Console:
    return Console(stderr=True, markup=False, highlight=False)
