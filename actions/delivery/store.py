"""The SQLite file under the outbox: how it is opened, what is in it, and its transactions.

OutboxError   the file cannot be used; the text names it and says what to do
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from urllib.parse import quote

from actions.delivery.identity import SCHEMA as ALERTS_SCHEMA

SCHEMA_VERSION = 2

# `due_ms`: when the next attempt may start; BEHIND while an earlier transition of the same alert is still on its way
# to the same recipient. `leased`: an attempt is being made, or its process died meanwhile.
# `scheduled_ms`: when due_ms was set. A row scheduled in the future means that the wall clock stepped back.
# `owner`: the process that put the row or has adopted it, the only one that attempts it.
# `failures`: failed attempts since the target was last seen to work again; they choose the next delay.
# `failing_since_ms`: the first of these failures; 0 if none, or if the target named its own time.
# `releases`: how often the row was made due at once because the target worked again.
# `rule`: whose alert it is; '' for what belongs to no single alert, or to the job itself.
# `urgent`: quiet hours do not hold it back.
# An attempt's row is written with its outcome.
# A flood is open from the first alert that is not told one by one until `ends_ms`, when the suppressed deliveries
# with its reason are summed up.
_DELIVERIES_SCHEMA = """
CREATE TABLE deliveries (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    alert_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    action TEXT NOT NULL,
    recipient TEXT NOT NULL,
    body BLOB NOT NULL,
    made_at_ms INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'dead', 'suppressed')),
    reason TEXT,
    due_ms INTEGER NOT NULL,
    scheduled_ms INTEGER NOT NULL,
    owner TEXT NOT NULL,
    leased INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    failing_since_ms INTEGER NOT NULL DEFAULT 0,
    releases INTEGER NOT NULL DEFAULT 0,
    first_attempt_ms INTEGER,
    last_answer TEXT,
    ended_ms INTEGER,
    rule TEXT NOT NULL DEFAULT '',
    urgent INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX deliveries_due ON deliveries (owner, action, due_ms, number) WHERE state = 'pending';
