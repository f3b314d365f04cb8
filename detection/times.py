"""Moments of event time: integer milliseconds since 1970 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999: ISO 8601 with four digits ends there."""


def iso(time_ms: int) -> str:
    """`2026-01-31T10:00:03.120Z`. A time before 1970 or after the year 9999 becomes the nearest that is not."""
    seconds, ms = divmod(min(max(time_ms, 0), LAST_MS), 1_000)
    minutes, seconds = divmod(seconds, 60)
    return f"{_minute(minutes)}:{seconds:02}.{ms:03}Z"


@lru_cache(maxsize=1_024)
def _minute(minutes: int) -> str:
    return f"{EPOCH + timedelta(minutes=minutes):%Y-%m-%dT%H:%M}"
