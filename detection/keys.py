"""Keys as the evaluators hold them: hashable, told apart by JSON type, and the same in every process.

A JSON string is itself; a number or boolean is its compact JSON as bytes, because to Python `1 == 1.0 == True`;
the parts of a key of several paths form a tuple.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, cast
from zlib import crc32

import msgspec

from detection.rules import Scalar

KeyPart = str | bytes
Key = KeyPart | tuple[KeyPart, ...]

SHARDS = 64
"""Number of shards; part of the recovery format."""


def key_part(value: Any) -> KeyPart | None:
    """The canonical form of a JSON value.

    None for what can't be (part of) a key: missing, null, an object, an array, or a number like 1e999.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int) or (isinstance(value, float) and isfinite(value)):
        return msgspec.json.encode(value)
    return None


def key_values(key: Key) -> tuple[Scalar, ...]:
    """The JSON values of a key, one for each path."""
    parts = key if isinstance(key, tuple) else (key,)
    return tuple(cast(Scalar, msgspec.json.decode(part)) if isinstance(part, bytes) else part for part in parts)


def shard_of(key: Key) -> int:
    """The shard of a key: stable across processes and starts, which Python's own `hash` is not."""
    if isinstance(key, tuple):
        return crc32(b"\0".join(_bytes(part) for part in key)) % SHARDS
    return crc32(_bytes(key)) % SHARDS


def _bytes(part: KeyPart) -> bytes:
    return part.encode() if isinstance(part, str) else part
