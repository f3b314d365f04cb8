"""The outbox that goes on when its disk does not: a spare one in memory takes over until the file is mended.

The spare has the same schema and the same code. While it is in use, new transitions go into it, and what this
process left in the file (as far as that can be read) is copied into it at once, so that retries go on too.
The file is tried again every other second; once it can be written, everything in the spare is moved there in
one transaction, with the state each row has by then. A crash in the meantime loses what is in memory: the
flow's replay brings back an epoch of it, which is why the source pauses when the spare is full. What has ended
stays in the spare too, for it is the memory of what was told, and counts as much.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import TypeVar

import structlog

from actions import metrics
from actions.delivery import noise
from actions.delivery.housekeeping import line_up
from actions.delivery.identity import key_text
from actions.delivery.outbox import Outbox
from actions.delivery.owner import Owner
from actions.delivery.records import Compose, Leased, Mark, Places, Row, rows_of
from actions.delivery.store import OutboxError, Store
from detection.transitions import Transition

_log = structlog.get_logger()

MEND_EVERY_MS = 2_000
SAY_EVERY_MS = 60_000
BUSY_MS = 3_000
PATIENCE = 10  # times BUSY_MS
T = TypeVar("T")


class SafeOutbox:
    """An Outbox in the file `path` whose methods do not raise for trouble with the disk.

    Opening it does raise OutboxError: at the start a person is there to mend it. It takes over what dead processes
    left. `now_ms` is the wall clock; the spare is `full` with more than `bound` deliveries in it.
    """

    def __init__(self, path: Path, now_ms: Callable[[], int], bound: int = 10_000) -> None:
        store = Store(path, BUSY_MS)
        try:
            self._owner = Owner(path.parent / "owners")
        except OSError as error:
            store.close()
            raise OutboxError(f"the directory {path.parent / 'owners'} cannot be used: {error}") from error
        self._file = Outbox(store, self._owner.name)
        self._spare: Outbox | None = None
        self._now_ms = now_ms
        self._bound = bound
        self._in_spare = 0
        self._uncopied = False  # what is in the file is not in the spare yet
        self._copied = 0  # the last number in the spare that is a copy from the file
        self._closed = False
        self._tried_ms = self._said_ms = 0
        self._in_flight: set[str] = set()  # what was leased and whose outcome has not come back
        self._floods: list[Row] = []  # those that the spare began with
        self._lock = RLock()
        while self.adopt():
            pass

    @property
    def full(self) -> bool:
        """Whether as much waits in memory as may."""
        return self._in_spare > self._bound

    @property
    def in_trouble(self) -> bool:
        """Whether the file cannot be written at the moment."""
        return self._spare is not None

    def put(self, transitions: Sequence[Transition], compose: Compose) -> int:
        """Outbox.put; durable when it returns, unless in_trouble."""
        now_ms = self._now_ms()
        return self._do(
            lambda file: file.put(transitions, compose, now_ms),
            lambda spare: spare.put(transitions, compose, now_ms),
            lambda spare: self._copy_alerts(spare, transitions),
        )

    def exchange(self, marks: Sequence[Mark], places: Sequence[Places]) -> tuple[list[Leased], int | None]:
        """Outbox.exchange."""
        now_ms = self._now_ms()
        leases, next_due_ms = self._do(
            lambda file: file.exchange(marks, places, now_ms),
            lambda spare: spare.exchange(marks, places, now_ms),
            lambda spare: _add(spare, (mark.leased for mark in marks)),
        )
        self._in_flight -= {mark.leased.delivery.id for mark in marks}
        self._in_flight |= {leased.delivery.id for leased in leases}
        return leases, next_due_ms

    def sum_up(self, recipients: Callable[[str], Sequence[str]]) -> bool:
        """Outbox.sum_up."""
        now_ms = self._now_ms()
        return self._do(lambda file: file.sum_up(recipients, now_ms), lambda spare: spare.sum_up(recipients, now_ms))

    def adopt(self) -> bool:
        """Outbox.adopt. While the disk is in trouble others' rows stay theirs."""
        now_ms = self._now_ms()
        return self._do(lambda file: file.adopt(self._owner.is_dead, now_ms), lambda _: False)

    def purge(self, retention_ms: int) -> bool:
        """Outbox.purge."""
        now_ms = self._now_ms()
        return self._do(lambda file: file.purge(retention_ms, now_ms), lambda _: False)

    def strangers(self, known: Iterable[str]) -> list[Leased]:
        """Outbox.strangers."""
        return self._do(lambda file: file.strangers(known), lambda spare: spare.strangers(known))

    def actions_of(self, alert_id: str) -> list[str]:
        """Outbox.actions_of, as far as it can be read."""
        names: list[str] = []
        for outbox in (self._file, self._spare):
            if outbox is not None:
                with suppress(sqlite3.Error):
                    names += outbox.actions_of(alert_id)
        return list(dict.fromkeys(names))

    def pending(self) -> int:
        """How many deliveries have not ended."""
        return self._do(lambda file: file.pending(), lambda spare: spare.pending())

    def close(self) -> None:
        """A last attempt to save what is in memory; says what is lost if that fails. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._spare is not None and not self._mend(self._spare):
                pending = self._spare.pending()
                _log.error("The outbox still cannot be written, deliveries in memory are lost", pending=pending)
            self._file.store.close()
            if self._spare is not None:
                self._spare.store.close()
            self._owner.close()

    def _do(
        self,
        on_file: Callable[[Outbox], T],
        on_spare: Callable[[Outbox], T],
        prepare: Callable[[Outbox], None] = lambda _: None,
    ) -> T:
        with self._lock:
            if self._spare is not None and self._time_to_mend() and self._mend(self._spare):
                self._spare.store.close()
                self._spare = None
                self._in_spare = self._copied = 0
            if self._spare is None:
                try:
                    return self._patiently(on_file)
                except sqlite3.Error as error:
                    self._spare = self._open_spare(error)
            if self._uncopied:
                self._copy_pending(self._spare)
            prepare(self._spare)
            result = on_spare(self._spare)
            with self._spare.store.reading() as memory:
                made = memory.execute("SELECT COUNT(*) FROM deliveries WHERE number > ?", (self._copied,))
                (self._in_spare,) = made.fetchone()
            return result

    def _patiently(self, on_file: Callable[[Outbox], T]) -> T:
        """That another process holds the file for long is no trouble with the disk, and put must not lean on memory."""
        for _ in range(PATIENCE - 1):
            try:
                return on_file(self._file)
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                _log.warning("Another process holds the outbox; waiting for it", file=str(self._file.store.path))
        return on_file(self._file)

    def _open_spare(self, error: sqlite3.Error) -> Outbox:
        _log.error(
            "The outbox cannot be written; deliveries go on from memory until it can",
            file=str(self._file.store.path),
            error=str(error),
        )
        self._tried_ms = self._said_ms = self._now_ms()
        metrics.OUTBOX_IN_TROUBLE.set(1)
        with suppress(sqlite3.Error):
            self._file.store.wait_for_others_ms(50)
        spare = Outbox(Store(None), self._owner.name)
        self._floods = []
        self._uncopied = True
        return spare

    def _time_to_mend(self) -> bool:
        return abs(self._now_ms() - self._tried_ms) >= MEND_EVERY_MS

    def _mend(self, spare: Outbox) -> bool:
        """Move everything from the spare to the file; whether that worked."""
        self._tried_ms = self._now_ms()
        try:
            with spare.store.reading() as memory, self._file.store.writing() as file:
                for row in rows_of(memory, "SELECT * FROM aliases"):
                    _insert(file, "aliases", row, "ON CONFLICT (id) DO UPDATE SET alert_id = excluded.alert_id")
                for row in rows_of(memory, "SELECT * FROM targets"):
                    success = "ON CONFLICT (action) DO UPDATE SET last_success_ms = excluded.last_success_ms"
                    _insert(file, "targets", row, success)
                for row in rows_of(memory, "SELECT * FROM attempts"):
                    _insert(file, "attempts", row, "ON CONFLICT DO NOTHING")
                # What became of the floods that it knew was decided here.
                for row in self._floods:
                    known = "DELETE FROM floods WHERE action = :action AND rule = :rule AND began_ms = :began_ms"
                    file.execute(known, row)
                for row in rows_of(memory, "SELECT * FROM floods"):
                    _insert(file, "floods", row, "ON CONFLICT DO NOTHING")
                for row in rows_of(memory, "SELECT * FROM alerts ORDER BY number"):
                    _insert(file, "alerts", _bare(row), _update("id", row, "excluded.sequence >= alerts.sequence"))
                own = "SELECT * FROM deliveries WHERE owner = ? ORDER BY number"
                for row in rows_of(memory, own, (self._owner.name,)):
                    _insert(file, "deliveries", _bare(row), _update("id", row, "deliveries.state = 'pending'"))
                # What the spare did not know, because the file could not be read.
                _end_leases(file, self._owner.name, self._in_flight, self._now_ms())
                line_up(file, self._now_ms())
            self._file.store.wait_for_others_ms(BUSY_MS)
        except sqlite3.Error as error:
            if abs(self._tried_ms - self._said_ms) >= SAY_EVERY_MS:
                self._said_ms = self._tried_ms
                _log.error("The outbox still cannot be written", error=str(error), in_memory=self._in_spare)
            return False
        metrics.OUTBOX_IN_TROUBLE.set(0)
        _log.warning("The outbox can be written again; what was in memory is saved", file=str(self._file.store.path))
        return True

    def _copy_alerts(self, spare: Outbox, transitions: Sequence[Transition]) -> None:
        """What the file knows of the alerts of these transitions, so that ids, sequences and their order go on.

        A delivery of such an alert that still waits in the file holds back the later ones, also another process's;
        and what became of the earlier ones decides what becomes of the later.
        """
        keys = {(t.rule, t.rule_version, key_text(t)) for t in transitions}
        with suppress(sqlite3.Error), self._file.store.reading() as file, spare.store.writing() as memory:
            for key in keys:
                of_key = "SELECT * FROM alerts WHERE rule = ? AND version = ? AND key = ? ORDER BY number"
                for alert in rows_of(file, of_key, key):
                    _insert(memory, "alerts", _bare(alert), "ON CONFLICT DO NOTHING")
                    for alias in rows_of(file, "SELECT * FROM aliases WHERE alert_id = ?", (alert["id"],)):
                        _insert(memory, "aliases", alias, "ON CONFLICT DO NOTHING")
                    told = "SELECT * FROM deliveries WHERE alert_id = ? ORDER BY number"
                    for row in rows_of(file, told, (alert["id"],)):
                        _insert(memory, "deliveries", _bare(row), "ON CONFLICT DO NOTHING")

    def _copy_pending(self, spare: Outbox) -> None:
        """What this process left in the file or is attempting, as much of it as memory may hold."""
        with suppress(sqlite3.Error), self._file.store.reading() as file, spare.store.writing() as memory:
            own = "SELECT * FROM deliveries WHERE state = 'pending' AND owner = ? ORDER BY number LIMIT ?"
            for row in rows_of(file, own, (self._owner.name, self._bound)):
                _insert(memory, "deliveries", _bare(row), "ON CONFLICT DO NOTHING")
            _end_leases(memory, self._owner.name, self._in_flight, self._now_ms())
            self._floods = rows_of(file, "SELECT * FROM floods")
            for row in self._floods:
                _insert(memory, "floods", row, "ON CONFLICT DO NOTHING")
                self._copy_flood(file, memory, row)
            self._uncopied = False
            self._copied = memory.execute("SELECT COALESCE(MAX(number), 0) FROM deliveries").fetchone()[0]

    def _copy_flood(self, file: sqlite3.Connection, memory: sqlite3.Connection, flood: Row) -> None:
        """What it has suppressed so far, to be summed up."""
        some = "state = 'suppressed' AND action = ? AND rule = ? AND reason = ? LIMIT ?"
        values = (flood["action"], flood["rule"], noise.flood_reason(flood["began_ms"]), self._bound)
        for row in rows_of(file, f"SELECT * FROM deliveries WHERE {some}", values):
            _insert(memory, "deliveries", _bare(row), "ON CONFLICT DO NOTHING")
        alerts = f"SELECT * FROM alerts WHERE id IN (SELECT alert_id FROM deliveries WHERE {some})"
        for row in rows_of(file, alerts, values):
            _insert(memory, "alerts", _bare(row), "ON CONFLICT DO NOTHING")


def _add(spare: Outbox, leases: Iterable[Leased]) -> None:
    """Attempts that began before the trouble have rows in the spare even where the file could not be read."""
    with spare.store.writing() as memory:
        for leased in leases:
            _insert(memory, "deliveries", _bare(leased.row), "ON CONFLICT DO NOTHING")


def _end_leases(db: sqlite3.Connection, owner: str, in_flight: set[str], now_ms: int) -> None:
    """A lease may be in the file of which nobody was told, where its transaction failed at its very end."""
    leased = db.execute("SELECT id FROM deliveries WHERE state = 'pending' AND owner = ? AND leased", (owner,))
    lost = [(now_ms, id_) for (id_,) in leased.fetchall() if id_ not in in_flight]
    db.executemany("UPDATE deliveries SET leased = 0, due_ms = ? WHERE id = ?", lost)


def _bare(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "number"}


def _insert(db: sqlite3.Connection, table: str, row: Row, conflict: str) -> None:
    names = ", ".join(row)
    values = ", ".join(f":{name}" for name in row)
    db.execute(f"INSERT INTO {table} ({names}) VALUES ({values}) {conflict}", row)


def _update(key: str, row: Row, condition: str) -> str:
    settings = ", ".join(f"{name} = excluded.{name}" for name in _bare(row) if name != key)
    return f"ON CONFLICT ({key}) DO UPDATE SET {settings} WHERE {condition}"
