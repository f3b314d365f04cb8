"""What is watched for: topics and rules, as plain frozen values.

The settings package builds these from `tua.yaml`; nothing here knows of files. Times are integer milliseconds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import msgspec

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class EventTime:
    """Where an event's time comes from: the record's timestamp, or a field of its value.

    `field` is a dotted path, or None for the record's timestamp. `unit` says how the field is written:
    milliseconds or seconds since 1970 as a number (fractions are floored), or ISO 8601 with an offset.
    """

    field: str | None = None
    unit: Literal["ms", "s", "iso"] = "ms"


@dataclass(frozen=True)
class Topic:
    """How the events of one topic are read and judged.

    `event_id` is the dotted path of a field that names an event, so that copies count once; None means that
    each record is an event of its own. `max_future_ms` is None where there is no future guard.
    """

    name: str
    lateness_ms: int = 10_000
    event_time: EventTime = EventTime()
    event_id: str | None = None
    idle_timeout_ms: int = 30_000
    max_future_ms: int | None = 60_000


@dataclass(frozen=True)
class CountRule:
    """Breach when at least `threshold` distinct events of one key lie in a window `(t - window_ms, t]`.

    `where` is a conjunction of (path, allowed values); `key` holds one dotted path or more.
    """

    name: str
    topic: Topic
    key: tuple[str, ...]
    threshold: int
    window_ms: int
    where: tuple[tuple[str, tuple[Scalar, ...]], ...] = ()

    @cached_property
    def events(self) -> tuple[object, ...]:
        """Equal for rules about the same events under the same key. By JSON: to Python `True == 1`."""
        where = tuple((path, tuple(map(msgspec.json.encode, values))) for path, values in self.where)
        return self.topic.name, where, self.key

    @cached_property
    def version(self) -> str:
        """Fingerprint of all that gives the rule meaning; state is kept from one start to the next by it.

        Lateness and time-outs are not in it: they decide which events are accepted and when an alert
        resolves, not what the kept state means. `where` is a conjunction, so its order is not in it either.
        """
        meaning = (
            "count",
            self.topic.name,
            (
                self.topic.event_time.field,
                self.topic.event_time.unit if self.topic.event_time.field else None,
            ),
            self.topic.event_id,
            sorted((path, sorted(msgspec.json.encode(v) for v in values)) for path, values in self.where),
            self.key,
            self.threshold,
            self.window_ms,
        )
        return hashlib.blake2b(msgspec.json.encode(meaning), digest_size=6).hexdigest()
