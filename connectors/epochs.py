"""Epochs in phase: the workers of a cluster end theirs together, so that none waits long for another.

Each worker times its epochs by itself. One ends at the first round of the input at which `interval` has passed since
the round that ended the one before; and no worker is asked for more until all have ended the last epoch:

    quick  |--------- epoch 7 ---------|.. waits ..|--- epoch 8 ---|...... waits ......|   its interval runs on
    slow   |------------- epoch 7 -----------------|--------- epoch 8 -----------------|

A round takes the slow worker longer, so it is later by a bit with every epoch. The interval of the quick one goes on
while it waits, and in the end a wait is nearly all there is. Against that a worker which waited ends its next epoch
that much later. Bytewax looks at the time in each round only, so a round is held up until then.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

AT_ONCE = dt.datetime.fromtimestamp(0, dt.UTC)
_WHOLE_EVERY = 8
"""Epochs from one at which the whole wait is made up for to the next.

Some of a wait is the end of the epoch itself: snapshots are written. To make up for that costs time and gains nothing.
In between, the shortest wait since tells how long that takes.
"""
_TOLERATED = 1 / 25
_EARLY = 1 / 4
"""Parts of the interval."""
_HOLD_S = 0.5
"""At most in one epoch: meanwhile the worker does nothing for what others send it."""
_NAP_S = 0.05
_CLOSE_S = 0.001


class Epochs:
    """Those of one worker. Its slots say what happens to them.

    `interval_s` is Bytewax's own; None where nobody is waited for. `monotonic` and `wall` are clocks in seconds,
    `stopping` ends a hold early.
    """

    def __init__(
        self,
        interval_s: float | None,
        stopping: Callable[[], bool],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval_s = interval_s
        self._stopping, self._monotonic, self._wall, self._sleep = stopping, monotonic, wall, sleep
        self._called_s = self._began_s = self._ended_s = self._monotonic()
        self._steps_s = self._squares_s = 0.0
        """Of the times from one call to the next, in this epoch: the sum, and that of their squares."""
        self._asked = self._ended = 0
        self._behind_s = 0.0
        """How much earlier than the others this worker ends its epochs."""
        self._last_s = self._shortest_s = float("inf")
        self._away_until_s: float | None = None
        self._stays_until = 0

    @property
    def are_shared(self) -> bool:
        """Whether there are other workers."""
        return self._interval_s is not None

    def called(self, epoch: int) -> None:
        """A slot is asked for more, `epoch` snapshots after the start. May take a while."""
        if self._interval_s is None:
            return
        now_s = self._monotonic()
        if epoch > self._asked:
            self._asked = epoch
            self._waited(now_s, self._interval_s)
        else:
            self._steps_s += now_s - self._called_s
            self._squares_s += (now_s - self._called_s) ** 2
        self._called_s = now_s
        ends_s = self._began_s + self._interval_s
        # Once the interval has passed it is too late: this is the round that ends the epoch.
        if self._behind_s > self._interval_s * _TOLERATED and ends_s - self._early_s() <= now_s < ends_s - _CLOSE_S:
            self._hold(ends_s)

    def ended(self, epoch: int) -> None:
        """A slot took its snapshot number `epoch`, in the round in which it was last asked for more."""
        if epoch > self._ended:
            self._ended = epoch
            self._began_s = self._called_s
        self._ended_s = self._monotonic()

    def next_awake(self) -> dt.datetime:
        """When slots are to be asked next."""
        if self._away_until_s is None:
            return AT_ONCE
        return dt.datetime.fromtimestamp(self._wall() + self._away_until_s - self._monotonic(), dt.UTC)

    def _waited(self, now_s: float, interval_s: float) -> None:
        """The first call after a snapshot: all others have ended that epoch too."""
        self._steps_s = self._squares_s = 0.0
        if self._away_until_s is not None:
            self._away_until_s = None
            return
        # One long wait says little: the disk may have been slow, or the machine busy. Two do.
        last_s, self._last_s = self._last_s, now_s - self._ended_s
        wait_s = min(last_s, self._last_s)
        if self._asked % _WHOLE_EVERY == 1:
            self._behind_s, self._shortest_s = wait_s, float("inf")
        else:
            self._shortest_s = min(self._shortest_s, wait_s)
            self._behind_s = min(wait_s, max(self._behind_s, wait_s - self._shortest_s))
        is_late = now_s > self._began_s + interval_s - _CLOSE_S and wait_s > interval_s / 2
        if is_late and self._asked >= self._stays_until:
            # This round ends the next epoch too, with almost nothing in it, and so would the first after each wait.
            # The way out is to be away until the others end the next but one. That goes by Bytewax's own alarm, a time
            # of the wall clock: were that set back just then, this worker would sleep for as long as that.
            self._away_until_s = now_s + 2 * interval_s
            self._behind_s, self._stays_until = 0.0, self._asked + _WHOLE_EVERY

    def _early_s(self) -> float:
        """How long before the end of its interval the worker is surely called: twice what goes on at any moment."""
        return min(2 * self._squares_s / self._steps_s if self._steps_s else 0.0, (self._interval_s or 0.0) * _EARLY)

    def _hold(self, ends_s: float) -> None:
        """Stay in this round until the epoch may end. By naps, not by an alarm: the wall clock may be set meanwhile."""
        held_s = min(self._behind_s, _HOLD_S)
        self._behind_s -= held_s
        while (left_s := ends_s + held_s - self._monotonic()) > 0 and not self._stopping():
            self._sleep(min(left_s, _NAP_S))
        self._called_s = self._monotonic()
