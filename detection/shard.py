"""All rules over the keys of one shard: the unit of state, of snapshots and of work that moves between workers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from detection.count import CountEvaluator, Row
from detection.rules import CountRule
from detection.transitions import Transition
from detection.watermarks import Watermarks

_KEPT_AT_LEAST = 4096
_FORMAT = 2


class ShardBatch(msgspec.Struct, frozen=True):
    """Rows of one partition for one shard. `rows`: position of the rule -> rows in log order, none older than
    `lowest_ms`."""

    shard: int
    partition: int
    lowest_ms: int
    rows: dict[int, list[Row]]


class _Packed(msgspec.Struct, array_like=True):
    format: int
    number: int
    evaluators: dict[str, bytes]


class Shard:
    """The evaluators of all rules, for the keys of one shard.

    `thinning` bounds what a hot key holds at the price of peaks that are lower bounds (detection in a live job);
    without it every peak is exact (backtest).
    """

    def __init__(self, rules: Sequence[CountRule], number: int = 0, *, thinning: bool = True) -> None:
        self.number = number
        self.evaluators = [
            CountEvaluator(rule, max(4 * rule.threshold, _KEPT_AT_LEAST) if thinning else None) for rule in rules
        ]
        self._packed: list[bytes | None] = [None] * len(rules)
        self._cancelled: list[Transition] = []

    @property
    def incomplete(self) -> int:
        return sum(evaluator.incomplete for evaluator in self.evaluators)

    @property
    def copies(self) -> int:
        return sum(evaluator.copies for evaluator in self.evaluators)

    def add(self, batch: ShardBatch, out: list[Transition]) -> None:
        """Count the rows of a batch; append the transitions they caused to `out`."""
        for position, rows in batch.rows.items():
            self.evaluators[position].add(batch.partition, rows, out, batch.lowest_ms)
            self._packed[position] = None

    def is_due(self, watermarks: Watermarks) -> bool:
        """Whether `advance` would have anything to do."""
        return any(_is_due(evaluator, watermarks) for evaluator in self.evaluators)

    def advance(self, watermarks: Watermarks, out: list[Transition]) -> None:
        """Resolve and free what is due; append the transitions to `out`."""
        for position, evaluator in enumerate(self.evaluators):
            if _is_due(evaluator, watermarks):
                topic = evaluator.rule.topic.name
                evaluator.advance(watermarks.watermark(topic), watermarks.floor(topic), out)
                self._packed[position] = None

    def take_cancelled(self) -> list[Transition]:
        """The ends of alerts whose rule is not configured any more, as found by `restore`; once."""
        cancelled, self._cancelled = self._cancelled, []
        return cancelled

    @property
    def has_cancelled(self) -> bool:
        return bool(self._cancelled)

    def pack(self) -> bytes:
        """The state as immutable bytes. Only evaluators that changed since the last time are packed anew."""
        for position, evaluator in enumerate(self.evaluators):
            if self._packed[position] is None:
                self._packed[position] = evaluator.pack()
        parts = zip(self.evaluators, self._packed, strict=True)
        evaluators = {_identity(evaluator): packed for evaluator, packed in parts if packed is not None}
        return msgspec.msgpack.encode(_Packed(_FORMAT, self.number, evaluators))

    def restore(self, packed: bytes) -> None:
        """Take over state that `pack` gave, perhaps under other rules.

        A rule with the same name and meaning goes on. State of any other is dropped; its open alerts are cancelled.
        """
        state = msgspec.msgpack.decode(packed, type=_Packed)
        if state.format != _FORMAT:
            raise ValueError(
                f"detection state has format {state.format}; this version of tua reads {_FORMAT}. Go on with the"
                " version that wrote it, or move the recovery store in state.directory away to start empty"
            )
        self.number = state.number
        known = {_identity(evaluator): evaluator for evaluator in self.evaluators}
        for identity, part in state.evaluators.items():
            if identity in known:
                known[identity].restore(part)
            else:
                CountEvaluator.of_another_rule(part).cancel(self._cancelled)


def _identity(evaluator: CountEvaluator) -> str:
    return f"{evaluator.rule.name}@{evaluator.version}"


def _is_due(evaluator: CountEvaluator, watermarks: Watermarks) -> bool:
    topic, end, free = evaluator.rule.topic.name, evaluator.next_end, evaluator.next_free
    return (end is not None and end < watermarks.watermark(topic)) or (
        free is not None and free <= watermarks.floor(topic)
    )
