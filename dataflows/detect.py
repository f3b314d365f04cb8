"""Detection inside Bytewax: one stateful logic per shard, and the clock that wakes it.

Bytewax snapshots every key that was awoken in an epoch, whole, changed or not. So the keys are a fixed number of
shards, and news of the watermark goes to a step of its own which keeps nothing and wakes only a shard that has an
alert to resolve or state to free.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bytewax.operators import StatefulBatchLogic
from prometheus_client import Counter

from connectors.source import Arrivals
from connectors.workers import PerWorker
from detection.keys import SHARDS
from detection.rules import CountRule, Topic
from detection.shard import Shard, ShardBatch
from detection.transitions import Transition
from detection.watermarks import PartitionState, Watermarks

INCOMPLETE = Counter("tua_incomplete_events", "Events so old that what they would have met may be freed")
COPIES = Counter("tua_copied_events", "Events whose id was counted before")


class Tick(NamedTuple):
    """How far partitions were at the end of the last epoch, on its way to one shard."""

    shard: int
    states: list[PartitionState]


class Wake(NamedTuple):
    """Something in this shard is due."""

    shard: int


class Detection:
    """Builds the logics of the `clock` and the `detect` step, which share the shards and watermarks of a worker.

    A key goes to the same worker in both steps.
    """

    def __init__(self, rules: Sequence[CountRule], topics: Sequence[Topic], retention_ms: int) -> None:
        self.rules = rules
        self._watermarks = PerWorker(lambda: Watermarks(topics, retention_ms))
        self._shards: PerWorker[dict[int, Shard]] = PerWorker(dict)

    @property
    def watermarks(self) -> Watermarks:
        return self._watermarks.get()

    @property
    def shards(self) -> dict[int, Shard]:
        return self._shards.get()

    def clock(self, _state: None) -> Clock:
        return Clock(self)

    def detect(self, state: bytes | None) -> Detect:
        return Detect(self, state)


class Clock(StatefulBatchLogic[Tick, Wake, None]):
    """Takes note of the watermarks; wakes the shard if something in it is due. Keeps nothing between calls."""

    def __init__(self, detection: Detection) -> None:
        self._detection = detection

    def on_batch(self, values: list[Tick]) -> tuple[Iterable[Wake], bool]:
        watermarks = self._detection.watermarks
        for tick in values:
            for state in tick.states:
                watermarks.update(state)
        shard = self._detection.shards.get(values[0].shard)
        due = shard is not None and shard.is_due(watermarks)
        return ([Wake(values[0].shard)] if due else []), StatefulBatchLogic.DISCARD

    def snapshot(self) -> None:
        return None


class Detect(StatefulBatchLogic[Any, Transition, bytes]):
    """Counts the rows of one shard and resolves its alerts. Its state is the shard's packed bytes."""

    def __init__(self, detection: Detection, state: bytes | None) -> None:
        self._detection = detection
        self._shard = Shard(detection.rules)
        self._incomplete = self._copies = 0
        if state is not None:
            self._shard.restore(state)
            detection.shards[self._shard.number] = self._shard

    def on_batch(self, values: list[ShardBatch | Wake]) -> tuple[Iterable[Transition], bool]:
        # Which shard this is, is told by what comes: Bytewax does not tell a logic its key.
        self._shard.number = values[0].shard
        self._detection.shards[self._shard.number] = self._shard
        transitions: list[Transition] = []
        for value in values:
            if isinstance(value, ShardBatch):
                self._shard.add(value, transitions)
            else:
                self._shard.advance(self._detection.watermarks, transitions)
        self._count()
        return transitions, StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[Iterable[Transition], bool]:
        return self._shard.take_cancelled(), StatefulBatchLogic.RETAIN

    def notify_at(self) -> dt.datetime | None:
        return dt.datetime.now(dt.UTC) if self._shard.has_cancelled else None

    def snapshot(self) -> bytes:
        return self._shard.pack()

    def _count(self) -> None:
        incomplete, copies = self._shard.incomplete, self._shard.copies
        INCOMPLETE.inc(incomplete - self._incomplete)
        COPIES.inc(copies - self._copies)
        self._incomplete, self._copies = incomplete, copies


def ticks(arrivals: Arrivals) -> list[Tick]:
    """The partitions' states for every shard: there is no broadcast, and a shard's key finds its worker."""
    return [Tick(number, arrivals.states) for number in range(SHARDS)] if arrivals.states else []


def shard_name(item: ShardBatch | Tick | Wake) -> str:
    """The key of a shard in the flow; part of the recovery format."""
    return f"s{item.shard:02}"
