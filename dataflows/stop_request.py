"""The wish of SIGTERM or Ctrl-C that the job should stop, as a flag that the source looks at."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

import structlog

log = structlog.get_logger()

STOPS = frozenset({signal.SIGTERM, signal.SIGINT})


class StopRequest:
    """Listens from when it is made; a signal that `tua run` held back until then counts. A second one ends the process.

    The handler does no more than note it: it may run in the middle of anything, a log line too.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._said = False
        self._flows = False
        self._turn = threading.Lock()
        self._signals, signals = os.pipe()
        os.set_blocking(signals, False)
        # Python's C code writes the number there at once, whatever the main thread is doing.
        signal.set_wakeup_fd(signals, warn_on_full_buffer=False)
        for number in STOPS:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def made(self) -> bool:
        """Whether the job was asked to stop."""
        if self._number is not None and not self._said:
            self._said = True
            log.info("stopping", signal=signal.Signals(self._number).name)
        return self._number is not None

    def ends_until_flow(self, leave: Callable[[], None]) -> None:
        """From now until `flow_begins` a signal calls `leave` in a thread and ends the process with exit code 0.

        Bytewax waits for the other processes of a cluster, for ever, in code that lets no handler of Python's run.
        Nothing has been read until then, so there is nothing to take a snapshot of.
        """
        threading.Thread(target=self._watch, args=(leave,), name="tua-stop", daemon=True).start()

    def flow_begins(self) -> None:
        """The source is read from now on, and looks at `made` itself."""
        with self._turn:
            self._flows = True

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._number = number
        signal.signal(number, signal.SIG_DFL)

    def _watch(self, leave: Callable[[], None]) -> None:
        number = self._next()
        with self._turn:
            if self._flows:
                return
            log.info("stopping before anything was read", signal=signal.Signals(number).name)
            threading.Thread(target=_leave, args=(leave,), daemon=True).start()
            os._exit(128 + self._next())

    def _next(self) -> int:
        while (number := os.read(self._signals, 1)[0]) not in STOPS:
            pass
        return number


def _leave(leave: Callable[[], None]) -> None:
    try:
        leave()
        sys.stdout.flush()
    finally:
        os._exit(0)
