"""The outbox: every delivery from the moment its transition is known until it has ended, in one SQLite file.

The file is the queue, the memory of what was told, and the audit trail. A delivery is `pending` until it ends
as `delivered`, `dead` (its dead letter is a delivery of its own, made in the same transaction) or `suppressed`.

A row belongs to the process that put it, its owner; what an owner left that is dead is adopted by another. A row
is leased, in a transaction that also counts the attempt, before the attempt is made, and the lease ends with its
outcome. Only an attempt cut between the recipient's acceptance and the commit of its outcome can be repeated, under
the same delivery id.

Per (alert, action, recipient) deliveries are attempted one at a time, in the order of their sequence.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actions.base import Delivery, delivery_id
from actions.delivery import identity
from actions.delivery.identity import News
from actions.delivery.store import Store
from actions.delivery.topic import DEAD_LETTERS
from detection.transitions import Transition

BEHIND = 2**62
STEPPED_MS = 10_000
KEEP_MS = 30 * 86_400_000

Row = dict[str, Any]


@dataclass(frozen=True)
class Composed:
    """What is to be told of one transition: the alert JSON, and who gets it as (action, recipient)."""

    body: bytes
    to: tuple[tuple[str, str], ...]


Compose = Callable[[News], Composed | None]


@dataclass(frozen=True)
class Leased:
    """A delivery that this process may attempt now. `failures` counts those before; `row` is all that is stored."""

    delivery: Delivery
    failures: int
    first_attempt_ms: int
    row: Row


@dataclass(frozen=True)
class Mark:
    """How an attempt ended.

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


