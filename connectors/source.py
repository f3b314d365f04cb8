"""The input of the flow: Kafka partitions behind a fixed number of slots, judged and sorted into shards.

The names of a source's parts are part of the recovery format, and Kafka partitions come and go. So the parts are
slots, and a Kafka partition belongs to slot `(crc32(topic) + partition) % SLOTS`. Each slot emits only the records of
its own partitions, within its own epochs: a neighbour's stay in the neighbour's queue.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

import msgspec
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from connectors.epochs import Epochs
from connectors.exchange import Exchange, ShardBatch
from connectors.partition import Partition
from connectors.poller import Poller
from connectors.positions import Place, Position
from connectors.reader import BATCHES, Reader
from connectors.turns import Turns
from connectors.workers import PerWorker
from detection.detector import Detector
from detection.intake import Rejected, judged_before
from detection.rows import Batch
from detection.rules import CountRule, Topic
from detection.watermarks import PartitionState

SLOTS = 16
"""Number of slots; part of the recovery format, and the upper bound of processes that read."""


class Arrivals(NamedTuple):
    """What one call of a slot gives to the flow.

    `touched`: the shards that are to be awoken, so that they are written at the end of this epoch. `rejected`: (topic,
    record). `states`: of the slot's partitions as they were when the last epoch ended, so that everything before them
    has been counted when they are looked at.
    """

    batches: list[ShardBatch]
    touched: list[int]
    rejected: list[tuple[str, Rejected]]
    states: list[PartitionState]


class SlotState(msgspec.Struct, array_like=True):
    """What a slot's snapshot holds: the versions of the rules, and how far each partition has been passed on."""

    format: int
    rules: dict[str, str]
    positions: list[tuple[Place, Position]]


_FORMAT = 2
_MOST_FUTURE = 50_000
"""Records of one partition of which is stored that they were rejected as future. With more, all shards are written."""


class KafkaSource(FixedPartitionedSource[Arrivals, bytes]):
    """Reads the topics of `rules`.

    `connect` makes the process's poller. `stopping` ends the input at the next call, `paused` holds it up. `epoch_s`
    is Bytewax's epoch interval where several workers read, whose epochs are to stay in phase. `detector` gives this
    worker's.
    """

    def __init__(
        self,
        topics: Sequence[Topic],
        rules: Sequence[CountRule],
        connect: Callable[[], Poller],
        *,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
        stopping: Callable[[], bool],
        paused: Callable[[], bool],
        epoch_s: float | None = None,
        exchange: Exchange,
        detector: Callable[[], Detector],
    ) -> None:
        self.topics, self.rules = topics, rules
        self.now_ms, self.monotonic, self.stopping, self.paused = now_ms, monotonic, stopping, paused
        self._readers = PerWorker(
            lambda: Reader(connect(), topics, rules, Epochs(epoch_s, stopping), Turns(detector), exchange, monotonic)
        )

    def list_parts(self) -> list[str]:
        return [f"in{number:02}" for number in range(SLOTS)]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> Slot:
        state = msgspec.msgpack.decode(resume_state, type=SlotState) if resume_state else None
        return Slot(self, int(for_part.removeprefix("in")), state)

    def reader(self) -> Reader:
        """What the slots of one worker share."""
        return self._readers.get()


