"""What the steps of a Bytewax worker share, in a real flow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.testing import TestingSink, TestingSource, cluster_main

from connectors.workers import PerWorker


class Count(StatefulBatchLogic[int, int, None]):
    """Gives how many batches the keys of its worker have had."""

    def __init__(self, counters: PerWorker[Counter[str]]) -> None:
        self._counters = counters

    def on_batch(self, values: list[int]) -> tuple[Iterable[int], bool]:
        self._counters.get()["batches"] += 1
        return [self._counters.get()["batches"]], StatefulBatchLogic.RETAIN

    def snapshot(self) -> None:
        return None


def test_each_worker_keeps_one_object_over_all_its_calls() -> None:
    """Two workers are two threads that Python has not started."""
    made: list[Counter[str]] = []

    def make() -> Counter[str]:
        made.append(Counter())
        return made[-1]

    counters = PerWorker(make)
    flow, found = Dataflow("flow"), list[tuple[str, int]]()
    items = op.input("input", flow, TestingSource([(str(key), n) for n in range(10) for key in range(8)], 1))
    op.output("output", op.stateful_batch("count", items, lambda _: Count(counters)), TestingSink(found))
    cluster_main(flow, [], 0, worker_count_per_proc=2)
    assert len(made) == 2
    assert sum(counter["batches"] for counter in made) == len(found) > 0