class Outbox:
    """The queue over one Store. Every method may raise sqlite3.Error; then nothing of its work is done.

    `owner` names this process: no two that live may share it. Only rows of its own are leased.
    """

    def __init__(self, store: Store, owner: str) -> None:
        self.store = store
        self._owner = owner

    def put(self, transitions: Iterable[Transition], compose: Compose, now_ms: int) -> int:
        """Store the deliveries of all transitions that are news, in one transaction; how many were replays."""
        replays = 0
        with self.store.writing() as db:
            for transition in transitions:
                news = list(identity.record(db, transition, now_ms))
                replays += not news
                for one in news:
                    composed = compose(one)
                    if composed is None:
                        continue
                    t = one.transition
                    identity.remember(db, t.alert_id, composed.body)
                    for action, recipient in composed.to:
                        self._insert(db, t.alert_id, t.sequence, action, recipient, composed.body, now_ms)
        return replays

    def _insert(
        self,
        db: sqlite3.Connection,
        alert_id: str,
        sequence: int,
        action: str,
        recipient: str,
        body: bytes,
        now_ms: int,
    ) -> None:
        db.execute(
            "INSERT OR IGNORE INTO deliveries"
            " (id, alert_id, sequence, action, recipient, body, made_at_ms, state, due_ms, scheduled_ms, owner)"
            " SELECT :id, :alert_id, :sequence, :action, :recipient, :body, :now, 'pending',"
            "  CASE WHEN EXISTS (SELECT 1 FROM deliveries WHERE state = 'pending' AND alert_id = :alert_id"
            "   AND action = :action AND recipient = :recipient AND sequence < :sequence)"
            "  THEN :behind ELSE :now END, :now, :owner",
            {
                "id": delivery_id(alert_id, sequence, action, recipient),
                "alert_id": alert_id,
                "sequence": sequence,
                "action": action,
                "recipient": recipient,
                "body": body,
                "now": now_ms,
                "behind": BEHIND,
                "owner": self._owner,
            },
        )

    def exchange(self, marks: Sequence[Mark], free: Mapping[str, int], now_ms: int) -> tuple[list[Leased], int | None]:
        """Write the outcomes and lease what is due, at most `free[action]` of each action, in one transaction.

        Returns the leases, oldest first, and when the next row will be due of the actions that have a free place
        (None: none waits).
        Nothing is written where there is nothing to do.
        """
        leases: list[Leased] = []
        with self.store.reading() as db:
            if marks or any(self._due(db, action, 1, now_ms) for action, places in free.items() if places > 0):
                with self.store.writing():
                    for mark in sorted(marks, key=lambda mark: mark.state == "delivered"):
                        self._apply(db, mark, now_ms)
                    for action, places in free.items():
                        if places > 0:
                            leases += [self._lease(db, row, now_ms) for row in self._due(db, action, places, now_ms)]
            return leases, self._next_due(db, [action for action, places in free.items() if places > 0])

    def adopt(self, is_dead: Callable[[str], bool], now_ms: int) -> None:
        """Take over what owners left that are dead; what they had in hand is due now."""
        with self.store.reading() as db:
            others = "SELECT DISTINCT owner FROM deliveries WHERE state = 'pending' AND owner != ?"
            dead = [name for (name,) in db.execute(others, (self._owner,)).fetchall() if is_dead(name)]
            if not dead:
                return
            with self.store.writing():
                db.executemany(
                    "UPDATE deliveries SET due_ms = CASE WHEN leased THEN ? ELSE due_ms END, leased = 0, owner = ?"
                    " WHERE state = 'pending' AND owner = ?",
                    [(now_ms, self._owner, name) for name in dead],
                )

    def strangers(self, known: Iterable[str]) -> list[Leased]:
        """The pending deliveries of this owner for actions that are not among the known ones."""
        with self.store.reading() as db:
            names = list(known)
            places = ", ".join("?" * len(names))
            sql = f"SELECT * FROM deliveries WHERE state = 'pending' AND owner = ? AND action NOT IN ({places})"
            return [as_leased(row) for row in rows_of(db, sql, (self._owner, *names))]

    def actions_of(self, alert_id: str) -> list[str]:
        """The actions that an alert was told to before."""
        with self.store.reading() as db:
            rows = db.execute(
                "SELECT action FROM deliveries WHERE alert_id = ? GROUP BY action ORDER BY MIN(number)", (alert_id,)
            )
            return [name for (name,) in rows.fetchall()]

    def pending(self) -> int:
        """How many deliveries have not ended, whoever owns them."""
        with self.store.reading() as db:
            return int(db.execute("SELECT COUNT(*) FROM deliveries WHERE state = 'pending'").fetchone()[0])

    def purge(self, now_ms: int) -> None:
        """Forget what ended long ago: deliveries, and alerts that are over with their aliases."""
        before = (now_ms - KEEP_MS,)
        with self.store.writing() as db:
            db.execute("DELETE FROM deliveries WHERE ended_ms < ?", before)
            db.execute("DELETE FROM alerts WHERE resolved AND changed_ms < ?", before)
            db.execute("DELETE FROM aliases WHERE alert_id NOT IN (SELECT id FROM alerts)")

    def _due(self, db: sqlite3.Connection, action: str, places: int, now_ms: int) -> list[Row]:
        rows = self._free(db, action, "due_ms <= ? ORDER BY due_ms, number LIMIT ?", (now_ms, places))
        if len(rows) < places:
            # Scheduled in the future: the clock stepped back, and what it was to wait for may be an hour away.
            stepped = (now_ms + STEPPED_MS, places - len(rows))
            rows += self._free(db, action, f"scheduled_ms > ? AND due_ms < {BEHIND} LIMIT ?", stepped)
        return list({row["id"]: row for row in rows}.values())

    def _free(self, db: sqlite3.Connection, action: str, condition: str, values: Sequence[int]) -> list[Row]:
        return rows_of(
            db,
            "SELECT * FROM deliveries AS d WHERE state = 'pending' AND owner = ? AND action = ? AND NOT leased"
            " AND NOT EXISTS (SELECT 1 FROM deliveries WHERE state = 'pending' AND alert_id = d.alert_id"
            f"  AND action = d.action AND recipient = d.recipient AND sequence < d.sequence) AND {condition}",
            (self._owner, action, *values),
        )

    def _lease(self, db: sqlite3.Connection, row: Row, now_ms: int) -> Leased:
        row |= {
            "leased": 1,
            "attempts": row["attempts"] + 1,
            "first_attempt_ms": now_ms if row["first_attempt_ms"] is None else row["first_attempt_ms"],
        }
        db.execute(
            "UPDATE deliveries SET leased = 1, attempts = :attempts, first_attempt_ms = :first_attempt_ms"
            " WHERE number = :number",
            row,
        )
        return as_leased(row)

    def _next_due(self, db: sqlite3.Connection, actions: Iterable[str]) -> int | None:
        dues = [
            db.execute(
                "SELECT due_ms FROM deliveries WHERE state = 'pending' AND owner = ? AND action = ? AND NOT leased"
                " ORDER BY due_ms LIMIT 1",
                (self._owner, action),
            ).fetchone()
            for action in actions
        ]
        return min((row[0] for row in dues if row is not None), default=None)

    def _apply(self, db: sqlite3.Connection, mark: Mark, now_ms: int) -> None:
        delivery = mark.leased.delivery
        if mark.state == "waits":
            db.execute(
                "UPDATE deliveries SET leased = 0, due_ms = ?, scheduled_ms = ?, failures = failures + 1,"
                " failing_since_ms = CASE WHEN ? THEN 0 WHEN failures = 0 THEN ? ELSE failing_since_ms END,"
                " last_answer = ? WHERE id = ? AND state = 'pending' AND leased",
                (now_ms + mark.delay_ms, now_ms, mark.asked, now_ms, mark.answer, delivery.id),
            )
            return
        ended = db.execute(
            "UPDATE deliveries SET state = ?, leased = 0, reason = ?, last_answer = ?, ended_ms = ?"
            " WHERE id = ? AND state = 'pending'",
            (mark.state, mark.reason, mark.answer, now_ms, delivery.id),
        )
        if not ended.rowcount:
            return
        db.execute(
            "UPDATE deliveries SET due_ms = ? WHERE due_ms = ? AND number = ("
            " SELECT number FROM deliveries WHERE state = 'pending' AND alert_id = ? AND action = ? AND recipient = ?"
            " ORDER BY sequence LIMIT 1)",
            (now_ms, BEHIND, delivery.alert_id, delivery.action, delivery.recipient),
        )
        if mark.state == "delivered":
            self._release(db, delivery.action, now_ms)
        elif mark.dead_letter is not None:
            # The recipient of a dead letter is the delivery it was, so that each has its own.
            self._insert(db, delivery.alert_id, delivery.sequence, DEAD_LETTERS, delivery.id, mark.dead_letter, now_ms)

    def _release(self, db: sqlite3.Connection, action: str, now_ms: int) -> None:
        """A target works: what waits for it is due at once.

        Due are those whose failures began after the last success, which were thus failures of the target. One
        that fails among successes is alone with its trouble and keeps to its delays; and each release of a row
        costs one more failure than the last, or a target that fails now and then would be hammered.
        """
        last = db.execute("SELECT last_success_ms FROM targets WHERE action = ?", (action,)).fetchone()
        db.execute(
            "UPDATE deliveries SET due_ms = :now, scheduled_ms = :now, failures = 0, failing_since_ms = 0,"
            " releases = releases + 1 WHERE state = 'pending' AND action = :action AND NOT leased"
            f" AND due_ms > :now AND due_ms < {BEHIND} AND failures > releases AND failing_since_ms >= :last"
            " AND failing_since_ms > 0",
            {"now": now_ms, "action": action, "last": last[0] if last else 0},
        )
        db.execute("INSERT OR REPLACE INTO targets (action, last_success_ms) VALUES (?, ?)", (action, now_ms))


def line_up(db: sqlite3.Connection, now_ms: int) -> None:
    """Put every waiting row behind the earlier ones of its alert, and let the first of each line go."""
    earlier = (
        "EXISTS (SELECT 1 FROM deliveries WHERE state = 'pending' AND alert_id = d.alert_id"
        " AND action = d.action AND recipient = d.recipient AND sequence < d.sequence)"
    )
    db.execute(f"UPDATE deliveries AS d SET due_ms = {BEHIND} WHERE state = 'pending' AND NOT leased AND {earlier}")
    db.execute(
        f"UPDATE deliveries AS d SET due_ms = ? WHERE state = 'pending' AND due_ms = {BEHIND} AND NOT {earlier}",
        (now_ms,),
    )


def as_leased(row: Row) -> Leased:
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
    return Leased(delivery, row["failures"], row["first_attempt_ms"] or 0, row)


def rows_of(db: sqlite3.Connection, sql: str, values: Sequence[object] = ()) -> list[Row]:
    """The rows of a query, each as a dict of its columns."""
    cursor = db.execute(sql, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
