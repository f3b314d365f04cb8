"""All rules over the keys of one worker, by shard: the unit of state, of snapshots and of work that moves."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from detection.count import CountEvaluator
from detection.keys import SHARDS
from detection.rows import Batch, Rows, side_by_side
from detection.rules import CountRule
from detection.transitions import Transition
from detection.watermarks import Watermarks

_KEPT_AT_LEAST = 4096
_FORMAT = 3


class _Packed(msgspec.Struct, array_like=True):
    format: int
    number: int
    evaluators: dict[str, bytes]


class Detector:
    """The evaluators of all rules.

    `thinning` bounds what a hot key holds at the price of peaks that are lower bounds (detection in a live job);
    without it every peak is exact (backtest). `shards` is 1 where nothing is ever packed.
    """

    def __init__(self, rules: Sequence[CountRule], *, shards: int = SHARDS, thinning: bool = True) -> None:
        self.evaluators = [
            CountEvaluator(rule, max(4 * rule.threshold, _KEPT_AT_LEAST) if thinning else None, shards)
            for rule in rules
        ]

    @property
    def incomplete(self) -> int:
        return sum(evaluator.incomplete for evaluator in self.evaluators)

    @property
    def copies(self) -> int:
        return sum(evaluator.copies for evaluator in self.evaluators)

    def add(self, batches: Sequence[Batch], out: list[Transition]) -> None:
        """Count the rows of batches that came together; append the transitions they caused to `out`."""
        ordered: dict[tuple[int, ...], Sequence[Rows]] = {}
        for position, evaluator in enumerate(self.evaluators):
            parts = [batch[position] for batch in batches if position in batch]
            if parts:
                same = tuple(map(id, parts))
                if same not in ordered:
                    ordered[same] = side_by_side(parts)
                for rows in ordered[same]:
                    evaluator.add(rows, out)

    def is_due(self, shard: int, watermarks: Watermarks) -> bool:
        """Whether `advance` would have anything to do."""
        return any(
            evaluator.is_due(shard, watermarks.watermark(topic), watermarks.floor(topic))
            for evaluator in self.evaluators
            for topic in (evaluator.rule.topic.name,)
        )

    def advance(self, shard: int, watermarks: Watermarks, out: list[Transition]) -> None:
        """Resolve and free what is due in a shard; append the transitions to `out`."""
        for evaluator in self.evaluators:
            topic = evaluator.rule.topic.name
            evaluator.advance(shard, watermarks.watermark(topic), watermarks.floor(topic), out)

    def pack(self, shard: int) -> bytes:
        """The state of a shard as immutable bytes."""
        evaluators = {_identity(evaluator): evaluator.pack(shard) for evaluator in self.evaluators}
        return msgspec.msgpack.encode(_Packed(_FORMAT, shard, evaluators))

    def restore(self, packed: bytes) -> tuple[int, list[Transition]]:
        """Take over the state of a shard that `pack` gave, perhaps under other rules: its number, and what that ended.

        A rule with the same name and meaning goes on. State of any other is dropped; its open alerts are cancelled.
        """
        state = msgspec.msgpack.decode(packed, type=_Packed)
        if state.format != _FORMAT:
            raise ValueError(
                f"detection state has format {state.format}; this version of tua reads {_FORMAT}. Go on with the"
                " version that wrote it, or move the recovery store in state.directory away to start empty"
            )
        cancelled: list[Transition] = []
        known = {_identity(evaluator): evaluator for evaluator in self.evaluators}
        for identity, part in state.evaluators.items():
            if identity in known:
                known[identity].restore(part, state.number)
            else:
                CountEvaluator.of_another_rule(part).cancel(cancelled)
        return state.number, cancelled


def _identity(evaluator: CountEvaluator) -> str:
    return f"{evaluator.rule.name}@{evaluator.version}"
