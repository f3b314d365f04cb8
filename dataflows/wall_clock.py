"""The wall clock of the job: milliseconds since 1970 that never go back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger()

_NOTICED_MS = 1_000


class WallClock:
    """Follows the system's clock forward; when that steps back, goes on by itself and says so.

    Time that goes back would make records look as if they came from the future, and put waiting deliveries off.
    """

    def __init__(
        self, system: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._system, self._monotonic = system, monotonic
        self._lock = threading.Lock()
        self._anchor = system() - monotonic()

    def now_ms(self) -> int:
        with self._lock:
            elapsed = self._monotonic()
            offset = self._system() - elapsed
            behind_ms = (self._anchor - offset) * 1000
            if behind_ms < 0:
                self._anchor = offset
                self._warned_ms = 0.0
            elif behind_ms > _NOTICED_MS + self._warned_ms:
                self._warned_ms = behind_ms
                log.warning(
                    "the system's clock stepped back; the job goes on by the time it knew",
                    behind_ms=round(behind_ms),
                    hint="when the clock is right now, restart the job to follow it",
                )
            return int((self._anchor + elapsed) * 1000)

    _warned_ms = 0.0
