"""What detection tells: the transitions of an alert, and the record that caused each."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from detection.rules import Scalar


class Source(msgspec.Struct, frozen=True):
    """One record of a log. `timestamp_ms` is the event time."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One step in the life of an alert: opened, updated (any number of times), resolved; perhaps reopened.

    `key` holds JSON scalars in the order of the rule's key paths. `opened_at_ms`, `resolves_at_ms`, `peak` and
    `events` are the episode as known when the transition was made. `told` is False for what goes to the
    alerts topic only: an alert that had resolved already when it turned out to be part of another, or to be more than
    was told.
    """

    alert_id: str
    sequence: int
    rule: str
    rule_version: str
    status: Literal["opened", "updated", "resolved"]
    key: tuple[Scalar, ...]
    peak: int
    peak_exact: bool
    events: int
    opened_at_ms: int
    resolves_at_ms: int
    source: Source
    merged_into: str | None = None
    cancelled: bool = False
    reopened: bool = False
    told: bool = True


def alert_id(rule: str, key: tuple[Scalar, ...], topic: str, partition: int, offset: int, opened_at_ms: int) -> str:
    """The id of an alert: unique, and the same on every replay of the same log."""
    identity = msgspec.json.encode((rule, key, topic, partition, offset, opened_at_ms))
    return hashlib.blake2b(identity, digest_size=12).hexdigest()
