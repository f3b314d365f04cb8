"""The wish of SIGTERM or Ctrl-C that the job should stop, as a flag that the source looks at."""

from __future__ import annotations

import signal
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
        for number in STOPS:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def made(self) -> bool:
        """Whether the job was asked to stop."""
        if self._number is not None and not self._said:
            self._said = True
            log.info("stopping", signal=signal.Signals(self._number).name)
        return self._number is not None

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._number = number
        signal.signal(number, signal.SIG_DFL)
