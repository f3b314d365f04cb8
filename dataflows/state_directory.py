"""The directory that holds what must survive: recovery store, outbox, lock. One job at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

RECOVERY_PARTS = 4
"""Fixed when the recovery store is made."""


class StateDirectoryError(Exception):
    """The directory can't be used; the text says why and what to do."""


class StateDirectory:
    """Created with mode 0700: recovery files hold pickles, and whoever can write them runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recovery = path / "recovery"
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
        except OSError as error:
            raise StateDirectoryError(
                f"state.directory {path}: {error.strerror}. Set state.directory to one that this user can write"
            ) from None

    def lock(self, argv: Sequence[str]) -> None:
        """Hold the directory until the process ends; raises StateDirectoryError when another job holds it.

        The processes of a cluster (`-a`) share it, each under its own number.
        """
        process = _process_of_cluster(argv)
        if process is None:
            self._hold("lock", fcntl.LOCK_EX, "")
        else:
            self._hold("lock", fcntl.LOCK_SH, "")
            self._hold(f"lock.{process}", fcntl.LOCK_EX, f" as process {process} of a cluster")

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


_held: list[int] = []
"""Open until the process ends: closing a file gives its lock up."""


def _process_of_cluster(argv: Sequence[str]) -> str | None:
    options = dict(pairwise(argv))
    if not any(option in ("-a", "--addresses") for option in argv) and "BYTEWAX_ADDRESSES" not in os.environ:
        return None
    number = options.get("-i") or options.get("--process-id") or os.environ.get("BYTEWAX_PROCESS_ID", "0")
    return number if number.isdigit() else "0"
