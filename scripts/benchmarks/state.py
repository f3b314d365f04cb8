"""The recovery store of a job, looked at from outside while it runs: how large is what it keeps."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

_LATEST = """
    SELECT state_key, length(ser_change) FROM snaps
    WHERE step_id LIKE '%.detect.%' OR step_id LIKE '%.detect'
    ORDER BY state_key, snap_epoch
"""


def shard_bytes(state: Path) -> dict[str, int]:
    """The packed size of each shard of the detection, as last stored below a job's state directory."""
    found: dict[str, int] = {}
    for part in (state / "recovery").glob("part-*.sqlite3"):
        try:
            with closing(sqlite3.connect(f"file:{part}?mode=ro", uri=True, timeout=5)) as db:
                found |= {key: size or 0 for key, size in db.execute(_LATEST)}
        except sqlite3.Error:
            continue  # it is being made
    return found
