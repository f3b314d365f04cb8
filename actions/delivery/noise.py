"""What people are spared: alerts of a key that keeps coming back (cooldown), and one message for each of many (flood).

Nothing is lost by it: what is spared is in the outbox as `suppressed`, with the reason, and every transition goes to
the alerts topic. What is decided is decided once, in the transaction that stores the deliveries, so a replay finds it
decided.

Cooldown, per rule and key, in event time: an alert that opens less than the cooldown after the end of the last one
that was told is suppressed, with all its transitions. When the cooldown is over the next one is told, and if
something was suppressed meanwhile, the cooldown after it is twice as long, up to the cap. Only what was told starts
a cooldown: a key that never rests is told again and again, ever more seldom. A higher severity passes.

Flood, per rule and action, in wall-clock time: beyond so many alerts within so long, further ones are suppressed,
with all their transitions, and summed up at the end of the interval; a flood that goes on at that rate is summed up
once for each interval.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from actions.alert import Alert, KeyCount, Summary
from actions.delivery.identity import News, key_text
from detection.times import iso
from detection.transitions import Transition

TOP = 10
_SEVERITIES = ("info", "warning", "critical")


@dataclass(frozen=True)
class LastTold:
    """The last alert of a key that was told: when it was over, and how often the cooldown after it has doubled.

    `came_back`: something was suppressed since.
    """

    resolves_at_ms: int
    severity: str
    level: int
    came_back: bool


@dataclass(frozen=True)
class Cooldown:
    """The first cooldown and the longest, in milliseconds."""

    first_ms: int
    cap_ms: int

    def after(self, level: int) -> int:
        """How long it is after `level` doublings, in milliseconds."""
        return min(self.first_ms << min(level, 40), self.cap_ms)

    def judge(self, last: LastTold | None, opened_at_ms: int, severity: str) -> tuple[int | None, int]:
        """Until when an alert that opens then is suppressed (None: it is told), and its level."""
        if last is None:
            return None, 0
        until_ms = last.resolves_at_ms + self.after(last.level)
        if opened_at_ms >= until_ms:
            return None, last.level + 1 if last.came_back else 0
        return None if _rank(severity) > _rank(last.severity) else until_ms, last.level


@dataclass(frozen=True)
class Flood:
    """More than so many alerts of one rule within so many milliseconds."""

    more_than: int
    within_ms: int


def spared(cooldown: Cooldown, episodes: Iterable[Transition]) -> list[bool]:
    """Which of the episodes of one key and severity, in the order in which they open, a cooldown suppresses."""
    result: list[bool] = []
    last: LastTold | None = None
    for episode in episodes:
        until_ms, level = cooldown.judge(last, episode.opened_at_ms, _SEVERITIES[0])
        result.append(until_ms is not None)
        if until_ms is None:
            last = LastTold(episode.resolves_at_ms, _SEVERITIES[0], level, came_back=False)
        elif last is not None:
            last = replace(last, came_back=True)
    return result


def cooled(
    db: sqlite3.Connection, news: News, severity: str, cooldown: Cooldown | None, lift: Callable[[str], None]
) -> str | None:
    """Why nobody is told of a transition, or None. The alert must be recorded already.

    `lift` is called with the id of an alert that was suppressed and is to be told after all.
    """
    t, known, suppressed = news.transition, "", None
    if not news.is_first:
        of_alert = "SELECT severity, suppressed FROM alerts WHERE id = ?"
        known, suppressed = db.execute(of_alert, (t.alert_id,)).fetchone()
    if known == "":
        # A later transition of an alert of which no more is known was told before: by an older version.
        suppressed, level = _decided(db, t, severity, cooldown) if t.sequence == 1 else (None, 0)
        db.execute(
            "UPDATE alerts SET severity = ?, suppressed = ?, level = ? WHERE id = ?",
            (severity, suppressed, level, t.alert_id),
        )
    elif suppressed is not None and _rank(severity) > _rank(known):
        suppressed = None
        _lift(db, t.alert_id, lift)
        db.execute("UPDATE alerts SET severity = ? WHERE id = ?", (severity, t.alert_id))
    if t.merged_into is not None and suppressed is None:
        # The alert that goes on must not be silent where this one was told.
        _lift(db, t.merged_into, lift)
    return None if suppressed is None else str(suppressed)


def _lift(db: sqlite3.Connection, alert_id: str, lift: Callable[[str], None]) -> None:
    sql = "UPDATE alerts SET suppressed = NULL WHERE id = ? AND suppressed IS NOT NULL"
    if db.execute(sql, (alert_id,)).rowcount:
        lift(alert_id)


def _decided(db: sqlite3.Connection, t: Transition, severity: str, cooldown: Cooldown | None) -> tuple[str | None, int]:
    if cooldown is None:
        return None, 0
    of_key = "rule = ? AND version = ? AND key = ? AND id != ? AND severity != ''"
    key = (t.rule, t.rule_version, key_text(t), t.alert_id)
    row = db.execute(
        f"SELECT opened_at_ms, resolves_at_ms, severity, level FROM alerts WHERE {of_key} AND suppressed IS NULL"
        " AND opened_at_ms <= ? ORDER BY resolves_at_ms DESC LIMIT 1",
        (*key, t.opened_at_ms),
    ).fetchone()
    last = None
    if row is not None:
        since = f"SELECT EXISTS (SELECT 1 FROM alerts WHERE {of_key} AND suppressed IS NOT NULL AND opened_at_ms >= ?)"
        (came_back,) = db.execute(since, (*key, row[0])).fetchone()
        _, resolves_at_ms, last_severity, level = row
        last = LastTold(resolves_at_ms, last_severity, level, bool(came_back))
    until_ms, level = cooldown.judge(last, t.opened_at_ms, severity)
    return None if until_ms is None else f"cooldown until {iso(until_ms)}", level


def _rank(severity: str) -> int:
    return _SEVERITIES.index(severity)


def flooded(db: sqlite3.Connection, t: Transition, severity: str, action: str, flood: Flood, now_ms: int) -> str | None:
    """Why an action tells of an alert in a summary alone, or None. Opens the flood where it is the first of it."""
    earlier = db.execute(
        "SELECT reason FROM deliveries WHERE alert_id = ? AND action = ? ORDER BY sequence DESC LIMIT 1",
        (t.alert_id, action),
    ).fetchone()
    if earlier is not None:
        flooded_before = earlier[0] is not None and earlier[0].startswith("flood ")
        # One that was over and begins again is judged anew: its flood may be long ago.
        if not (flooded_before and t.reopened):
            return str(earlier[0]) if flooded_before else None
    is_open = db.execute("SELECT began_ms FROM floods WHERE action = ? AND rule = ?", (action, t.rule)).fetchone()
    if is_open:
        return flood_reason(is_open[0])
    (told,) = db.execute(
        "SELECT COUNT(DISTINCT alert_id) FROM deliveries WHERE action = ? AND rule = ? AND state != 'suppressed'"
        " AND made_at_ms > ? AND made_at_ms <= ?",
        (action, t.rule, now_ms - flood.within_ms, now_ms),
    ).fetchone()
    if told < flood.more_than:
        return None
    db.execute(
        "INSERT INTO floods (action, rule, severity, more_than, began_ms, ends_ms) VALUES (?, ?, ?, ?, ?, ?)",
        (action, t.rule, severity, flood.more_than, now_ms, now_ms + flood.within_ms),
    )
    return flood_reason(now_ms)


def flood_reason(began_ms: int) -> str:
    """The reason of what is suppressed by the flood that began then."""
    return f"flood of {iso(began_ms)}"


def over(db: sqlite3.Connection, now_ms: int) -> tuple[str, str] | None:
    """A flood whose interval is over, as (action, rule)."""
    # One that began in the future: the clock stepped back.
    sql = "SELECT action, rule FROM floods WHERE ends_ms <= ? OR began_ms > ? LIMIT 1"
    found = db.execute(sql, (now_ms, now_ms)).fetchone()
    return None if found is None else (str(found[0]), str(found[1]))


def sum_up(db: sqlite3.Connection, action: str, rule: str, now_ms: int) -> Summary | None:
    """What came in the interval of a flood that is over; None where nothing came. It goes on if it was as much."""
    key = (action, rule)
    severity, more_than, began_ms, ends_ms = db.execute(
        "SELECT severity, more_than, began_ms, ends_ms FROM floods WHERE action = ? AND rule = ?", key
    ).fetchone()
    rows = db.execute(
        "SELECT body, peak, COUNT(*) OVER (), SUM(resolved) OVER () FROM alerts WHERE id IN ("
        " SELECT alert_id FROM deliveries WHERE state = 'suppressed' AND action = ? AND rule = ? AND reason = ?"
        f") ORDER BY peak DESC, number LIMIT {TOP}",
        (*key, flood_reason(began_ms)),
    ).fetchall()
    _, _, alerts, resolved = rows[0] if rows else (b"", 0, 0, 0)
    if alerts > more_than:
        renewed = (now_ms, now_ms + ends_ms - began_ms, *key)
        db.execute("UPDATE floods SET began_ms = ?, ends_ms = ? WHERE action = ? AND rule = ?", renewed)
    else:
        db.execute("DELETE FROM floods WHERE action = ? AND rule = ?", key)
    if not alerts:
        return None
    return Summary(
        id=f"flood {rule} {began_ms}",
        rule=rule,
        severity=severity,
        status="summary",
        alerts=alerts,
        resolved=resolved,
        began_at=began_ms,
        ended_at=now_ms,
        top=tuple(KeyCount(key=Alert.model_validate_json(body).key, peak=peak) for body, peak, _, _ in rows),
    )
