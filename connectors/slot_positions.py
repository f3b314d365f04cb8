"""What a slot's snapshot holds: from where each of its partitions can be read again, and what is known beyond that."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping

import msgspec

from connectors.partition import Partition
from connectors.positions import Place, Position
from detection.keys import SHARDS
from detection.stored import Stored, read_stored


class SlotState(Stored, array_like=True):
    """The versions of the rules, the lateness of their topics, and how far each partition has been passed on."""

    rules: dict[str, str]
    lateness_ms: dict[str, int]
    positions: list[tuple[Place, Position]]


_FORMAT = 3


def pack(rules: dict[str, str], lateness_ms: dict[str, int], positions: list[tuple[Place, Position]]) -> bytes:
    """A slot's snapshot."""
    return msgspec.msgpack.encode(SlotState(_FORMAT, rules, lateness_ms, positions))


def unpack(snapshot: bytes) -> SlotState:
    """What `pack` was given. Raises ValueError, with what to do, where another version made it."""
    return read_stored(snapshot, SlotState, _FORMAT, "the source's state")


class SlotPositions:
    """Those of one slot's partitions; `stored` is what the last snapshot of the run before had of them.

    `alike`: events are judged by the same rules as in that run. Under others, what is read again may bring a shard rows
    that it did not have: it passes over no more than its own snapshot says, and may have to be written.
    """

    def __init__(self, stored: Iterable[tuple[Place, Position]] = (), *, alike: bool = True) -> None:
        self.stored = dict(stored)
        self.alike = alike
        self._resumed = dict(self.stored) if alike else {}
        """The same, without logs that have begun anew or were cut off since."""
        self._first: dict[Place, Position] = {}
        self._epochs: dict[int, dict[Place, Position]] = {}
        """As they were at the end of each epoch, of those that the source may have to go back to."""
        self._future = {place: list(position.future) for place, position in self.stored.items() if position.future}
        self._before = {place: position.next_offset for place, position in self.stored.items()}
        """The next offsets of the last snapshot."""

    def begin(self, partition: Partition, next_offset: int, highest_ms: int) -> None:
        """The first records of a partition are taken, from there on."""
        place = (partition.topic.name, partition.number)
        if place not in self.stored and place not in self._first:
            self._first[place] = _position(partition, next_offset, highest_ms)

    def passing_over(self, place: Place, next_offset: int) -> Collection[int]:
        """The shards that had counted all before an offset when the job started."""
        resumed = self._resumed.get(place)
        if resumed is None or next_offset > resumed.passed_to:
            return ()
        return [shard for shard in range(SHARDS) if resumed.counted(shard) >= next_offset]

    def future_in(self, place: Place, first: int, last: int) -> list[int]:
        """The offsets from first to last that were rejected as future."""
        future = self._future.get(place, [])
        return future[bisect_left(future, first) : bisect_right(future, last)]

    def add_future(self, place: Place, offsets: list[int]) -> int:
        """Some more were rejected as future; how many are remembered of that partition."""
        future = self._future.setdefault(place, [])
        future += offsets
        return len(future)

    def broken(self, place: Place, offset: int) -> None:
        """The log lost all from an offset on; there come other records."""
        self._resumed.pop(place, None)
        self._future[place] = [one for one in self._future.get(place, ()) if one < offset]

    def at_end_of(
        self, epoch: int, partitions: Mapping[Place, Partition], lack: Mapping[int, int]
    ) -> list[tuple[Place, Position]]:
        """What to store at the end of an epoch. `lack`: as of `Turns`."""
        self._epochs[epoch] = {
            place: _position(partition, partition.next_offset, partition.highest_ms)
            for place, partition in partitions.items()
            if partition.next_offset is not None
        }
        complete = min(lack.values(), default=epoch)
        # A slot that is asked later in this round may yet bring rows for shards that lack this epoch.
        for old in [old for old in self._epochs if old < min(complete, epoch - 1)]:
            del self._epochs[old]
        # What was stored for partitions that are not there (yet) is kept.
        positions = self.stored | self._first | self._epochs.get(complete, {})
        for place, partition in partitions.items():
            if place in positions:
                self._forget_future(place, positions[place].next_offset)
                positions[place] = positions[place]._replace(
                    passed_to=partition.passed_to,
                    passed_ms=partition.passed_ms,
                    behind=self._behind(place, partition, epoch, lack),
                    future=self._future.get(place, []),
                )
        return list(positions.items())

    def _behind(self, place: Place, partition: Partition, epoch: int, lack: Mapping[int, int]) -> dict[int, int]:
        """The shards that have not counted up to `passed_to`, and how far each has."""
        if not lack and partition.next_offset == partition.passed_to:
            return {}
        resumed, found = self._resumed.get(place), {}
        for shard in range(SHARDS):
            at = self._epochs.get(lack.get(shard, epoch), {}).get(place) or self._first.get(place)
            counted = max(at.next_offset if at else 0, resumed.counted(shard) if resumed else 0)
            if counted < partition.passed_to:
                found[shard] = counted
        return found

    def _forget_future(self, place: Place, next_offset: int) -> None:
        """Of what lies before a position. The next may go back behind it, but not behind the one before it."""
        before, self._before[place] = self._before.get(place, 0), next_offset
        if future := self._future.get(place):
            self._future[place] = future[bisect_left(future, min(before, next_offset)) :]


def _position(partition: Partition, next_offset: int, highest_ms: int) -> Position:
    return Position(next_offset, highest_ms, partition.topic_id, partition.passed_to, partition.passed_ms)
