"""scripts/simulate_scaling.py: what it takes for granted about Bytewax and the job, and what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import cluster_main

from connectors.exchange import worker_of_shard
from connectors.slot_positions import SlotPositions
from connectors.source import SLOTS, Slot
from dataflows.detect import Wake, shard_name
from detection.keys import SHARDS
from scripts.simulate_scaling import (
    State,
    change,
    count_keys,
    layout,
    process_of_slot,
    slot_of,
)

ROOT = Path(__file__).parents[2]


class OneItem(StatefulSourcePartition[Any, None]):
    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def next_batch(self) -> list[Any]:
        if not self._items:
            raise StopIteration
        items, self._items = self._items, []
        return items

    def snapshot(self) -> None:
        return None


class Slots(FixedPartitionedSource[Any, None]):
    """Slots as in connectors/source.py; each gives its number, and the first all shards too."""

    def list_parts(self) -> list[str]:
        return [f"in{number:02}" for number in range(SLOTS)]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> OneItem:
        number = int(for_part.removeprefix("in"))
        return OneItem([number, *(Wake(shard) for shard in range(SHARDS) if number == 0)])


class Passes(StatefulBatchLogic[Wake, Wake, None]):
    def on_batch(self, values: list[Wake]) -> tuple[list[Wake], bool]:
        return values, StatefulBatchLogic.RETAIN

    def snapshot(self) -> None:
        return None


class Where(DynamicSink[Any]):
    """Notes which worker got an item."""

    def __init__(self, found: dict[int, int]) -> None:
        self._found = found

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSinkPartition[Any]:
        found = self._found

        class Part(StatelessSinkPartition[Any]):
            def write_batch(self, items: list[Any]) -> None:
                found.update((item.shard if isinstance(item, Wake) else item, worker_index) for item in items)

        return Part()


@pytest.mark.parametrize("processes", [2, 3, 4, 7])
def test_bytewax_gives_slots_and_shards_to_workers_as_it_says(processes: int) -> None:
    slots: dict[int, int] = {}
    shards: dict[int, int] = {}
    flow = Dataflow("flow")
    items = op.branch("kinds", op.input("in", flow, Slots()), lambda item: isinstance(item, Wake))
    op.output("slots", items.falses, Where(slots))
    keyed = op.key_on("key", items.trues, shard_name)
    op.output("shards", op.key_rm("bare", op.stateful_batch("detect", keyed, lambda _: Passes())), Where(shards))
    cluster_main(flow, [], 0, worker_count_per_proc=processes)
    assert slots == {slot: process_of_slot(slot, processes) for slot in range(SLOTS)}
    assert shards == {shard: worker_of_shard(shard, processes) for shard in range(SHARDS)}


def test_a_partition_has_the_slot_that_claims_it() -> None:
    topic, partitions = SimpleNamespace(name="products"), 100
    claimed = {}
    for number in range(SLOTS):
        slot = Slot.__new__(Slot)
        slot._number, slot._own, slot._positions = number, {}, SlotPositions()
        slot._source = SimpleNamespace(topics=[topic])  # type: ignore[assignment]
        slot._reader = SimpleNamespace(poller=SimpleNamespace(add=lambda *_: None))  # type: ignore[assignment]
        slot._claim({"products": partitions})
        claimed |= {partition: number for _, partition in slot._own}
    assert claimed == {partition: slot_of("products", partition) for partition in range(partitions)}


def test_nothing_is_lost_between_processes() -> None:
    keys = count_keys(10_000)
    assert sum(keys) == 10_000
    for processes in range(1, SLOTS + 1):
        one = layout(processes, "orders", 100, keys)
        sums = [spread.mean * processes for spread in (one.partitions, one.shards, one.keys)]
        assert sums == pytest.approx([100, SHARDS, 10_000])
        assert 1 <= one.adds_up_to <= processes
        assert all(spread.low <= spread.mean <= spread.high for spread in (one.partitions, one.shards, one.keys))


def test_what_moves_is_what_another_process_has_afterwards() -> None:
    state, keys = State(100, 1000), [1000] * SHARDS
    assert change(3, 3, keys, state)[2:5] == (0, 0, 0)
    there, back = change(2, 3, keys, state), change(3, 2, keys, state)
    assert there.moved_shards == back.moved_shards > 0
    assert there.moved_mb == pytest.approx(there.moved_shards * 1000 * 100 / 1e6)
    assert there.read_s < back.read_s, "more processes read side by side"


def test_it_says_what_it_found() -> None:
    command = [sys.executable, "-m", "scripts.simulate_scaling", "--keys", "5000", "--format", "json"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(said.stdout)
    assert [one["processes"] for one in found["layouts"]] == list(range(1, SLOTS + 1))
    assert 10 < found["state"]["bytes_per_key"] < 300
    assert said.stderr == ""
