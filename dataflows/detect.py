"""Detection inside Bytewax: one stateful logic per shard, and the clock that wakes it.

Bytewax snapshots every key that was awoken in an epoch, whole, changed or not. So the keys are a fixed number of
shards, and news of the watermark goes to a step of its own which keeps nothing and wakes only a shard that has an
alert to resolve or state to free.
"""

from __future__ import annotations

import collections
import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bytewax.operators import StatefulBatchLogic
from prometheus_client import Counter

from connectors.exchange import SHARD_NAMES, Exchange, ShardBatch
from connectors.source import Arrivals
from connectors.workers import PerWorker
from detection.detector import Detector
from detection.rules import CountRule, Topic
from detection.transitions import Transition
from detection.watermarks import PartitionState, Watermarks

INCOMPLETE = Counter("tua_incomplete_events", "Events so old that what they would have met may be freed")
COPIES = Counter("tua_copied_events", "Events whose id was counted before")


class Tick(NamedTuple):
    """How far partitions were at the end of the last epoch, on its way to one worker. `shard` is its carrier."""

    shard: int
    states: list[PartitionState]


class Wake(NamedTuple):
    """Something in this shard is due."""

    shard: int


class Touch(NamedTuple):
    """Rows that came under the name of another shard changed this one, so its snapshot is outdated."""

    shard: int


class Detection:
    """Builds the logics of the `clock` and the `detect` step, which share the detector and watermarks of a worker.

    A key goes to the same worker in both steps.
    """

    def __init__(
        self, rules: Sequence[CountRule], topics: Sequence[Topic], retention_ms: int, exchange: Exchange
    ) -> None:
        self._exchange = exchange
        self._watermarks = PerWorker(lambda: Watermarks(topics, retention_ms))
        self._detectors = PerWorker(lambda: Detector(rules))
        self._first: PerWorker[dict[int, int]] = PerWorker(dict)
        self._counted: PerWorker[collections.Counter[Counter]] = PerWorker(collections.Counter)

    @property
    def watermarks(self) -> Watermarks:
        return self._watermarks.get()

    @property
    def detector(self) -> Detector:
        return self._detectors.get()

    def count(self) -> None:
        """Bring the metrics up to date with this worker's detector."""
        detector, counted = self.detector, self._counted.get()
        now = collections.Counter({INCOMPLETE: detector.incomplete, COPIES: detector.copies})
        for metric, number in (now - counted).items():
            metric.inc(number)
        counted.update(now - counted)

    def ticks(self, arrivals: Arrivals) -> list[Tick]:
        """The partitions' states for every worker: there is no broadcast, and the key of a carrier finds its worker."""
        return [Tick(carrier, arrivals.states) for carrier in self._exchange.shards] if arrivals.states else []

    def shards_with(self, carrier: int) -> Iterable[int]:
        """The shards of a carrier's worker."""
        return self._exchange.shards[carrier]

    def given(self, shard: int) -> None:
        """This worker was given a shard; raises RuntimeError if it can't have it."""
        self._exchange.check(shard, self._first.get().setdefault(0, shard))

    def clock(self, _state: None) -> Clock:
        return Clock(self)

    def detect(self, state: bytes | None) -> Detect:
        return Detect(self, state)


class Clock(StatefulBatchLogic[Tick, Wake, None]):
    """Takes note of the watermarks; wakes a shard if something in it is due. Keeps nothing between calls."""

    def __init__(self, detection: Detection) -> None:
        self._detection = detection

    def on_batch(self, values: list[Tick]) -> tuple[Iterable[Wake], bool]:
        watermarks = self._detection.watermarks
        for tick in values:
            for state in tick.states:
                watermarks.update(state)
        detector, own = self._detection.detector, self._detection.shards_with(values[0].shard)
        due = [Wake(shard) for shard in own if detector.is_due(shard, watermarks)]
        return due, StatefulBatchLogic.DISCARD

    def snapshot(self) -> None:
        return None


class Detect(StatefulBatchLogic[Any, Transition, bytes]):
    """Counts rows and resolves the alerts of one shard. Its state is the shard's packed bytes."""

    def __init__(self, detection: Detection, state: bytes | None) -> None:
        self._detection = detection
        self._shard: int | None = None
        self._cancelled: list[Transition] = []
        if state is not None:
            self._shard, self._cancelled = detection.detector.restore(state)
            detection.given(self._shard)

    def on_batch(self, values: list[ShardBatch | Wake | Touch]) -> tuple[Iterable[Transition], bool]:
        # Which shard this is, is told by what comes: Bytewax does not tell a logic its key.
        if self._shard is None:
            self._shard = values[0].shard
            self._detection.given(self._shard)
        detector = self._detection.detector
        transitions: list[Transition] = []
        detector.add([value.batch for value in values if isinstance(value, ShardBatch)], transitions)
        if any(isinstance(value, Wake) for value in values):
            detector.advance(self._shard, self._detection.watermarks, transitions)
        self._detection.count()
        return transitions, StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[Iterable[Transition], bool]:
        cancelled, self._cancelled = self._cancelled, []
        return cancelled, StatefulBatchLogic.RETAIN

    def notify_at(self) -> dt.datetime | None:
        return dt.datetime.now(dt.UTC) if self._cancelled else None

    def snapshot(self) -> bytes:
        assert self._shard is not None  # there is no logic before there is something for it
        return self._detection.detector.pack(self._shard)


def work(arrivals: Arrivals) -> list[ShardBatch | Touch]:
    """What the shards have to do for some arrivals."""
    return [*arrivals.batches, *map(Touch, arrivals.touched)]


def shard_name(item: ShardBatch | Tick | Wake | Touch) -> str:
    """The key of an item in the flow."""
    return SHARD_NAMES[item.shard]
