"""What is told, as the outside sees it: the JSON of the alerts topic, of webhook bodies and of log lines."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from detection.rules import Scalar
from detection.times import EPOCH, iso
from settings.actions import Status


def _read_time(value: object) -> object:
    if not isinstance(value, str):
        return value
    return (datetime.fromisoformat(value) - EPOCH) // timedelta(milliseconds=1)


TimeMs = Annotated[int, BeforeValidator(_read_time), PlainSerializer(iso, return_type=str)]
"""Milliseconds since 1970 in Python, ISO 8601 in UTC with milliseconds and Z in JSON."""


class _Told(BaseModel):
    """`to_json` and `model_validate_json` are inverse. Fields with a default are in the JSON only if they differ."""

    model_config = ConfigDict(frozen=True)

    def to_json(self) -> bytes:
        """Compact UTF-8 JSON."""
        return self.model_dump_json(exclude_defaults=True).encode()


class Evidence(_Told):
    """The record that caused a transition. `timestamp` is the event time."""

    topic: str
    partition: int
    offset: int
    timestamp: TimeMs


class Alert(_Told):
    """One transition of an alert with all that it tells.

    `opened_at` (inclusive) and `resolves_at` (exclusive) bound the episode as known at the transition;
    `key` maps each key path to its JSON value; `window_ms` is a number of milliseconds also in JSON.
    `test` marks what `tua send-test` sends.
    """

    id: str
    sequence: int
    rule: str
    rule_version: str
    severity: str
    status: Status
    key: dict[str, Scalar]
    peak: int
    peak_exact: bool
    events: int
    threshold: int
    window_ms: int
    opened_at: TimeMs
    resolves_at: TimeMs
    message: str
    evidence: Evidence
    merged_into: str | None = None
    cancelled: bool = False
    reopened: bool = False
    test: bool = False


class KeyCount(_Told):
    """One key among those of a flood, and the highest count known of it in one window."""

    key: dict[str, Scalar]
    peak: int


class Summary(_Told):
    """One message in place of many: the alerts of a rule that an action did not tell one by one.

    `alerts` is how many, `resolved` how many of them are over by now, `top` those with the highest counts.
    `began_at` and `ended_at` are wall clock.
    """

    id: str
    rule: str
    severity: str
    status: Literal["summary"]
    alerts: int
    resolved: int
    began_at: TimeMs
    ended_at: TimeMs
    top: tuple[KeyCount, ...]
