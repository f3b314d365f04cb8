"""The breach set of one key: episodes, and how a new event makes them open, grow and join.

Definitions (timestamps s_0 <= s_1 <= ..., threshold N, window W): the breach set is the union over i of
`[s_{i+N-1}, s_i + W)` wherever that is not empty; an episode is one maximal interval of it, and intervals that
touch are one. Only intervals of N-tuples that hold the new event can be new.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter

_START, _END = attrgetter("start"), attrgetter("end")


class Episode:
    """One alert in the making. Mutable, owned by one evaluator.

    `rank` is the order of opening; of episodes that join, the lowest goes on. `dropped` counts events of the
    episode whose timestamps are no longer kept. `unswept` is the earliest time from which late events may
    have raised the count without `peak` knowing yet (None: `peak` is up to date): finding the new peak at each
    late event would cost a pass over a hot key's window, so it is done when the peak is asked for.
    `partition`, `offset`, `timestamp` name the record that opened it or made it grow last. `stale`: what was told when
    it resolved is not all that is known of it now.
    """

    __slots__ = (
        "alert_id", "dropped", "end", "exact", "milestone", "offset", "partition", "peak", "rank", "resolved",
        "sequence", "stale", "start", "timestamp", "unswept",
    )  # fmt: skip

    def __init__(self, rank: int, alert_id: str, start: int, end: int, threshold: int) -> None:
        self.rank = rank
        self.alert_id = alert_id
        self.start = start
        self.end = end
        self.peak = threshold
        self.milestone = 2 * threshold
        self.exact = True
        self.dropped = 0
        self.unswept: int | None = None
        self.resolved = self.stale = False
        self.sequence = 0
        self.partition = self.offset = self.timestamp = 0

    def caused_by(self, partition: int, offset: int, timestamp: int) -> None:
        self.partition, self.offset, self.timestamp = partition, offset, timestamp

    def events(self, kept: array[int], window: int) -> int:
        """Distinct events with `start - window < timestamp < end`."""
        inside = bisect_left(kept, self.end) - bisect_right(kept, self.start - window)
        return self.dropped + max(0, inside)

    def late_event_at(self, timestamp: int) -> None:
        """A late event raised the count from `timestamp` on."""
        self.stale = self.resolved
        self.unswept = timestamp if self.unswept is None else min(self.unswept, timestamp)

    def sweep(self, kept: array[int], window: int) -> None:
        """Bring `peak` up to date after late events."""
        if self.unswept is None:
            return
        first = max(self.unswept, self.start)
        self.unswept = None
        left = bisect_right(kept, first - window)
        for right in range(bisect_left(kept, first), bisect_left(kept, self.end)):
            # The count rises only at events, so its highest value is reached at one of them.
            oldest = kept[right] - window
            while kept[left] <= oldest:
                left += 1
            if right - left >= self.peak:
                self.peak = right - left + 1

    def thinnable(self, kept: array[int], window: int) -> tuple[int, int]:
        """The timestamps [first, last) of `kept` that matter only within this episode, where breach is known for good.

        A timestamp s matters at the times [s, s + window). The newest timestamp of the key stays, for what is in order
        is told by it.
        """
        return bisect_left(kept, self.start), min(bisect_right(kept, self.end - window), len(kept) - 1)

    def thin(self, kept: array[int], window: int, number: int) -> None:
        """Take note that so many that are `thinnable` are about to go. From here on `peak` is a lower bound."""
        self.sweep(kept, window)
        self.dropped += number
        self.exact = False

    def forget(self, kept: array[int], window: int, cut: int) -> None:
        """Take note of its timestamps below `cut`, which are about to be freed."""
        last, first = bisect_left(kept, min(cut, self.end)), bisect_right(kept, self.start - window)
        if first < last:
            self.sweep(kept, window)
            self.dropped += last - first

    def absorb(self, other: Episode) -> None:
        """Take over what is known of an episode that turned out to be part of this one, but for its end."""
        self.start = min(self.start, other.start)
        self.peak, self.milestone = max(self.peak, other.peak), max(self.milestone, other.milestone)
        self.exact = self.exact and other.exact
        self.dropped += other.dropped
        if other.unswept is not None:
            self.late_event_at(other.unswept)


def touching(episodes: Sequence[Episode], start: int, end: int) -> Sequence[Episode]:
    """Those of a key's episodes, ascending and apart, that have a moment in [start, end], their ends included."""
    first = bisect_left(episodes, start, key=_END)
    return episodes[first : bisect_right(episodes, end, first, key=_START)]


def intervals_through(
    kept: array[int], position: int, threshold: int, window: int, episodes: Sequence[Episode]
) -> list[tuple[int, int]]:
    """The parts of the breach set that the event at `position` is needed for: ascending, none touching.

    What of it is known as one of the key's episodes is given as that whole episode, and looked at once: else a late
    event of a hot key would cost a look at each of its neighbours.
    """
    found: list[tuple[int, int]] = []
    timestamp = kept[position]
    known = iter(touching(episodes, timestamp, timestamp + window))
    episode = next(known, None)
    first = max(position - threshold + 1, bisect_right(kept, timestamp - window, 0, position))
    last = min(position, bisect_left(kept, timestamp + window, position) - threshold)
    while first <= last:
        start, end = kept[first + threshold - 1], kept[first] + window
        first += 1
        if start >= end:
            continue
        while episode is not None and episode.end < end:
            episode = next(known, None)
        if episode is not None and episode.start <= start:
            start, end = episode.start, episode.end
            first = bisect_right(kept, end - window, first)
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found
