"""All rules over the keys of one worker, by shard: the unit of state, of snapshots and of work that moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from detection.count import CountEvaluator
from detection.keys import SHARDS, Key, shard_of
from detection.rows import Batch, Rows, side_by_side
from detection.rules import CountRule
from detection.stored import Stored, read_stored
from detection.transitions import Transition
from detection.watermarks import Watermarks

_KEPT_AT_LEAST = 4096
_FORMAT = 3

Reached = tuple[str | None, int]
"""(log, the offset before which all is counted)"""


class _Packed(Stored, array_like=True):
    number: int
    evaluators: list[bytes]
    reached: list[tuple[str, str | None, list[tuple[int, int]]]]
    """(topic, log, [(partition, the offset before which all is counted)])"""


class Detector:
    """The evaluators of all rules.

    `thinning` bounds what a hot key holds at the price of peaks that are lower bounds (detection in a live job);
    without it every peak is exact (backtest). `shards` is 1 where nothing is ever packed.
    """

    def __init__(self, rules: Sequence[CountRule], *, shards: int = SHARDS, thinning: bool = True) -> None:
        alike: dict[Any, dict[int, CountRule]] = {}
        for position, rule in enumerate(rules):
            alike.setdefault(rule.events, {})[position] = rule
        self.evaluators: dict[int, CountEvaluator] = {}
        """By the position of their first rule."""
        for group in alike.values():
            most = max(_KEPT_AT_LEAST, *(4 * rule.threshold for rule in group.values())) if thinning else None
            self.evaluators[min(group)] = CountEvaluator(*group.values(), max_kept=most, shards=shards)
        self.sizes = [0] * shards
        """Bytes of each shard when it was packed last."""
        self._reached: dict[tuple[str, int], Reached] = {}
        """By topic and partition."""
        self._ahead: dict[tuple[str, int], dict[int, Reached]] = {}
        """How far each shard was when it was packed, until all are as far again. See `connectors.turns`."""

    @property
    def incomplete(self) -> int:
        return sum(evaluator.incomplete for evaluator in self.evaluators.values())

    @property
    def copies(self) -> int:
        return sum(evaluator.copies for evaluator in self.evaluators.values())

    def add(self, batches: Sequence[Batch], out: list[Transition]) -> None:
        """Count the rows of batches that came together; append the transitions they caused to `out`.

        After a restart a shard passes over what it had counted before.
        """
        if self._ahead:
            batches = [self._not_yet_counted(batch) for batch in batches]
        ordered: dict[tuple[int, ...], Sequence[Rows]] = {}
        for position, evaluator in self.evaluators.items():
            parts = [batch.rows[position] for batch in batches if position in batch.rows]
            if parts:
                same = tuple(map(id, parts))
                if same not in ordered:
                    ordered[same] = side_by_side(parts)
                for rows in ordered[same]:
                    evaluator.add(rows, out)
        for batch in batches:
            place = (batch.topic, batch.partition)
            if not batch.is_cut:
                self._reached[place] = (batch.log, batch.next_offset)
            elif place in self._reached:
                self._reached[place] = _cut_off(self._reached[place], batch)

    def is_due(self, shard: int, watermarks: Watermarks) -> bool:
        """Whether `advance` would have anything to do."""
        return any(
            evaluator.is_due(shard, watermarks.watermark(topic), watermarks.floor(topic))
            for evaluator in self.evaluators.values()
            for topic in (evaluator.topic,)
        )

    def advance(self, shard: int, watermarks: Watermarks, out: list[Transition]) -> None:
        """Resolve and free what is due in a shard; append the transitions to `out`."""
        for evaluator in self.evaluators.values():
            topic = evaluator.topic
            evaluator.advance(shard, watermarks.watermark(topic), watermarks.floor(topic), out)

    def pack(self, shard: int) -> bytes:
        """The state of a shard as immutable bytes."""
        evaluators = [evaluator.pack(shard) for evaluator in self.evaluators.values()]
        logs: dict[tuple[str, str | None], list[tuple[int, int]]] = {}
        ahead = {place: shards[shard] for place, shards in self._ahead.items() if shard in shards}
        for (topic, partition), (log, offset) in (self._reached | ahead).items():
            logs.setdefault((topic, log), []).append((partition, offset))
        reached = [(*log, offsets) for log, offsets in logs.items()]
        packed = msgspec.msgpack.encode(_Packed(_FORMAT, shard, evaluators, reached))
        self.sizes[shard] = len(packed)
        return packed

    def restore(self, packed: bytes) -> tuple[int, list[Transition]]:
        """Take over the state of a shard that `pack` gave, perhaps under other rules: its number, and what that ended.

        A rule with the same name and meaning goes on. State of any other is dropped; its open alerts are cancelled.
        """
        state = read_stored(packed, _Packed, _FORMAT, "detection state")
        self.sizes[state.number] = len(packed)
        for topic, log, offsets in state.reached:
            for partition, offset in offsets:
                self._ahead.setdefault((topic, partition), {})[state.number] = (log, offset)
        cancelled: list[Transition] = []
        known = frozenset(alerts.identity for evaluator in self.evaluators.values() for alerts in evaluator.alerts)
        for part in state.evaluators:
            for evaluator in self.evaluators.values():
                if evaluator.restore(part, state.number):
                    break
            cancelled += CountEvaluator.cancelled(part, known)
        return state.number, cancelled

    def _not_yet_counted(self, batch: Batch) -> Batch:
        """Without the rows that their shards had counted when they were packed."""
        place = (batch.topic, batch.partition)
        ahead = self._ahead.get(place)
        if ahead is None:
            return batch
        if batch.is_cut:
            self._ahead[place] = {shard: _cut_off(reached, batch) for shard, reached in ahead.items()}
            return batch
        until = {shard: _counted(reached, batch) for shard, reached in ahead.items()}
        # The others are as far as all from now on.
        left = {shard: ahead[shard] for shard, offset in until.items() if offset > batch.next_offset}
        if left:
            self._ahead[place] = left
        else:
            del self._ahead[place]
        columns: dict[int, list[Key | None]] = {}
        for rows in batch.rows.values():
            if id(rows.keys) not in columns:
                columns[id(rows.keys)] = [
                    None if key is None or offset < until.get(shard_of(key), 0) else key
                    for key, offset in zip(rows.keys, rows.offsets, strict=True)
                ]
        return batch._replace(
            rows={number: rows._replace(keys=columns[id(rows.keys)]) for number, rows in batch.rows.items()}
        )


def _counted(reached: Reached, batch: Batch) -> int:
    """The offset before which a shard that reached so far has counted the log of a batch."""
    log, offset = reached
    return offset if log == batch.log or log is None or batch.log is None else 0


def _cut_off(reached: Reached, batch: Batch) -> Reached:
    return batch.log, min(batch.next_offset, _counted(reached, batch))
