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
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import msgspec

from actions import metrics
from actions.base import delivery_id
from actions.delivery import housekeeping, identity, noise
from actions.delivery.housekeeping import BEHIND, EARLIER, SLICE
from actions.delivery.identity import News
from actions.delivery.records import Compose, Composed, DeliveryName, Leased, Mark, Places, Row, as_leased, rows_of
from actions.delivery.store import Store
from actions.delivery.topic import DEAD_LETTERS
from detection.transitions import Transition

STEPPED_MS = 10_000
KEEP_ATTEMPTS = 50


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
                    if (composed := compose(one)) is not None:
                        self._put(db, one, composed, now_ms)
        return replays

    def _put(self, db: sqlite3.Connection, news: News, composed: Composed, now_ms: int) -> None:
        t = news.transition
        identity.remember(db, t.alert_id, composed.body)
        cooled = noise.cooled(
            db,
            news,
            composed.severity,
            composed.cooldown,
            lambda alert: self._lift(db, alert, composed.severity, now_ms),
        )
        for to in composed.to:
            reason = cooled if to.people else None
            if reason is None and to.flood is not None:
                reason = noise.flooded(db, t, composed.severity, to.action, to.flood, now_ms)
            for recipient in to.recipients:
                name = DeliveryName(t.alert_id, t.sequence, to.action, recipient)
                self._insert(db, name, composed.body, now_ms, t.rule, composed.severity, reason)

    def _lift(self, db: sqlite3.Connection, alert_id: str, severity: str, now_ms: int) -> None:
        """An alert that a cooldown suppressed is told after all: from the first message that each would have got."""
        db.execute(
            "UPDATE deliveries AS d SET state = 'pending', reason = NULL, ended_ms = NULL, due_ms = :now,"
            " scheduled_ms = :now, owner = :owner, urgent = :urgent"
            " WHERE alert_id = :alert AND state = 'suppressed' AND reason LIKE 'cooldown %' AND sequence = ("
            "  SELECT MIN(sequence) FROM deliveries"
            "  WHERE alert_id = d.alert_id AND action = d.action AND recipient = d.recipient)",
            {"now": now_ms, "owner": self._owner, "alert": alert_id, "urgent": severity == "critical"},
        )

    def sum_up(self, recipients: Callable[[str], Sequence[str]], now_ms: int) -> bool:
        """Store the summary of one flood that is over, for the recipients of its action; whether there was one."""
        with self.store.reading() as db:
            if noise.over(db, now_ms) is None:
                return False
            with self.store.writing():
                if (flood := noise.over(db, now_ms)) is None:
                    return False
                action, rule = flood
                if (summary := noise.sum_up(db, action, rule, now_ms)) is not None:
                    for recipient in recipients(action):
                        name = DeliveryName(summary.id, 1, action, recipient)
                        self._insert(db, name, summary.to_json(), now_ms, severity=summary.severity)
        return True

    def _insert(
        self,
        db: sqlite3.Connection,
        name: DeliveryName,
        body: bytes,
        now_ms: int,
        rule: str = "",
        severity: str = "critical",
        suppressed: str | None = None,
    ) -> None:
        """`suppressed` is the reason for not telling it at all."""
        state, ended_ms = ("pending", None) if suppressed is None else ("suppressed", now_ms)
        db.execute(
            "INSERT OR IGNORE INTO deliveries (id, alert_id, sequence, action, recipient, body, made_at_ms, state,"
            " reason, ended_ms, due_ms, scheduled_ms, owner, rule, urgent)"
            " SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10,"
            "  CASE WHEN EXISTS (SELECT 1 FROM deliveries WHERE state = 'pending' AND alert_id = ?2 AND action = ?4"
            f"  AND recipient = ?5 AND sequence < ?3) THEN {BEHIND} ELSE ?7 END, ?7, ?11, ?12, ?13",
            (
                *(delivery_id(*name), *name, body, now_ms, state, suppressed, ended_ms),
                *(self._owner, rule, severity == "critical"),
            ),
        )
        if suppressed is not None:
            metrics.SUPPRESSED.labels(name.action, suppressed.partition(" ")[0]).inc()

    def exchange(self, marks: Sequence[Mark], places: Sequence[Places], now_ms: int) -> tuple[list[Leased], int | None]:
        """Write the outcomes and lease what is due, as much as there are free places, in one transaction.

        Returns the leases, oldest first, and when the next row will be due of the actions that have a free place
        (None: none waits).
        Nothing is written where there is nothing to do.
        """
        leases: list[Leased] = []
        open_ = [one for one in places if one.free > 0]
        with self.store.reading() as db:
            if not marks and not self._due(db, [replace(one, free=1) for one in open_], now_ms):
                return leases, self._next_due(db, open_)
            with self.store.writing():
                self._write_down(db, marks, now_ms)
                self._deliver(db, [mark for mark in marks if mark.state == "delivered"], now_ms)
                for mark in marks:
                    if mark.state != "delivered":
                        self._apply(db, mark, now_ms)
                self._release(db, {mark.leased.delivery.action for mark in marks if mark.state == "delivered"}, now_ms)
                leases = self._lease(db, self._due(db, open_, now_ms), now_ms)
                # Within the transaction: were it to fail afterwards, the leases would be there and nobody's.
                next_due_ms = self._next_due(db, open_)
        return leases, next_due_ms

    def adopt(self, is_dead: Callable[[str], bool], now_ms: int) -> bool:
        """Take over some of what dead owners left; what they had in hand is due now. Whether there was any."""
        with self.store.reading() as db:
            others = "SELECT DISTINCT owner FROM deliveries WHERE state = 'pending' AND owner != ?"
            dead = [name for (name,) in db.execute(others, (self._owner,)).fetchall() if is_dead(name)]
            if not dead:
                return False
            with self.store.writing():
                for name in dead:
                    housekeeping.adopt(db, name, self._owner, now_ms)
        return True

    def purge(self, retention_ms: int, now_ms: int) -> bool:
        """Forget some of what ended longer ago than that; whether there was any."""
        with self.store.writing() as db:
            return housekeeping.purge(db, retention_ms, now_ms)

    def strangers(self, known: Iterable[str]) -> list[Leased]:
        """Some of the pending deliveries of this owner for actions that are not among the known ones."""
        with self.store.reading() as db:
            names = list(known)
            places = ", ".join("?" * len(names))
            sql = f"SELECT * FROM deliveries WHERE state = 'pending' AND owner = ? AND action NOT IN ({places}) LIMIT ?"
            return [as_leased(row) for row in rows_of(db, sql, (self._owner, *names, SLICE))]

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

    # What follows is asked of all actions in one statement: at each one the thread lets go of the interpreter, and
    # beside a busy flow it is milliseconds until it has it again.

    def _due(self, db: sqlite3.Connection, places: Sequence[Places], now_ms: int) -> list[Row]:
        """What may be attempted now, oldest first, for each action at most as much as it has places."""
        some = (
            f"SELECT * FROM (SELECT * FROM deliveries AS d WHERE {_PENDING} AND NOT leased AND NOT {EARLIER} AND"
            " due_ms <= ? ORDER BY due_ms, number LIMIT ?)"
            # Scheduled in the future: the clock stepped back, and what it was to wait for may be an hour away.
            f" UNION ALL SELECT * FROM (SELECT * FROM deliveries AS d WHERE {_PENDING} AND NOT leased AND NOT {EARLIER}"
            f" AND scheduled_ms > ? AND due_ms < {BEHIND} LIMIT ?)"
        )
        values: list[object] = []
        for one in places:
            whose = (self._owner, one.action)
            values += [*whose, now_ms, one.free, *whose, now_ms + STEPPED_MS, one.free]
        rows = _of_all(db, some, places, values)
        free = {one.action: one.free for one in places}
        found = {}
        for row in rows:
            if row["id"] not in found and free[row["action"]]:
                free[row["action"]] -= 1
                found[row["id"]] = row
        return list(found.values())

    def _lease(self, db: sqlite3.Connection, rows: Sequence[Row], now_ms: int) -> list[Leased]:
        if not rows:
            return []
        for row in rows:
            row["leased"], row["attempts"] = 1, row["attempts"] + 1
            if row["first_attempt_ms"] is None:
                row["first_attempt_ms"] = now_ms
        db.execute(
            "UPDATE deliveries SET leased = 1, attempts = attempts + 1,"
            " first_attempt_ms = COALESCE(first_attempt_ms, ?) WHERE number IN (SELECT value FROM json_each(?))",
            (now_ms, _json([row["number"] for row in rows])),
        )
        return [as_leased(row, now_ms) for row in rows]

    def _next_due(self, db: sqlite3.Connection, places: Sequence[Places]) -> int | None:
        first = f"SELECT * FROM (SELECT due_ms FROM deliveries WHERE {_PENDING} AND NOT leased ORDER BY due_ms LIMIT 1)"
        rows = _of_all(db, first, places, [value for one in places for value in (self._owner, one.action)])
        return min((int(row["due_ms"]) for row in rows), default=None)

    def _deliver(self, db: sqlite3.Connection, marks: Sequence[Mark], now_ms: int) -> None:
        """End what was delivered, and let what waited for it go."""
        if not marks:
            return
        answers = {mark.leased.delivery.id: mark.answer for mark in marks}
        db.execute(
            "UPDATE deliveries AS d SET state = 'delivered', leased = 0, reason = NULL, last_answer = said.value,"
            " ended_ms = ? FROM json_each(?) AS said WHERE d.id = said.key AND state = 'pending'",
            (now_ms, _json(answers)),
        )
        db.execute(
            f"UPDATE deliveries SET due_ms = ? WHERE due_ms = {BEHIND} AND number IN ("
            " SELECT (SELECT number FROM deliveries WHERE state = 'pending' AND alert_id = d.alert_id"
            "  AND action = d.action AND recipient = d.recipient ORDER BY sequence LIMIT 1)"
            " FROM deliveries AS d WHERE id IN (SELECT value FROM json_each(?)))",
            (now_ms, _json(list(answers))),
        )

    def _apply(self, db: sqlite3.Connection, mark: Mark, now_ms: int) -> None:
        delivery = mark.leased.delivery
        if mark.state == "waits":
            # Behind an earlier one, which may have been redriven meanwhile.
            db.execute(
                f"UPDATE deliveries AS d SET leased = 0, due_ms = CASE WHEN {EARLIER} THEN {BEHIND} ELSE ? END,"
                " scheduled_ms = ?, failures = failures + 1,"
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
        if mark.dead_letter is not None:
            # The recipient of a dead letter is the delivery it was, and at which attempt: each has its own, and
            # a delivery that is redriven may have another one.
            of = f"{delivery.id}/{delivery.attempt}"
            name = DeliveryName(delivery.alert_id, delivery.sequence, DEAD_LETTERS, of)
            self._insert(db, name, mark.dead_letter, now_ms)

    def _write_down(self, db: sqlite3.Connection, marks: Iterable[Mark], now_ms: int) -> None:
        """The attempts, for the audit. Of one that is repeated for ever the last ones are kept."""
        attempts = []
        for mark in marks:
            delivery, began_ms = mark.leased.delivery, mark.leased.began_ms
            if began_ms is None:
                continue
            outcome = {"delivered": "delivered", "waits": "retry"}.get(mark.state, mark.reason)
            took_ms = max(0, now_ms - began_ms)
            attempts.append((delivery.id, delivery.attempt, began_ms, took_ms, outcome, mark.answer))
            if delivery.attempt > KEEP_ATTEMPTS:
                too_old = (delivery.id, delivery.attempt - KEEP_ATTEMPTS)
                db.execute("DELETE FROM attempts WHERE delivery = ? AND attempt <= ?", too_old)
        db.executemany("INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?)", attempts)

    def _release(self, db: sqlite3.Connection, actions: Collection[str], now_ms: int) -> None:
        """These targets work: what waits for them is due at once.

        Due are those whose failures began after the last success, which were thus failures of the target. One
        that fails among successes is alone with its trouble and keeps to its delays; and each release of a row
        costs one more failure than the last, or a target that fails now and then would be hammered.
        """
        if not actions:
            return
        names = _json(list(actions))
        db.execute(
            "UPDATE deliveries AS d SET due_ms = :now, scheduled_ms = :now, failures = 0, failing_since_ms = 0,"
            " releases = releases + 1 WHERE state = 'pending' AND action IN (SELECT value FROM json_each(:actions))"
            f" AND NOT leased AND due_ms > :now AND due_ms < {BEHIND} AND failures > releases AND failing_since_ms > 0"
            " AND failing_since_ms >="
            "  COALESCE((SELECT last_success_ms FROM targets AS t WHERE t.action = d.action), 0)",
            {"now": now_ms, "actions": names},
        )
        db.execute("INSERT OR REPLACE INTO targets SELECT value, ? FROM json_each(?)", (now_ms, names))


_PENDING = "state = 'pending' AND owner = ? AND action = ? AND :urgent"


def _of_all(db: sqlite3.Connection, sql: str, places: Sequence[Places], values: Sequence[object]) -> list[Row]:
    """The rows of a query for each of the places, in one statement. Its `:urgent` is put in here."""
    parts = [sql.replace(":urgent", "urgent" if one.quiet else "1") for one in places]
    return rows_of(db, " UNION ALL ".join(parts), values) if parts else []


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
