"""The directory that holds what must survive: recovery store, outbox, lock. One job at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import stat
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from bytewax.recovery import init_db_dir

RECOVERY_PARTS = 4
"""Fixed when the recovery store is made."""


class StateDirectoryError(Exception):
    """The directory can't be used; the text says why and what to do."""


class StateDirectory:
    """Created with mode 0700: recovery files hold pickles, and whoever can write them runs code.

    One that is there keeps its mode, and is refused where others may write to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recovery = path / "recovery"
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = path.stat().st_mode
        except OSError as error:
            raise self._unusable(error) from None
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StateDirectoryError(
                f"state.directory {path}: others may write to it, and what is in it can run code. Take that from them"
                f" (chmod go-w {path}), or name a directory that is not there yet, such as {path / 'tua'}"
            )

    def lock(self, argv: Sequence[str]) -> None:
        """Hold the directory until the process ends; raises StateDirectoryError when another job holds it.

        The processes of a cluster (`-a`) share it, each under its own number.
        """
        process = _process_of_cluster(argv)
        try:
            if process is None:
                self._hold("lock", fcntl.LOCK_EX, "")
            else:
                self._hold("lock", fcntl.LOCK_SH, "")
                self._hold(f"lock.{process}", fcntl.LOCK_EX, f" as process {process} of a cluster")
        except OSError as error:
            raise self._unusable(error) from None

    def prepare_recovery(self, argv: Sequence[str]) -> None:
        """Make the recovery store where there is none: all of its parts at once, or nothing.

        Raises StateDirectoryError for one that is damaged. A cluster over several hosts has some parts on each.
        """
        if self.recovery.exists():
            if _process_of_cluster(argv) is None and not _is_whole(self.recovery):
                raise StateDirectoryError(
                    f"the recovery store {self.recovery} is damaged or lacks a part. Bring it back, or remove it to"
                    " start empty: what was counted is lost then, but nothing that is to be delivered"
                )
            return
        new = Path(tempfile.mkdtemp(prefix="recovery.", dir=self.path))
        init_db_dir(new, RECOVERY_PARTS)  # type: ignore[no-untyped-call]
        try:
            new.rename(self.recovery)
        except OSError:
            # Another process of the cluster was quicker.
            shutil.rmtree(new)

    def _hold(self, name: str, kind: int, role: str) -> None:
        file = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 200).decode(errors="replace").strip() or "another process"
            raise StateDirectoryError(
                f"state.directory {self.path} is in use by {holder}{role}. Two jobs on one directory would both count"
                " everything: stop that one, or give this one another state.directory and kafka.consumer_group"
            ) from None
        if kind == fcntl.LOCK_EX:
            os.truncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        _held.append(file)

    def _unusable(self, error: OSError) -> StateDirectoryError:
        return StateDirectoryError(
            f"state.directory {self.path}: {error.strerror}. Set state.directory to one that this user can write"
        )


def _is_whole(recovery: Path) -> bool:
    parts = list(recovery.glob("part-*.sqlite3"))
    counts = set()
    for part in parts:
        try:
            with closing(sqlite3.connect(part)) as db:
                counts |= {count for (count,) in db.execute("SELECT part_count FROM parts")}
        except sqlite3.Error:
            return False
    return counts == {len(parts)}


_held: list[int] = []
"""Open until the process ends: closing a file gives its lock up."""


def _process_of_cluster(argv: Sequence[str]) -> str | None:
    """The number of this process in a cluster, as bytewax.run reads it; None without one."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-i", "--process-id", type=int, default=os.environ.get("BYTEWAX_PROCESS_ID", "0"))
    parser.add_argument("-a", "--addresses", default=os.environ.get("BYTEWAX_ADDRESSES"))
    options = parser.parse_known_args(argv)[0]
    return None if options.addresses is None else str(options.process_id)