class Slot(StatefulSourcePartition[Arrivals, bytes]):
    """One part of the input: the Kafka partitions that belong to it, their positions in its snapshot."""

    def __init__(self, source: KafkaSource, number: int, state: SlotState | None) -> None:
        self._source, self._number = source, number
        self._reader = source.reader()
        self._reader.open_slots += 1
        self._stored: dict[Place, Position] = {}
        self._first: dict[Place, Position] = {}
        self._positions: dict[int, dict[Place, Position]] = {}
        """At the end of each epoch, of those that the source may have to go back to."""
        self._future: dict[Place, list[int]] = {}
        """The offsets that were rejected as future, of those that may be read again."""
        if state is not None:
            if state.format != _FORMAT:
                raise ValueError(f"the source's state has format {state.format}; this version of tua reads {_FORMAT}")
            self._stored = dict(state.positions)
            self._future = {place: list(position.future) for place, position in state.positions if position.future}
            self._reader.compare_rules(state.rules, state.positions)
        self._own: dict[Place, Partition] = {}
        self._epoch_ended = False
        self._epoch = 0
        self._claim(self._reader.poller.counts)

    def next_batch(self) -> list[Arrivals]:
        if self._source.stopping():
            rest = self._reader.turns.rest()
            if rest:
                return [Arrivals([], rest, [], [])]
            raise StopIteration
        self._reader.epochs.called(self._epoch)
        paused = self._source.paused()
        self._reader.called(self._number, paused)
        poller = self._reader.poller
        arrivals = Arrivals([], [], [], [])
        arrivals.touched.extend(self._reader.turns.due(self._epoch))
        self._claim(poller.counts)
        if self._epoch_ended:
            # Asked for more after a snapshot: the epoch that it ended is durable now.
            self._epoch_ended = False
            poller.commit(self._own.values())
            now_ms = self._source.now_ms()
            arrivals.states.extend(
                partition.state(poller.counts[partition.topic.name], now_ms, poller.looked_s)
                for partition in self._own.values()
            )
        if not paused:
            for _ in range(BATCHES):
                if not self._pass_on(arrivals):
                    break
        if not any(arrivals):
            return []
        self._reader.worked = True
        return [arrivals]

    def next_awake(self) -> dt.datetime | None:
        return self._reader.epochs.next_awake()

    def snapshot(self) -> bytes:
        self._epoch_ended = True
        self._positions[self._epoch] = {
            place: _position(partition, partition.next_offset, partition.highest_ms)
            for place, partition in self._own.items()
            if partition.next_offset is not None
        }
        complete = self._reader.turns.complete_through(self._epoch)
        # A slot that is asked later in this round may yet bring rows for shards that lack this epoch.
        for epoch in [epoch for epoch in self._positions if epoch < min(complete, self._epoch - 1)]:
            del self._positions[epoch]
        # What was stored for partitions that are not there (yet) is kept.
        positions = self._stored | self._first | self._positions.get(complete, {})
        for place, partition in self._own.items():
            if place in positions:
                first = positions[place].next_offset
                self._future[place] = [offset for offset in self._future.get(place, ()) if offset >= first]
                positions[place] = positions[place]._replace(
                    passed_to=partition.passed_to, passed_ms=partition.passed_ms, future=self._future[place]
                )
        self._epoch += 1
        self._reader.epochs.ended(self._epoch)
        return msgspec.msgpack.encode(SlotState(_FORMAT, self._reader.versions(), list(positions.items())))

    def close(self) -> None:
        self._reader.open_slots -= 1
        if self._reader.open_slots == 0:
            self._reader.poller.close()

    def _claim(self, counts: Mapping[str, int]) -> None:
        """Take on the partitions of this slot, also those that topics grew by meanwhile."""
        for topic in self._source.topics:
            first = (self._number - crc32(topic.name.encode())) % SLOTS
            for number in range(first, counts.get(topic.name, 0), SLOTS):
                place = (topic.name, number)
                if place not in self._own:
                    self._own[place] = self._reader.poller.add(*place, self._stored.get(place))

    def _pass_on(self, arrivals: Arrivals) -> bool:
        """Some records of the partition that is furthest behind of those that may go on. Whether there were any."""
        waiting = [partition for partition in self._own.values() if partition.waiting]
        return any(
            self._emit(partition, arrivals) for partition in sorted(waiting, key=lambda partition: partition.next_ms)
        )

    def _emit(self, partition: Partition, arrivals: Arrivals) -> bool:
        until_ms = self._reader.until_ms(partition)
        if until_ms is not None and partition.next_ms > until_ms:
            return False
        topic, place = partition.topic.name, (partition.topic.name, partition.number)
        before, records = partition.highest_ms, partition.take(until_ms)
        if place not in self._stored and place not in self._first:
            self._first[place] = _position(partition, records.offsets[0], before)
        if partition.broken_at is not None:
            self._broken(place, partition, partition.broken_at, arrivals)
        if records.offsets[0] < partition.replayed_to:
            records = judged_before(records, partition.replayed_to, self._future.get(place, ()))
        taken = self._reader.intakes[topic].take(partition.number, records, partition.highest_ms)
        partition.highest_ms = taken.highest_ms
        if taken.accepted:
            partition.accepted(self._source.monotonic())
        self._reject(place, taken.rejected, arrivals)
        if taken.rows:
            next_offset = records.offsets[-1] + 1
            batch = Batch(topic, partition.number, partition.topic_id, next_offset, taken.rows)
            arrivals.batches.extend(self._reader.exchange.split(batch))
            arrivals.touched.extend(self._reader.turns.changed(batch, self._epoch))
        return True

    def _broken(self, place: Place, partition: Partition, offset: int, arrivals: Arrivals) -> None:
        """A log lost all from an offset on, or began anew: from now on other records are counted there.

        All shards are written, so that no snapshot is left which has counted what was there.
        """
        cut = Batch(*place, partition.topic_id, offset, {})
        arrivals.batches.extend(self._reader.exchange.split(cut))
        arrivals.touched.extend(self._reader.turns.all(self._epoch))
        self._future[place] = [one for one in self._future.get(place, ()) if one < offset]

    def _reject(self, place: Place, rejected: list[Rejected], arrivals: Arrivals) -> None:
        arrivals.rejected.extend((place[0], one) for one in rejected)
        future = [one.offset for one in rejected if one.reason == "future"]
        if future:
            known = self._future.setdefault(place, [])
            known += future[bisect_right(future, known[-1]) if known else 0 :]
            if len(known) > _MOST_FUTURE:
                arrivals.touched.extend(self._reader.turns.all(self._epoch))


def _position(partition: Partition, next_offset: int, highest_ms: int) -> Position:
    return Position(next_offset, highest_ms, partition.topic_id, partition.passed_to, partition.passed_ms)
