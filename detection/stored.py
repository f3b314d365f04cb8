"""What is stored between runs: MessagePack with the number of its format in front."""

from __future__ import annotations

from typing import TypeVar

import msgspec


class Stored(msgspec.Struct, array_like=True):
    """The first field of all that is stored."""

    format: int


T = TypeVar("T", bound=Stored)


def read_stored(packed: bytes, type_: type[T], format_: int, what: str) -> T:
    """Decode it. Raises ValueError, with what to do, where another version of tua wrote it."""
    found = msgspec.msgpack.decode(packed, type=Stored).format
    if found != format_:
        raise ValueError(
            f"{what} has format {found}; this version of tua reads {format_}. Go on with the version that wrote it, or"
            " move the recovery store in state.directory away to start empty"
        )
    return msgspec.msgpack.decode(packed, type=type_)
