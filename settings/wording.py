"""What pydantic finds wrong, in words for somebody who writes YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic_core import ErrorDetails

from settings.base import SettingsModel
from settings.problems import Mistake, Mistakes, WrongType, closest
from settings.secrets import Secret

_REFERENCE = "a reference is {env: NAME}, {env: NAME, default: value} or {file: path}, with nothing else in it"
_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "names with values",
    "model_type": "names with values",
    "path_type": "the path of a file or directory",
}
_PLAIN = {"int_type": "-?(0|[1-9][0-9]*)", "float_type": r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", "bool_type": "true|false"}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def mistakes_of(error: ErrorDetails, value: object, shown: bool) -> tuple[Mistake, ...]:
    """The mistakes that one finding of pydantic stands for. `shown` False keeps the value out of the words."""
    kind, context = error["type"], error.get("ctx", {})
    raised = context.get("error")
    if isinstance(raised, Mistakes):
        return raised.mistakes
    if isinstance(raised, Mistake):
        return (raised,)
    if isinstance(raised, Exception):
        return (Mistake(str(raised)),)
    if value is None:
        return (Mistake("a value is needed here, not null"),)
    if kind in _WANTED:
        return (_wrong_type(kind, value, shown),)
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return (Mistake(f"this must be {words} {context[bound]}" + (f", not {value}" if shown else "")),)
    if kind == "literal_error":
        return (_not_one_of(re.findall(r"'([^']*)'", context["expected"]), value, shown),)
    return (Mistake(error["msg"].replace("Input should", "this should")),)


def model_at(model: type[SettingsModel], steps: tuple[str | int, ...]) -> type[SettingsModel]:
    """The model that the last of the steps, from a model down, is a field of."""
    for step in steps[:-1]:
        below = _model_in(_field_types(model, step))
        if below is not None:
            model = below
    return model


def setting_names(model: type[SettingsModel]) -> tuple[str, ...]:
    """The names of a model's fields in YAML."""
    return tuple(field.alias or name for name, field in model.model_fields.items())


def takes_secrets(model: type[SettingsModel], steps: tuple[str | int, ...]) -> bool:
    """Whether the value at the end of the steps may stay a reference, and must not be resolved here."""
    for index, step in enumerate(steps):
        types = _field_types(model_at(model, steps[: index + 1]), step)
        if Secret in types:
            return True
    return False


def _field_types(model: type[SettingsModel], name: str | int) -> list[Any]:
    for field_name, field in model.model_fields.items():
        if name == (field.alias or field_name):
            return _flat(field.annotation)
    return []


def _flat(annotation: Any) -> list[Any]:
    return [annotation, *(inner for argument in get_args(annotation) for inner in _flat(argument))]


def _model_in(types: list[Any]) -> type[SettingsModel] | None:
    return next((one for one in types if isinstance(one, type) and issubclass(one, SettingsModel)), None)


def _wrong_type(kind: str, value: object, shown: bool) -> Mistake:
    message = f"this must be {_WANTED[kind]}"
    if isinstance(value, Mapping):
        hint = _REFERENCE if {"env", "file"} & {name.lower() for name in value} else None
        if kind == "string_type" and hint is None:
            hint = "text that starts with { needs quotes"
        return Mistake(f"{message}, not names with values", hint)
    if isinstance(value, tuple):
        return Mistake(f"{message}, not a list")
    if not shown or not isinstance(value, str | int | float):
        return Mistake(message) if kind == "string_type" else WrongType(message)
    written = str(value).lower() if isinstance(value, bool) else str(value)
    if len(written) > 40:
        return Mistake(f"{message}, not a longer text")
    hint = None
    if kind == "string_type":
        hint = f'write "{written}" in quotes'
    elif kind in ("tuple_type", "list_type"):
        hint = f"write [{written}]"
    elif isinstance(value, str) and re.fullmatch(_PLAIN.get(kind, ""), written):
        hint = "without quotes"
    return Mistake(f"{message}, not {'the text ' if isinstance(value, str) else ''}{_quoted(value, written)}", hint)


def _not_one_of(options: list[str], value: object, shown: bool) -> Mistake:
    listed = ", ".join(options)
    if not shown or not isinstance(value, str):
        return WrongType(f"this must be one of: {listed}")
    meant = closest(value, options)
    return Mistake(f"'{value}' is not one of: {listed}", f"did you mean '{meant}'?" if meant else None)


def _quoted(value: object, written: str) -> str:
    return f"'{written}'" if isinstance(value, str) else written
