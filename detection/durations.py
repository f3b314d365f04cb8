"""Durations as people write them (`5s`, `10m`) and as they say them (`5 seconds`)."""

from __future__ import annotations

import re
from functools import lru_cache

_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SPOKEN = (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1_000), ("millisecond", 1))
_LONGEST_MS = 36_500 * _MS["d"]
_HOW = "write a whole number and a unit, such as 500ms, 5s, 10m, 2h or 1d"


def parse_duration(text: str) -> int:
    """Milliseconds of `500ms`, `5s`, `10m`, `2h`, `1d`; `0s` is allowed.

    Raises ValueError, with a message that says how to mend it, for anything else: no unit, a fraction, a sign,
    several units, or more than a hundred years.
    """
    match = re.fullmatch(r"([0-9]{1,18})(ms|s|m|h|d)", text)
    if match is None:
        raise ValueError(f"'{text}' is not a duration: {_HOW}")
    ms = int(match[1]) * _MS[match[2]]
    if ms > _LONGEST_MS:
        raise ValueError(f"'{text}' is more than a hundred years: a duration is at most 36500d")
    return ms


@lru_cache(maxsize=1_024)
def spoken(duration_ms: int) -> str:
    """A duration in words: 5000 is `5 seconds`, 90000 is `1 minute 30 seconds`. Raises ValueError if negative."""
    if duration_ms < 0:
        raise ValueError(f"a duration cannot be negative: {duration_ms} ms")
    words = []
    rest = duration_ms
    for unit, unit_ms in _SPOKEN:
        number, rest = divmod(rest, unit_ms)
        if number:
            words.append(f"{number} {unit}{'s' if number != 1 else ''}")
    return " ".join(words) or "0 seconds"
