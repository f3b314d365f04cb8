"""Which process of this host a waiting delivery belongs to, and whether that process still lives.

A process holds a lock on a file of its own name for as long as it lives; the kernel lets go of it when the process
ends, however it ends. So what a dead process left is taken over within seconds, and what a live one has in hand is
never attempted by another: not when it hangs, when the clock steps, or when it cannot write the outbox for a while.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path


class Owner:
    """This process, under a name that no other has or will have. Raises OSError where no lock can be had."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.name = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._directory = directory
        self._file = self._locked(directory / self.name)
        for other in directory.iterdir():
            self.is_dead(other.name)

    def is_dead(self, name: str) -> bool:
        """Whether the process of that name has ended. Its file goes with it."""
        path = self._directory / name
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError:
            return False
        else:
            return True
        finally:
            os.close(file)

    def close(self) -> None:
        """Be dead for the others. Idempotent."""
        if self._file >= 0:
            (self._directory / self.name).unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1

    def _locked(self, path: Path) -> int:
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            # Between the two lines another process may have found it unlocked, and removed it.
            if path.exists() and path.stat().st_ino == os.fstat(file).st_ino:
                return file
            os.close(file)
