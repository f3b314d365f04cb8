"""The directory that holds what must survive: recovery store, outbox, lock. One job at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import structlog
from bytewax.recovery import init_db_dir

from dataflows.cluster import Cluster
from dataflows.recovery_part import MAX_PARTS, make_part, parts_in

log = structlog.get_logger()

RECOVERY_PARTS = 4
"""Fixed when the recovery store is made."""

PARTS_VARIABLE = "TUA_RECOVERY_PARTS"
"""In a cluster over several hosts: how many parts its recovery store has. Process N makes and keeps part N."""


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
        cluster = Cluster.of(argv)
        try:
            if not cluster.addresses:
                self._hold("lock", fcntl.LOCK_EX, "")
            else:
                self._hold("lock", fcntl.LOCK_SH, "")
                self._hold(f"lock.{cluster.process}", fcntl.LOCK_EX, f" as process {cluster.process} of a cluster")
        except OSError as error:
            raise self._unusable(error) from None

    def prepare_recovery(self, argv: Sequence[str]) -> None:
        """Make the recovery store where there is none: all of its parts at once, or nothing.

        A cluster over several hosts has a part on each (`PARTS_VARIABLE`). Raises StateDirectoryError for a store that
        is damaged, and for several hosts without that variable.
        """
        cluster = Cluster.of(argv)
        if cluster.addresses and (cluster.is_spread or PARTS_VARIABLE in os.environ):
            self._prepare_part(cluster, _parts_of_set(cluster))
            return
        if self.recovery.exists():
            if not cluster.addresses and not _is_whole(self.recovery):
                raise self._damaged()
            return
        new = Path(tempfile.mkdtemp(prefix="recovery.", dir=self.path))
        init_db_dir(new, RECOVERY_PARTS)  # type: ignore[no-untyped-call]
        try:
            new.rename(self.recovery)
        except OSError:
            # Another process of the cluster was quicker.
            shutil.rmtree(new)

    def _prepare_part(self, cluster: Cluster, count: int) -> None:
        try:
            parts = parts_in(self.recovery)
        except sqlite3.Error:
            raise self._damaged() from None
        if others := set(parts.values()) - {count}:
            raise StateDirectoryError(
                f"the recovery store {self.recovery} is of a set of {others.pop()} parts, and {PARTS_VARIABLE} says"
                f" {count}. The number is fixed at the first start, whatever the number of processes: set it back"
            )
        number, processes = cluster.process, len(cluster.addresses)
        if number in parts or number >= count:
            log.info("recovery parts here", parts=sorted(parts), of=count)
            return
        if count > processes:
            raise StateDirectoryError(
                f"the recovery store {self.recovery} has no part {number}, and {processes} processes cannot make the"
                f" {count} parts that {PARTS_VARIABLE} says. Bring back what was there, or start as many"
            )
        make_part(self.recovery, number, count)
        log.warning("recovery part made, empty; if others are not, the cluster does not start", part=number, of=count)

    def _damaged(self) -> StateDirectoryError:
        return StateDirectoryError(
            f"the recovery store {self.recovery} is damaged or lacks a part. Bring it back, or remove it to"
            " start empty: what was counted is lost then, but nothing that is to be delivered"
        )

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


def _parts_of_set(cluster: Cluster) -> int:
    text = os.environ.get(PARTS_VARIABLE)
    if text is None:
        raise StateDirectoryError(
            f"the addresses of the cluster name several hosts ({'; '.join(cluster.addresses)}), each with a disk of its"
            f" own: set {PARTS_VARIABLE} to the number of hosts at the first start, and never change it after that"
        )
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= MAX_PARTS:
        raise StateDirectoryError(f"{PARTS_VARIABLE} is '{text}', and not a number from 1 to {MAX_PARTS}")
    return int(text)
