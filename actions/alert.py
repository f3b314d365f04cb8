"""The alert as the outside sees it: the JSON of the alerts topic, of webhook bodies and of log lines."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

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


class Evidence(BaseModel):
    """The record that caused a transition. `timestamp` is the event time."""

    model_config = ConfigDict(frozen=True)

    topic: str
    partition: int
    offset: int
    timestamp: TimeMs


class Alert(BaseModel):
    """One transition of an alert with all that it tells. `to_json` and `model_validate_json` are inverse.

    `opened_at` (inclusive) and `resolves_at` (exclusive) bound the episode as known at the transition;
    `key` maps each key path to its JSON value; `window_ms` is a number of milliseconds also in JSON.
    """

    model_config = ConfigDict(frozen=True)

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

    def to_json(self) -> bytes:
        """Compact UTF-8 JSON; `merged_into`, `cancelled` and `reopened` are there only where they say something."""
        return self.model_dump_json(exclude_defaults=True).encode()
