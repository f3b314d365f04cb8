"""What every settings model is made of: the frozen base class, and the duration as a type of field."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo, WithJsonSchema

from detection.durations import parse_duration
from settings.problems import Mistake, Mistakes, WrongType


class SettingsModel(BaseModel):
    """A frozen model that knows all its keys and converts nothing: "12" is no number, and 1 is not true.

    Lists arrive as tuples, so fields are declared `tuple[X, ...]`. A field whose name in YAML differs has an
    alias. Validators raise Mistake (or ValueError); the loader turns what they say into positioned problems.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,
    )


def _duration_ms(value: object, info: ValidationInfo) -> int:
    # Python code gives milliseconds; in a file (the loader sets the context) a number without a unit is a mistake.
    if info.context is None and type(value) is int:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise Mistake(
            f"{value} is a duration without a unit", f"write {value}s for seconds; units are ms, s, m, h and d"
        )
    if not isinstance(value, str):
        raise WrongType("this must be a duration", "a whole number and its unit, such as 500ms, 5s, 10m, 2h or 1d")
    try:
        return parse_duration(value)
    except ValueError as error:
        message, _, hint = str(error).partition(": ")
        raise Mistake(message, hint) from None


def _positive(value: int) -> int:
    if value <= 0:
        raise Mistake("this duration must be longer than 0")
    return value


def _not_empty(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise Mistake("this list is empty", "give at least one value")
    return values


def _no_repeats(values: tuple[Any, ...]) -> tuple[Any, ...]:
    typed = [(type(value), value) for value in values]  # 1 and true are two values
    repeats = [index for index, value in enumerate(typed) if value in typed[:index]]
    if repeats:
        raise Mistakes(Mistake("this is here a second time", "remove it", (index,)) for index in repeats)
    return values


NotEmpty = AfterValidator(_not_empty)
"""For a list. (Pydantic's own `min_length` also complains when an item has a mistake.)"""

NoRepeats = AfterValidator(_no_repeats)
"""For a list."""

Duration = Annotated[
    int,
    BeforeValidator(_duration_ms),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$", "examples": ["5s", "10m"]}),
]
"""`5s` in YAML, integer milliseconds in Python."""

PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
