"""One part of the recovery store, for a cluster over several hosts: each host makes and keeps its own.

`python -m bytewax.recovery` makes all parts in one place. On several hosts that is a trap: Bytewax refuses to start
when a part is nowhere, but takes an empty one, made anew where a disk was lost, for a part that has nothing to tell.
What was in it would be gone without a word. So a part is marked when it is made, see `make_part`.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from bytewax.recovery import init_db_dir

MAX_PARTS = 64


def make_part(directory: Path, number: int, count: int) -> None:
    """Make part `number` of `count` in `directory`, whole or not at all. The directory of the others may be elsewhere.

    Bytewax starts where the newest execution in all parts left off, and refuses to when a part has already thrown
    away what is before that (`InconsistentPartitionsError`). The mark is an execution that is newer than any there can
    be and left off at the first epoch. So among new parts it changes nothing, and beside parts that have been in use
    it makes Bytewax refuse. Executions count up by one from the highest: the seconds of the clock, 64 for each, stay
    ahead of them, and no two parts have the same.
    """
    with tempfile.TemporaryDirectory(prefix="recovery.", dir=directory.parent) as place:
        init_db_dir(Path(place), count)  # type: ignore[no-untyped-call]
        part = Path(place) / _name(number)
        with closing(sqlite3.connect(part)) as db, db:
            execution = int(time.time()) * MAX_PARTS + number
            db.execute("INSERT INTO exs (ex_num, worker_count, resume_epoch) VALUES (?, 1, 1)", (execution,))
        directory.mkdir(mode=0o700, exist_ok=True)
        part.rename(directory / part.name)


def parts_in(directory: Path) -> dict[int, int]:
    """The parts in a directory: number to the count of the set. Raises sqlite3.Error for a damaged one."""
    parts: dict[int, int] = {}
    for path in sorted(directory.glob("part-*.sqlite3")):
        with closing(sqlite3.connect(path)) as db:
            rows = db.execute("SELECT part_index, part_count FROM parts").fetchall()
        if len(rows) != 1 or path.name != _name(rows[0][0]):
            raise sqlite3.DatabaseError(f"{path} is not one part")
        parts |= rows
    return parts


def _name(number: int) -> str:
    return f"part-{number}.sqlite3"
