"""References to values that are kept outside the configuration: `{env: NAME}`, `{file: path}`.

A secret stays a reference until somebody sends with it, so checking a configuration needs no secret, and no
model, log line or error ever holds one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, SecretStr, ValidationInfo, WithJsonSchema

from settings.problems import Mistake, Mistakes

HOW_TO_REFER = "write {env: NAME} to take it from the environment, or {file: path} to read it from a file"
_SHAPES = ({"env"}, {"env", "default"}, {"file"})
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class SecretError(ValueError):
    """The file of a reference cannot be read. The message names the file, never what is in it."""


@dataclass(frozen=True)
class Secret:
    """A reference to a value. Exactly one of `env` (a variable's name) and `file` is given."""

    env: str | None = None
    default: SecretStr | None = None
    file: Path | None = None

    def resolve(self) -> SecretStr | None:
        """The value now; None when the environment variable is not set (or empty) and there is no default.

        A file is UTF-8; line ends at its end are not part of the value. Raises SecretError if it cannot be
        read or is empty.
        """
        if self.file is None:
            value = os.environ.get(self.env or "")
            return SecretStr(value) if value else self.default
        try:
            text = self.file.read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise SecretError(f"the file {self.file} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SecretError(f"the file {self.file} is not UTF-8 text") from None
        if not text:
            raise SecretError(f"the file {self.file} is empty")
        return SecretStr(text)

    @property
    def unset(self) -> bool:
        """Whether the environment variable is not set (or empty) here, and nothing stands in for it."""
        return self.file is None and self.default is None and not os.environ.get(self.env or "")

    @property
    def source(self) -> str:
        """Where the value comes from, in words: `the environment variable NAME`."""
        return f"the environment variable {self.env}" if self.file is None else f"the file {self.file}"

    def __repr__(self) -> str:
        if self.file is not None:
            return f"{{file: {self.file}}}"
        return f"{{env: {self.env}}}" if self.default is None else f"{{env: {self.env}, default: …}}"

    __str__ = __repr__


def is_reference(value: object) -> bool:
    """Whether a YAML value has the exact shape of a reference: no other keys, and scalars below them."""
    return (
        isinstance(value, Mapping)
        and set(value) in _SHAPES
        and not any(isinstance(part, Mapping | tuple | list) for part in value.values())
    )


def read_reference(value: Mapping[str, Any], directory: Path | None = None) -> Secret:
    """The reference that a mapping of the right shape stands for. A file's path is relative to `directory`."""
    if "file" in value:
        path = value["file"]
        if not isinstance(path, str) or not path or "\0" in path:
            raise Mistake("this is not the path of a file", "text, in quotes if need be", at=("file",))
        return Secret(file=(directory or Path()) / path)
    name, default = value["env"], value.get("default")
    if not isinstance(name, str) or not _ENVIRONMENT_NAME.fullmatch(name):
        raise Mistake(
            "this is not the name of an environment variable",
            "the bare name, of letters, digits and _, without $ or braces around it",
            at=("env",),
        )
    if default is not None and not isinstance(default, str | int | float):
        raise Mistake("the default is not a plain text, number or true/false", "put it in quotes", at=("default",))
    text = str(default).lower() if isinstance(default, bool) else str(default)
    return Secret(env=name, default=None if default is None else SecretStr(text))


def reference(value: object, info: ValidationInfo) -> Secret | None:
    """The reference that a value is, or has the shape of; None for any other."""
    if isinstance(value, Secret):
        return value
    if is_reference(value):
        assert isinstance(value, Mapping)
        return read_reference(value, (info.context or {}).get("directory"))
    return None


def in_clear(value: object) -> Mistake | None:
    """What is wrong with a value where only a reference may stand. The message never has the value in it."""
    if value is None:
        return Mistake("a value is missing", HOW_TO_REFER)
    if isinstance(value, Mapping) and not is_reference(value):
        return Mistake("this is no reference to a secret", HOW_TO_REFER)
    if isinstance(value, Secret | Mapping):
        return None
    return LiteralSecret("a secret must not stand in the configuration", HOW_TO_REFER)


def notes_on_defaults(name: str, *secrets: object) -> list[str]:
    """What `check` mentions of a secret field: a default is allowed (for a test system), but stands in the file."""
    in_file = any(isinstance(secret, Secret) and secret.default is not None for secret in secrets)
    return [f"the default of '{name}' is a secret that stands in the file"] if in_file else []


def _secret(value: object, info: ValidationInfo) -> Secret:
    if mistake := in_clear(value):
        raise mistake
    secret = reference(value, info)
    assert secret is not None
    return secret


def _secrets(value: object, info: ValidationInfo) -> tuple[Secret, ...]:
    if not isinstance(value, tuple | list):
        return (_secret(value, info),)
    secrets, mistakes = [], []
    for index, one in enumerate(value):
        try:
            secrets.append(_secret(one, info))
        except Mistake as mistake:
            mistakes.append(type(mistake)(mistake.message, mistake.hint, (index, *mistake.at)))
    if mistakes:
        raise Mistakes(mistakes)
    return tuple(secrets)


def _maybe_secret(value: object, info: ValidationInfo) -> str | Secret:
    secret = value if isinstance(value, str) else reference(value, info)
    if secret is None:
        raise Mistake("this must be text, or a reference to it", "put it in quotes, or write {env: NAME}")
    return secret


def _shown(value: str | Secret | tuple[Secret, ...]) -> str | tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, tuple) else str(value)


class LiteralSecret(Mistake):
    """A secret was written into the file. Nothing that reports it may show the value."""


def _schema(env: dict[str, Any]) -> dict[str, Any]:
    shapes = ((env, "env"), ({"file": {"type": "string"}}, "file"))
    common = {"type": "object", "additionalProperties": False}
    return {"oneOf": [{**common, "properties": shape, "required": [name]} for shape, name in shapes]}


_REFERENCE_SCHEMA = _schema({"env": {"type": "string"}, "default": {"type": ["string", "number", "boolean", "null"]}})

_SHOWN = PlainSerializer(_shown, return_type=str | tuple[str, ...])

SecretRef = Annotated[Secret, PlainValidator(_secret), _SHOWN, WithJsonSchema(_REFERENCE_SCHEMA)]
"""A field that takes a reference only: a password."""

SecretRefs = Annotated[
    tuple[Secret, ...],
    PlainValidator(_secrets),
    _SHOWN,
    WithJsonSchema({"anyOf": [_REFERENCE_SCHEMA, {"type": "array", "items": _REFERENCE_SCHEMA}]}),
]
"""A field that takes one reference or a list of them: the secrets of a webhook while they are rotated."""

MaybeSecret = Annotated[
    str | Secret,
    PlainValidator(_maybe_secret),
    _SHOWN,
    WithJsonSchema({"anyOf": [{"type": "string"}, _REFERENCE_SCHEMA]}),
]
"""A field that takes text or a reference that is resolved late: a URL, which may have a token in it."""
