"""Looks into the outbox from outside of the job, which may be running: what was sent, when, with what answer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from actions.delivery.outbox import BEHIND, line_up
from actions.delivery.records import Row, rows_of
from actions.delivery.store import OutboxError, Store
from detection.times import iso

_PAGE = 500
_NOBODY = "redriven"  # no process has that name, so one that lives adopts what belongs to it


class Attempt(msgspec.Struct, frozen=True):
    """One attempt. `outcome`: delivered, retry, refused, gave up or cut short; `answer` is what the target said."""

    attempt: int
    at: str
    took_ms: int
    outcome: str
    answer: str


class PastDelivery(msgspec.Struct, frozen=True, omit_defaults=True):
    """One delivery with its history. Times are ISO 8601 in UTC; `due_at` is there while it waits for its time.

    `history` has the last attempts, as far as they ended; `attempts` counts all. `told` is the alert or summary.
    """

    delivery: str
    alert: str
    sequence: int
    action: str
    recipient: str
    state: str
    made_at: str
    attempts: int
    told: msgspec.Raw
    reason: str | None = None
    due_at: str | None = None
    ended_at: str | None = None
    last_answer: str | None = None
    history: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """Which deliveries. `alert` may be any id that the alert ever had; `failed`: dead, or failing and waiting.

    Without `action`, the job's own topics are left out, unless they failed.
    """

    alert: str | None = None
    action: str | None = None
    failed: bool = False
    dead: bool = False

    def where(self) -> tuple[str, dict[str, object]]:
        """The condition in SQL, and its values."""
        conditions = ["1"]
        if self.alert is not None:
            conditions.append("alert_id = COALESCE((SELECT alert_id FROM aliases WHERE id = :alert), :alert)")
        if self.action is not None:
            conditions.append("action = :action")
        elif not self.failed:
            conditions.append("action NOT LIKE 'tua.%'")
        if self.failed:
            conditions.append("(state = 'dead' OR (state = 'pending' AND failures > 0))")
        if self.dead:
            conditions.append("state = 'dead'")
        return " AND ".join(conditions), {"alert": self.alert, "action": self.action}


class Audit:
    """The outbox at `path`. Raises OutboxError where there is none, or it cannot be used; its methods do too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            raise OutboxError(f"there is no outbox at {path}: the job has not run with this state.directory")
        self._store = Store(path)

    def close(self) -> None:
        self._store.close()

    def count(self, wanted: Wanted) -> int:
        """How many deliveries there are."""
        where, values = wanted.where()
        with self._reading() as db:
            return int(db.execute(f"SELECT COUNT(*) FROM deliveries WHERE {where}", values).fetchone()[0])

    def deliveries(self, wanted: Wanted, newest: int | None = None) -> Iterator[PastDelivery]:
        """In the order they were made; with `newest`, only the last so many of them."""
        where, values = wanted.where()
        values["after"] = 0
        if newest is not None:
            with self._reading() as db:
                last = f"SELECT number FROM deliveries WHERE {where} ORDER BY number DESC LIMIT {newest}"
                first = db.execute(f"SELECT MIN(number) FROM ({last})", values).fetchone()[0]
            values["after"] = (first or 1) - 1
        page = f"SELECT * FROM deliveries WHERE {where} AND number > :after ORDER BY number LIMIT {_PAGE}"
        while True:
            with self._reading() as db:
                rows = rows_of(db, page, values)
                found = [_past(row, _history(db, row["id"])) for row in rows]
            yield from found
            if len(rows) < _PAGE:
                return
            values["after"] = rows[-1]["number"]

    def dead_actions(self, wanted: Wanted) -> dict[str, int]:
        """How many dead letters there are of each action."""
        where, values = wanted.where()
        with self._reading() as db:
            sql = f"SELECT action, COUNT(*) FROM deliveries WHERE {where} AND state = 'dead' GROUP BY action"
            return dict(db.execute(sql, values).fetchall())

    def redrive(self, wanted: Wanted, actions: frozenset[str], now_ms: int) -> int:
        """Make dead letters of these actions due again, with all their retries before them; how many.

        A running job takes them within seconds, another one at its start, by the configuration it has then.
        """
        where, values = wanted.where()
        known = ", ".join(f":known{n}" for n in range(len(actions)))
        values |= {f"known{n}": name for n, name in enumerate(sorted(actions))}
        try:
            with self._store.writing() as db:
                changed = db.execute(
                    "UPDATE deliveries SET state = 'pending', reason = NULL, ended_ms = NULL, leased = 0,"
                    " due_ms = :now, scheduled_ms = :now, owner = :owner, failures = 0, failing_since_ms = 0,"
                    f" releases = 0, first_attempt_ms = NULL WHERE {where} AND state = 'dead' AND action IN ({known})",
                    values | {"now": now_ms, "owner": _NOBODY},
                )
                line_up(db, now_ms)
                return changed.rowcount
        except sqlite3.Error as error:
            raise OutboxError(f"the outbox {self._path} cannot be written: {error}") from error

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._store.reading() as db:
                yield db
        except sqlite3.Error as error:
            raise OutboxError(f"the outbox {self._path} cannot be read: {error}") from error


def _history(db: sqlite3.Connection, delivery: str) -> tuple[Attempt, ...]:
    rows = db.execute(
        "SELECT attempt, at_ms, took_ms, outcome, answer FROM attempts WHERE delivery = ? ORDER BY attempt", (delivery,)
    )
    return tuple(Attempt(number, iso(at_ms), *more) for number, at_ms, *more in rows.fetchall())


def _past(row: Row, history: tuple[Attempt, ...]) -> PastDelivery:
    waits = row["state"] == "pending" and not row["leased"] and row["made_at_ms"] < row["due_ms"] < BEHIND
    return PastDelivery(
        delivery=row["id"],
        alert=row["alert_id"],
        sequence=row["sequence"],
        action=row["action"],
        recipient=row["recipient"],
        state=row["state"],
        made_at=iso(row["made_at_ms"]),
        attempts=row["attempts"],
        told=msgspec.Raw(row["body"]),
        reason=row["reason"],
        due_at=iso(row["due_ms"]) if waits else None,
        ended_at=None if row["ended_ms"] is None else iso(row["ended_ms"]),
        last_answer=row["last_answer"],
        history=history,
    )
