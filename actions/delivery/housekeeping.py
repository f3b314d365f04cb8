"""What has to be done in the outbox now and then, in bites of SLICE rows: the flow may have to wait for one.

Every function must be called inside a writing transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

BEHIND = 2**62
KEEP_MS = 30 * 86_400_000
SLICE = 1_000

EARLIER = (
    "EXISTS (SELECT 1 FROM deliveries WHERE state = 'pending' AND alert_id = d.alert_id"
    " AND action = d.action AND recipient = d.recipient AND sequence < d.sequence)"
)
"""In SQL: that an earlier transition of the same alert is on its way to the same recipient."""


def adopt(db: sqlite3.Connection, dead: str, owner: str, now_ms: int) -> None:
    """Some of what a dead owner left is another's now. What it had in hand is due at once."""
    some = "SELECT number FROM deliveries WHERE state = 'pending' AND owner = ? ORDER BY number LIMIT ?"
    db.execute(
        "INSERT OR IGNORE INTO attempts SELECT id, attempts, ?, 0, 'cut short', 'its process died'"
        f" FROM deliveries WHERE leased AND number IN ({some})",
        (now_ms, dead, SLICE),
    )
    db.execute(
        "UPDATE deliveries SET due_ms = CASE WHEN leased THEN ? ELSE due_ms END, leased = 0, owner = ?"
        f" WHERE number IN ({some})",
        (now_ms, owner, dead, SLICE),
    )


def purge(db: sqlite3.Connection, retention_ms: int, now_ms: int) -> bool:
    """Forgets some of what ended longer ago than that, and of the alerts that are over; whether there was any.

    Of an alert that is not over, all is kept: what becomes of its end depends on what was told. So is what a flood has
    still to sum up. Alerts are kept for KEEP_MS at least: they are how a replay is known to be one.
    """
    old = db.execute(
        "SELECT number, id FROM deliveries AS d WHERE ended_ms < ?"
        " AND NOT EXISTS (SELECT 1 FROM alerts WHERE id = d.alert_id AND NOT resolved)"
        " AND NOT EXISTS (SELECT 1 FROM floods WHERE action = d.action AND rule = d.rule) LIMIT ?",
        (now_ms - retention_ms, SLICE),
    ).fetchall()
    db.executemany("DELETE FROM attempts WHERE delivery = ?", [(id_,) for _, id_ in old])
    db.executemany("DELETE FROM deliveries WHERE number = ?", [(number,) for number, _ in old])
    before_ms = now_ms - max(retention_ms, KEEP_MS)
    alerts = db.execute(
        "SELECT id FROM alerts WHERE resolved AND changed_ms < ? LIMIT ?", (before_ms, SLICE)
    ).fetchall()
    db.executemany("DELETE FROM aliases WHERE alert_id = ?", alerts)
    db.executemany("DELETE FROM alerts WHERE id = ?", alerts)
    return bool(old or alerts)


def line_up(db: sqlite3.Connection, now_ms: int, alerts: Iterable[str] | None = None) -> None:
    """Put every waiting row (of these alerts) behind the earlier ones of its line, and let the first one go."""
    behind = f"UPDATE deliveries AS d SET due_ms = {BEHIND} WHERE state = 'pending' AND NOT leased AND {EARLIER}"
    first = f"UPDATE deliveries AS d SET due_ms = ? WHERE state = 'pending' AND due_ms = {BEHIND} AND NOT {EARLIER}"
    if alerts is None:
        db.execute(behind)
        db.execute(first, (now_ms,))
        return
    for alert in alerts:
        db.execute(f"{behind} AND alert_id = ?", (alert,))
        db.execute(f"{first} AND alert_id = ?", (now_ms, alert))