CREATE INDEX deliveries_scheduled ON deliveries (owner, action, scheduled_ms) WHERE state = 'pending';
CREATE INDEX deliveries_in_line ON deliveries (alert_id, action, recipient, sequence) WHERE state = 'pending';
CREATE INDEX deliveries_of_an_alert ON deliveries (alert_id, sequence);
CREATE INDEX deliveries_ended ON deliveries (ended_ms) WHERE ended_ms IS NOT NULL;
CREATE TABLE targets (
    action TEXT PRIMARY KEY,
    last_success_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

_NOISE_AND_AUDIT_SCHEMA = """
CREATE INDEX deliveries_urgent ON deliveries (owner, action, due_ms, number) WHERE state = 'pending' AND urgent;
CREATE INDEX deliveries_suppressed ON deliveries (action, rule, reason, alert_id) WHERE state = 'suppressed';
CREATE INDEX deliveries_of_a_rule ON deliveries (action, rule, made_at_ms) WHERE state != 'suppressed';
CREATE INDEX deliveries_failing ON deliveries (action, failing_since_ms)
    WHERE state = 'pending' AND failing_since_ms > 0;
CREATE TABLE attempts (
    delivery TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    took_ms INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    answer TEXT NOT NULL,
    PRIMARY KEY (delivery, attempt)
) STRICT, WITHOUT ROWID;
CREATE TABLE floods (
    action TEXT NOT NULL,
    rule TEXT NOT NULL,
    severity TEXT NOT NULL,
    more_than INTEGER NOT NULL,
    began_ms INTEGER NOT NULL,
    ends_ms INTEGER NOT NULL,
    PRIMARY KEY (action, rule)
) STRICT, WITHOUT ROWID;
"""

# From a file of that format to the next one.
_UPGRADES = {
    1: """
ALTER TABLE alerts ADD COLUMN severity TEXT NOT NULL DEFAULT '';
ALTER TABLE alerts ADD COLUMN suppressed TEXT;
ALTER TABLE alerts ADD COLUMN level INTEGER NOT NULL DEFAULT 0;
UPDATE alerts SET severity = 'warning';
ALTER TABLE deliveries ADD COLUMN rule TEXT NOT NULL DEFAULT '';
ALTER TABLE deliveries ADD COLUMN urgent INTEGER NOT NULL DEFAULT 1;
"""
    + _NOISE_AND_AUDIT_SCHEMA,
}


class OutboxError(RuntimeError):
    """The outbox cannot be opened: not a directory, not a database, or written by a newer version."""


class Store:
    """One SQLite database, in a file or (`path` None) in memory, and the lock of its one connection.

    Several processes may have the file open. Within a process one connection with a lock is faster than two
    connections that wait for each other by SQLite's sleeping busy handler.
    """

    def __init__(self, path: Path | None, busy_timeout_ms: int = 3_000) -> None:
        self.path = path
        self._busy_timeout_ms = busy_timeout_ms
        self._lock = RLock()
        try:
            self.db = self._open()
        except (OSError, sqlite3.Error) as error:
            raise OutboxError(f"the outbox {path} cannot be opened: {error}") from error

    def _open(self) -> sqlite3.Connection:
        if self.path is not None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Made here, not by SQLite, so that nobody else can read it for a moment; its helpers copy its mode.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self.path.chmod(0o600)
        db = sqlite3.connect(self.path or ":memory:", isolation_level=None, check_same_thread=False)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute(f"PRAGMA busy_timeout = {self._busy_timeout_ms}")
        self._use_wal(db)
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        version = _version(db, self.path)
        if version == 0:
            _run(db, ALERTS_SCHEMA + _DELIVERIES_SCHEMA + _NOISE_AND_AUDIT_SCHEMA)
        else:
            for older in range(version, SCHEMA_VERSION):
                _run(db, _UPGRADES[older])
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")

    def _use_wal(self, db: sqlite3.Connection) -> None:
        # SQLite does not wait for others while it changes the mode, and processes start together.
        deadline = time.monotonic() + 10
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it on disk when the block is left, or nothing of it. Raises sqlite3.Error."""
        with self._lock:
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
                self.db.execute("COMMIT")
            except BaseException:
                # Some errors (a full disk) have rolled back already.
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection for reads outside of a transaction."""
        with self._lock:
            yield self.db

    def wait_for_others_ms(self, busy_timeout_ms: int) -> None:
        """How long a write waits for other processes before it fails."""
        with self._lock:
            self.db.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")

    def close(self) -> None:
        """Close the connection; what was committed stays."""
        with self._lock:
            self.db.close()


def _run(db: sqlite3.Connection, script: str) -> None:
    # Not executescript, which would commit first.
    for statement in script.split(";"):
        db.execute(statement)


def _version(db: sqlite3.Connection, path: Path | None) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise OutboxError(
            f"the outbox {path} was written by a newer version of tua (format {version}, this one knows "
            f"{SCHEMA_VERSION}): update tua, or move the file away and lose what waits in it"
        )
    return int(version)


def open_to_read(path: Path) -> sqlite3.Connection:
    """The database of an outbox, which is not written to nor locked. Raises OutboxError."""
    if not path.exists():
        raise OutboxError(f"there is no outbox at {path}: the job has not run with this state.directory")
    # The second where not even the helpers of the file can be made: then nobody writes to it.
    for how in ("mode=ro", "mode=ro&immutable=1"):
        try:
            db = sqlite3.connect(f"file:{quote(str(path.absolute()))}?{how}", uri=True, isolation_level=None)
            version = _version(db, path)
            break
        except sqlite3.Error as error:
            problem = error
    else:
        raise OutboxError(f"the outbox {path} cannot be opened: {problem}") from problem
    if version < SCHEMA_VERSION:
        raise OutboxError(f"the outbox {path} is of an older version of tua: the job brings it up to date at its start")
    return db
