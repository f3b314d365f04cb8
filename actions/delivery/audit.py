"""Looks into the outbox from outside of the job, which may be running: what was sent, when, with what answer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from actions.delivery.housekeeping import BEHIND, SLICE, line_up
from actions.delivery.records import Row, rows_of
from actions.delivery.store import OutboxError, Store, open_to_read
from detection.times import iso

_PAGE = 500
_NOBODY = "redriven"  # no process has that name, so one that lives adopts what belongs to it
_OVERTAKEN = (
    "EXISTS (SELECT 1 FROM deliveries WHERE alert_id = d.alert_id AND action = d.action AND recipient = d.recipient"
    " AND sequence > d.sequence AND state = 'delivered')"
)
_REDRIVE = (
    "UPDATE deliveries SET state = 'pending', reason = NULL, ended_ms = NULL, leased = 0, due_ms = :now,"
    " scheduled_ms = :now, owner = :owner, failures = 0, failing_since_ms = 0, releases = 0, first_attempt_ms = NULL"
    " WHERE number = :number"
)


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
    """What is in the outbox at `path`. Raises OutboxError where there is none, or it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_to_read(path)

    def close(self) -> None:
        self._db.close()

    def count(self, wanted: Wanted) -> int:
        """How many deliveries there are."""
        where, values = wanted.where()
        return int(self._read(f"SELECT COUNT(*) AS n FROM deliveries WHERE {where}", values)[0]["n"])

    def deliveries(self, wanted: Wanted, newest: int | None = None) -> Iterator[PastDelivery]:
        """In the order they were made; with `newest`, only the last so many of them."""
        where, values = wanted.where()
        values["after"] = 0
        if newest is not None:
            last = f"SELECT number FROM deliveries WHERE {where} ORDER BY number DESC LIMIT {newest}"
            first = self._read(f"SELECT MIN(number) AS n FROM ({last})", values)[0]["n"]
            values["after"] = (first or 1) - 1
        page = f"SELECT * FROM deliveries WHERE {where} AND number > :after ORDER BY number LIMIT {_PAGE}"
        while True:
            rows = self._read(page, values)
            yield from [_past(row, self._history(row["id"])) for row in rows]
            if len(rows) < _PAGE:
                return
            values["after"] = rows[-1]["number"]

    def dead_actions(self, wanted: Wanted) -> dict[str, int]:
        """How many dead letters there are of each action."""
        where, values = wanted.where()
        sql = f"SELECT action, COUNT(*) AS n FROM deliveries WHERE {where} AND state = 'dead' GROUP BY action"
        return {row["action"]: row["n"] for row in self._read(sql, values)}

    def _history(self, delivery: str) -> tuple[Attempt, ...]:
        rows = self._read("SELECT * FROM attempts WHERE delivery = :id ORDER BY attempt", {"id": delivery})
        return tuple(
            Attempt(row["attempt"], iso(row["at_ms"]), row["took_ms"], row["outcome"], row["answer"]) for row in rows
        )

    def _read(self, sql: str, values: Mapping[str, object]) -> list[Row]:
        try:
            return rows_of(self._db, sql, values)
        except sqlite3.Error as error:
            raise OutboxError(f"the outbox {self._path} cannot be read: {error}") from error


def redrive(path: Path, wanted: Wanted, actions: frozenset[str], now_ms: int, overtaken: bool) -> tuple[int, int]:
    """Make dead letters of these actions due again, with all their retries before them.

    Returns how many, and how many are left alone because the same recipient was told of a later transition of the
    alert: with `overtaken` these too. A running job takes them within seconds, another one at its start, by the
    configuration that it has then. Raises OutboxError.
    """
    where, values = wanted.where()
    known = ", ".join(f":known{n}" for n in range(len(actions)))
    values |= {f"known{n}": name for n, name in enumerate(sorted(actions))} | {"after": 0}
    some = (
        f"SELECT number, alert_id, {_OVERTAKEN} AS overtaken FROM deliveries AS d"
        f" WHERE {where} AND state = 'dead' AND action IN ({known}) AND number > :after ORDER BY number LIMIT {SLICE}"
    )
    again = left = 0
    store = Store(path)
    try:
        while True:
            with store.writing() as db:
                rows = rows_of(db, some, values)
                wanted_rows = [row for row in rows if overtaken or not row["overtaken"]]
                db.executemany(_REDRIVE, [row | {"now": now_ms, "owner": _NOBODY} for row in wanted_rows])
                line_up(db, now_ms, {row["alert_id"] for row in wanted_rows})
            again, left = again + len(wanted_rows), left + len(rows) - len(wanted_rows)
            if len(rows) < SLICE:
                return again, left
            values["after"] = rows[-1]["number"]
    except sqlite3.Error as error:
        raise OutboxError(f"the outbox {path} cannot be written: {error}") from error
    finally:
        store.close()


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
        told=_json(row["body"]),
        reason=row["reason"],
        due_at=iso(row["due_ms"]) if waits else None,
        ended_at=None if row["ended_ms"] is None else iso(row["ended_ms"]),
        last_answer=row["last_answer"],
        history=history,
    )


def _json(body: bytes) -> msgspec.Raw:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return msgspec.Raw(b"null")  # whatever has happened to the file
    return msgspec.Raw(body)
