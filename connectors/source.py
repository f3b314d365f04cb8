"""The input of the flow: Kafka partitions behind a fixed number of slots, judged and sorted into shards.

The names of a source's parts are part of the recovery format, and Kafka partitions come and go. So the parts are
slots, and a Kafka partition belongs to slot `(crc32(topic) + partition) % SLOTS`. Each slot emits only the records of
its own partitions, within its own epochs: a neighbour's stay in the neighbour's queue.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from connectors.epochs import Epochs
from connectors.exchange import Exchange, ShardBatch
from connectors.partition import Break, Partition
from connectors.poller import Poller
from connectors.positions import Place
from connectors.reader import BATCHES, Reader
from connectors.slot_positions import SlotPositions, SlotState, pack, unpack
from connectors.turns import Turns
from connectors.workers import PerWorker
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


_MOST_FUTURE = 50_000
"""Records of one partition of which is stored that they were rejected as future. With more, all shards are written."""


class KafkaSource(FixedPartitionedSource[Arrivals, bytes]):
    """Reads the topics of `rules`.

    `connect` makes the process's poller. `stopping` ends the input at the next call, `paused` holds it up. `epoch_s`
    is Bytewax's epoch interval where several workers read, whose epochs are to stay in phase. `sizes` gives the bytes
    of each shard's state when it was packed last.
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
        sizes: Callable[[], Sequence[int]],
    ) -> None:
        self.topics, self.rules = topics, rules
        self.now_ms, self.monotonic, self.stopping, self.paused = now_ms, monotonic, stopping, paused
        self._readers = PerWorker(
            lambda: Reader(connect(), topics, rules, Epochs(epoch_s, stopping), Turns(sizes), exchange, monotonic)
        )

    def list_parts(self) -> list[str]:
        return [f"in{number:02}" for number in range(SLOTS)]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> Slot:
        state = unpack(resume_state) if resume_state else None
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
        self._rules = {rule.name: rule.version for rule in source.rules}
        self._lateness_ms = {topic.name: topic.lateness_ms for topic in source.topics}
        self._positions = SlotPositions()
        if state is not None:
            alike = (state.rules, state.lateness_ms) == (self._rules, self._lateness_ms)
            self._positions = SlotPositions(state.positions, alike=alike)
            self._reader.restored(state.rules, self._positions.stored.values())
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
        positions = self._positions.at_end_of(self._epoch, self._own, self._reader.turns.lack)
        self._epoch += 1
        self._reader.epochs.ended(self._epoch)
        return pack(self._rules, self._lateness_ms, positions)

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
                    self._own[place] = self._reader.poller.add(*place, self._positions.stored.get(place))

    def _pass_on(self, arrivals: Arrivals) -> bool:
        """Some records of the partition that is furthest behind of those that may go on. Whether there were any."""
        waiting = [partition for partition in self._own.values() if partition.waiting]
        for partition in sorted(waiting, key=lambda partition: partition.next_ms):
            if self._emit(partition, arrivals):
                return True
        return False

    def _emit(self, partition: Partition, arrivals: Arrivals) -> bool:
        until_ms = self._reader.until_ms(partition)
        if until_ms is not None and partition.next_ms > until_ms:
            return False
        topic, place = partition.topic.name, (partition.topic.name, partition.number)
        before, records = partition.highest_ms, partition.take(until_ms)
        if isinstance(records, Break):
            self._broken(place, records, arrivals)
            return True
        first, last = records.offsets[0], records.offsets[-1]
        self._positions.begin(partition, first, before)
        replayed_to = partition.taken_again_to
        if first < replayed_to:
            records = judged_before(records, replayed_to, self._positions.future_in(place, first, last))
        taken = self._reader.intakes[topic].take(partition.number, records, partition.highest_ms)
        partition.highest_ms = taken.highest_ms
        if taken.accepted:
            partition.accepted(self._source.monotonic())
        # What the same rules rejected before the start has been written to its topic.
        known_to = replayed_to if self._positions.alike else 0
        self._reject(place, [one for one in taken.rejected if one.offset >= known_to], arrivals)
        if taken.rows:
            batch = Batch(topic, partition.number, partition.topic_id, last + 1, taken.rows)
            arrivals.batches.extend(self._reader.exchange.split(batch))
            passing_over = self._positions.passing_over(place, last + 1)
            arrivals.touched.extend(self._reader.turns.changed(batch, passing_over))
        return True

    def _broken(self, place: Place, log: Break, arrivals: Arrivals) -> None:
        """From now on other records are counted from there on.

        All shards are written, so that no snapshot is left which has counted what was there.
        """
        cut = Batch(*place, log.topic_id, log.at, {})
        arrivals.batches.extend(self._reader.exchange.split(cut))
        arrivals.touched.extend(self._reader.turns.all())
        self._positions.broken(place, log.at)

    def _reject(self, place: Place, rejected: list[Rejected], arrivals: Arrivals) -> None:
        arrivals.rejected.extend((place[0], one) for one in rejected)
        future = [one.offset for one in rejected if one.reason == "future"]
        if future and self._positions.add_future(place, future) > _MOST_FUTURE and self._reader.turns.lack:
            arrivals.touched.extend(self._reader.turns.all())
