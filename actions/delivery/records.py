"""What goes into the outbox and what comes out of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from actions.base import Delivery
from actions.delivery.identity import News
from actions.delivery.noise import Cooldown, Flood

Row = dict[str, Any]


@dataclass(frozen=True)
class Address:
    """Who gets it. `people` can be spared by a cooldown, and with `flood` by a summary; the job's own topics never."""

    action: str
    recipients: tuple[str, ...]
    people: bool = True
    flood: Flood | None = None


@dataclass(frozen=True)
class Composed:
    """What is to be told of one transition: the alert JSON, and to whom."""

    body: bytes
    severity: str
    cooldown: Cooldown | None
    to: tuple[Address, ...]


Compose = Callable[[News], Composed | None]


@dataclass(frozen=True)
class Leased:
    """A delivery that this process may attempt now, from `began_ms` on; None: it is to be ended without an attempt.

    `failures` counts those before; `row` is all that is stored.
    """

    delivery: Delivery
    failures: int
    first_attempt_ms: int
    began_ms: int | None
    row: Row


class DeliveryName(NamedTuple):
    """What makes a delivery the one it is."""

    alert_id: str
    sequence: int
    action: str
    recipient: str


@dataclass(frozen=True)
class Places:
    """How many more attempts of an action may be made now; while it is `quiet`, only of what is urgent."""

    action: str
    free: int
    quiet: bool = False


@dataclass(frozen=True)
class Mark:
    """How a leased delivery ended.

    `delivered`, `dead` (with its `dead_letter`, the JSON for the topic, None for the job's own), or `waits` for
    `delay_ms`; `asked` when the target named that time itself. `answer` is what it said.
    """

    leased: Leased
    state: Literal["delivered", "dead", "waits"]
    answer: str
    reason: str | None = None
    delay_ms: int = 0
    asked: bool = False
    dead_letter: bytes | None = None


def as_leased(row: Row, began_ms: int | None = None) -> Leased:
    """The delivery that a stored row stands for."""
    delivery = Delivery(
        id=row["id"],
        alert_id=row["alert_id"],
        sequence=row["sequence"],
        action=row["action"],
        recipient=row["recipient"],
        body=row["body"],
        made_at_ms=row["made_at_ms"],
        attempt=row["attempts"],
    )
    return Leased(delivery, row["failures"], row["first_attempt_ms"] or 0, began_ms, row)


def rows_of(db: sqlite3.Connection, sql: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
    """The rows of a query, each as a dict of its columns."""
    cursor = db.execute(sql, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
