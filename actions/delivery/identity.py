"""Which transitions are news: the outbox knows what was told, detection may tell it again after a crash.

After `kill -9` up to an epoch of records is read again. Detection then repeats transitions: with the same ids
where a key's events lie in one partition, else perhaps with other ids and in another order, because partitions
interleave differently. So ids and sequence numbers are settled here, by facts and never by detection's numbers:

- Two alerts of one rule, version and key never overlap in one run; detection joins them. So a transition of an
  unknown id whose episode overlaps or touches a recorded alert speaks of that alert, under another name. The
  name is kept as an alias.
- A transition is news when it says something the record does not: an episode that is not known or goes on
  after it was told to be over, a higher peak, an end that was not told.
- A recorded alert that turns out to be part of another one's episode ends as merged into it.

What is recorded of an episode only grows (detection never takes back a breach), and what is told is the union
of the record and the transition. All of it happens inside the transaction that stores the deliveries.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from detection.transitions import Transition

# `severity`, `suppressed` (why nobody is told of the alert; NULL if somebody is) and `level` (how often the cooldown
# before it had doubled) are kept by noise.py.
SCHEMA = """
CREATE TABLE alerts (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    rule TEXT NOT NULL,
    version TEXT NOT NULL,
    key TEXT NOT NULL,
    opened_at_ms INTEGER NOT NULL,
    resolves_at_ms INTEGER NOT NULL,
    peak INTEGER NOT NULL,
    peak_exact INTEGER NOT NULL,
    events INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    resolved INTEGER NOT NULL,
    body BLOB NOT NULL,
    changed_ms INTEGER NOT NULL,
    severity TEXT NOT NULL DEFAULT '',
    suppressed TEXT,
    level INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX alerts_of_a_key ON alerts (rule, version, key, resolves_at_ms);
CREATE TABLE aliases (
    id TEXT PRIMARY KEY,
    alert_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX aliases_of_an_alert ON aliases (alert_id);
"""

_COLUMNS = (
    "alerts.id, alerts.opened_at_ms, alerts.resolves_at_ms, alerts.peak, alerts.peak_exact, alerts.events,"
    " alerts.sequence, alerts.resolved, alerts.body"
)


@dataclass(frozen=True)
class Recorded:
    """What was told of an alert. `body` is the alert JSON told last (empty until it is known)."""

    id: str
    opened_at_ms: int
    resolves_at_ms: int
    peak: int
    peak_exact: int
    events: int
    sequence: int
    resolved: int
    body: bytes


@dataclass(frozen=True)
class News:
    """A transition to be told, under its final id, sequence and facts.

    `previous` is the alert JSON told before (empty if none): all that is known of a rule that is gone. `is_first`:
    nothing was recorded of the alert.
    """

    transition: Transition
    previous: bytes
    is_first: bool = False


def record(db: sqlite3.Connection, transition: Transition, now_ms: int) -> Iterator[News]:
    """Judge one transition by what is recorded and record it; yields what is to be told, in order.

    `db` must be inside a writing transaction. Nothing is yielded for a replay.
    """
    known_as, recorded = _known(db, transition.alert_id)
    into = None if transition.merged_into is None else _canonical(db, transition.merged_into)
    if recorded is None and (same := _overlapping(db, transition)):
        recorded = same[0]
        known_as = recorded.id
        _alias(db, transition.alert_id, known_as)
    if known_as == into:
        return
    transition = replace(transition, alert_id=known_as, merged_into=into)
    told = _judge(transition, recorded)
    facts = transition if recorded is None else _united(transition, recorded)
    if into is not None:
        _alias(db, known_as, into)
    elif recorded is not None:  # or it was found just now that nothing overlaps
        for other in _overlapping(db, facts):
            if other.id != known_as:
                yield _merge(db, other, facts, now_ms)
    if told is not None:
        facts = replace(facts, status=told.status, reopened=told.reopened, told=told.told)
        yield _tell(db, facts, recorded, now_ms)
    elif recorded is not None:
        # The end of the episode as known grows with every word of it, or a replay's shorter end would pass.
        db.execute(
            "UPDATE alerts SET opened_at_ms = ?, resolves_at_ms = ? WHERE id = ?",
            (facts.opened_at_ms, facts.resolves_at_ms, known_as),
        )


def remember(db: sqlite3.Connection, alert_id: str, body: bytes) -> None:
    """Keep the JSON of what was told last of an alert."""
    db.execute("UPDATE alerts SET body = ? WHERE id = ?", (body, alert_id))


def _judge(t: Transition, recorded: Recorded | None) -> Transition | None:
    """What of a transition is to be told: itself, perhaps as a reopening or to the alerts topic alone; or nothing."""
    if recorded is None:
        return t
    grows = t.resolves_at_ms > recorded.resolves_at_ms
    if t.status != "resolved":
        if recorded.resolved:
            return replace(t, status="opened", reopened=True) if grows else None
        return t if t.status == "updated" and t.peak > recorded.peak else None
    if not recorded.resolved:
        # An end before the one known is a replay's, on the way to the end that was known already.
        is_end = t.resolves_at_ms >= recorded.resolves_at_ms or t.cancelled or t.merged_into is not None
        return replace(t, told=True) if is_end else None
    # People were told that it is over; what the episode turned out to be is for the record only.
    more = grows or t.opened_at_ms < recorded.opened_at_ms or t.peak > recorded.peak or t.events > recorded.events
    return replace(t, told=False) if t.merged_into is not None or (more and not t.cancelled) else None


def _united(t: Transition, recorded: Recorded) -> Transition:
    return replace(
        t,
        opened_at_ms=min(t.opened_at_ms, recorded.opened_at_ms),
        resolves_at_ms=max(t.resolves_at_ms, recorded.resolves_at_ms),
        peak=max(t.peak, recorded.peak),
        peak_exact=t.peak_exact if t.peak >= recorded.peak else bool(recorded.peak_exact),
        events=max(t.events, recorded.events),
    )


def _merge(db: sqlite3.Connection, other: Recorded, survivor: Transition, now_ms: int) -> News:
    _alias(db, other.id, survivor.alert_id)
    merged = replace(
        survivor,
        alert_id=other.id,
        status="resolved",
        peak=other.peak,
        peak_exact=bool(other.peak_exact),
        events=other.events,
        opened_at_ms=other.opened_at_ms,
        resolves_at_ms=other.resolves_at_ms,
        merged_into=survivor.alert_id,
        cancelled=False,
        reopened=False,
        told=not other.resolved,
    )
    return _tell(db, merged, other, now_ms)


def _tell(db: sqlite3.Connection, t: Transition, recorded: Recorded | None, now_ms: int) -> News:
    if recorded is not None:
        t = replace(t, sequence=recorded.sequence + 1)
    facts = (t.opened_at_ms, t.resolves_at_ms, t.peak, t.peak_exact, t.events, t.sequence, t.status == "resolved")
    db.execute(
        "INSERT INTO alerts (id, rule, version, key, opened_at_ms, resolves_at_ms, peak, peak_exact, events,"
        " sequence, resolved, body, changed_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, x'', ?)"
        " ON CONFLICT (id) DO UPDATE SET opened_at_ms = excluded.opened_at_ms,"
        " resolves_at_ms = excluded.resolves_at_ms, peak = excluded.peak, peak_exact = excluded.peak_exact,"
        " events = excluded.events, sequence = excluded.sequence, resolved = excluded.resolved,"
        " changed_ms = excluded.changed_ms",
        (t.alert_id, t.rule, t.rule_version, key_text(t), *facts, now_ms),
    )
    return News(t, b"" if recorded is None else recorded.body, recorded is None)


def key_text(t: Transition) -> str:
    """A key as it is stored: compact JSON, which keeps 1 and "1" and true apart."""
    return msgspec.json.encode(t.key).decode()


def _canonical(db: sqlite3.Connection, alert_id: str) -> str:
    row = db.execute("SELECT alert_id FROM aliases WHERE id = ?", (alert_id,)).fetchone()
    return alert_id if row is None else str(row[0])


def _alias(db: sqlite3.Connection, alert_id: str, known_as: str) -> None:
    # Aliases are kept flat: one look-up leads to the end.
    db.execute("UPDATE aliases SET alert_id = ? WHERE alert_id = ?", (known_as, alert_id))
    db.execute("INSERT OR REPLACE INTO aliases (id, alert_id) VALUES (?, ?)", (alert_id, known_as))


def _known(db: sqlite3.Connection, alert_id: str) -> tuple[str, Recorded | None]:
    """The id that an alert goes by, and what was told of it."""
    known_as, *facts = db.execute(
        f"SELECT COALESCE(alias.alert_id, asked.id), {_COLUMNS} FROM (SELECT ? AS id) AS asked"
        " LEFT JOIN aliases AS alias ON alias.id = asked.id"
        " LEFT JOIN alerts ON alerts.id = COALESCE(alias.alert_id, asked.id)",
        (alert_id,),
    ).fetchone()
    return known_as, None if facts[0] is None else Recorded(*facts)


def _overlapping(db: sqlite3.Connection, t: Transition) -> list[Recorded]:
    """The recorded alerts whose episodes overlap or touch the transition's, first recorded first.

    Where such a one was merged into another, that other.
    """
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM alerts WHERE id IN ("
        " SELECT COALESCE(aliases.alert_id, alerts.id) FROM alerts LEFT JOIN aliases ON aliases.id = alerts.id"
        " WHERE rule = ? AND version = ? AND key = ? AND resolves_at_ms >= ? AND opened_at_ms <= ?"
        ") ORDER BY number",
        (t.rule, t.rule_version, key_text(t), t.opened_at_ms, t.resolves_at_ms),
    )
    return [Recorded(*row) for row in rows.fetchall()]
