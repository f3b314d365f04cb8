"""What is wrong with a configuration, in words for the person who wrote it.

ValueError
  ConfigError   the whole file: every Problem found in it
  Mistake       one value, raised by a model's validator; the loader adds where it stands
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal


@dataclass(frozen=True, order=True)
class Problem:
    """One finding. `line` and `column` count from 1; a note does not stop anything."""

    file: str
    line: int
    column: int
    message: str
    hint: str | None = None
    severity: Literal["error", "note"] = "error"

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.file}:{self.line}:{self.column}: {self.message}{hint}"


class ConfigError(ValueError):
    """The configuration cannot be used. Its text has one problem on each line, in the order of the file."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class Mistake(ValueError):
    """What a validator raises for a wrong value: what is wrong, and how to mend it.

    `at` leads from what the validator was given to the value at fault: a model's validator names the field
    (`at=("url",)`), that of a list the index. The message must not repeat a value that may be secret.
    """

    def __init__(self, message: str, hint: str | None = None, at: tuple[str | int, ...] = ()) -> None:
        self.message, self.hint, self.at = message, hint, at
        super().__init__(f"{message} ({hint})" if hint else message)


class WrongType(Mistake):
    """The value is of a kind that the setting never takes; as text, in quotes, it would be refused too."""


class Mistakes(ValueError):
    """Several mistakes that one validator found."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(str(mistake) for mistake in self.mistakes))


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelt one most likely stands for."""
    by_lower = {name.lower(): name for name in sorted(known, reverse=True)}
    close = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str], taken: Iterable[str] = ()) -> str:
    """A hint for an unknown name: `did you mean 'x'?` for one that is not taken, or else the names there are."""
    names = sorted(known)
    if (name := closest(word, set(names).difference(taken))) is not None:
        return f"did you mean '{name}'?"
    return f"known: {', '.join(names)}" if names else "there are none"
