"""How partitions, keys and state spread over processes, and what moves when their number changes, without running them.

    scripts/simulate_scaling.py                      100 partitions, 10,000,000 keys, 1 to 16 processes
    scripts/simulate_scaling.py --keys 100000 --format json

Which shard a key has is computed by the job's own function. Which process has a shard or a slot is Bytewax's choice,
written down here from its source (0.21.1) and held to it by a test. How large the state of a key is, and how long it
takes to unpack, is measured, by real shards with real events.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Annotated, Any, NamedTuple
from zlib import crc32

import msgspec
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from connectors.exchange import worker_of_shard
from connectors.source import SLOTS
from detection.detector import Detector
from detection.intake import Record, Records, TopicIntake
from detection.keys import SHARDS, shard_of
from detection.rows import Batch
from detection.rules import CountRule, Topic
from detection.watermarks import NEVER

READ_S_PER_MB = 0.0065
"""From the recovery store to the process that has the shard, for each MB that this process gets. Measured on two cores:
three processes with 64 and 256 MB, through loopback, where one process alone took 0.0027."""

SAMPLE_KEYS = 20_000
PROCESSES = range(1, SLOTS + 1)
CHANGES = ((1, 2), (2, 3), (2, 4), (3, 4), (4, 8), (8, 16), (4, 2), (8, 4))


class Spread(NamedTuple):
    """Of a number over the processes."""

    low: int
    mean: float
    high: int

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Spread:
        return cls(min(numbers), sum(numbers) / len(numbers), max(numbers))


class Layout(NamedTuple):
    """A cluster of that many processes. `adds_up_to`: how many processes' work it does when the fullest one is full."""

    processes: int
    partitions: Spread
    shards: Spread
    keys: Spread
    adds_up_to: float


class Change(NamedTuple):
    """`moved_*`: what another process has afterwards. `read_s`: reading and unpacking at any start, moved or not."""

    before: int
    after: int
    moved_shards: int
    moved_keys: int
    moved_mb: float
    read_s: float


class State(NamedTuple):
    """Of one key, in a packed shard, and how long it takes to unpack."""

    bytes_per_key: float
    unpack_ns_per_key: float


def process_of_slot(slot: int, processes: int) -> int:
    """Bytewax: in the order of their names, each part to the first of the workers that have the fewest."""
    return slot % processes


def slot_of(topic: str, partition: int) -> int:
    """As in connectors/source.py."""
    return (crc32(topic.encode()) + partition) % SLOTS


def layout(processes: int, topic: str, partitions: int, keys_of_shards: Sequence[int]) -> Layout:
    """How the work is spread over that many processes."""
    counts = [[0] * processes for _ in range(3)]
    for partition in range(partitions):
        counts[0][process_of_slot(slot_of(topic, partition), processes)] += 1
    for shard, keys in enumerate(keys_of_shards):
        process = worker_of_shard(shard, processes)
        counts[1][process] += 1
        counts[2][process] += keys
    partitions_each, shards_each, keys_each = map(Spread.of, counts)
    return Layout(processes, partitions_each, shards_each, keys_each, sum(keys_of_shards) / max(keys_each.high, 1))


def change(before: int, after: int, keys_of_shards: Sequence[int], state: State) -> Change:
    """What moves between a clean stop of `before` processes and the start of `after`."""
    moved = [shard for shard in range(SHARDS) if worker_of_shard(shard, before) != worker_of_shard(shard, after)]
    keys = sum(keys_of_shards[shard] for shard in moved)
    fullest = layout(after, "", 0, keys_of_shards).keys.high
    read_s = fullest * (state.bytes_per_key / 1e6 * READ_S_PER_MB + state.unpack_ns_per_key / 1e9)
    return Change(before, after, len(moved), keys, keys * state.bytes_per_key / 1e6, read_s)


def count_keys(keys: int) -> list[int]:
    """How many of that many user ids each shard has."""
    counts = [0] * SHARDS
    chunks = range(0, keys, 100_000)
    for first in track(chunks, "keys to shards", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        for number in range(first, min(first + 100_000, keys)):
            counts[shard_of(_user(number))] += 1
    return counts


def measure_state(events_per_key: int) -> State:
    """The state of a sample of keys that have that many events each in the window."""
    topic = Topic("orders")
    rules = [CountRule("many-orders", topic, ("user_id",), threshold=1000, window_ms=3_600_000)]
    intake, highest_ms = TopicIntake(topic, rules), NEVER
    detector = Detector(rules)
    for records in _records(events_per_key):
        taken = intake.take(0, Records.of(records), highest_ms)
        highest_ms = taken.highest_ms
        detector.add([Batch("orders", 0, None, records[-1].offset + 1, taken.rows)], [])
    packed = [detector.pack(number) for number in range(SHARDS)]
    began = time.perf_counter()
    restored = Detector(rules)
    for one in packed:
        restored.restore(one)
    took_s = time.perf_counter() - began
    return State(sum(map(len, packed)) / SAMPLE_KEYS, took_s / SAMPLE_KEYS * 1e9)


def _records(events_per_key: int) -> Iterator[list[Record]]:
    """The sample's events: one of each key in turn, 100 ms after another."""
    for turn in range(events_per_key):
        yield [
            Record(
                msgspec.json.encode({"user_id": _user(key * 499)}),
                (turn * 20 + key % 20) * 100,
                turn * SAMPLE_KEYS + key,
            )
            for key in range(SAMPLE_KEYS)
        ]


def _user(number: int) -> str:
    return f"user-{number:08}"


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


def simulate(
    partitions: Annotated[int, typer.Option(min=1, help="Of the topic.")] = 100,
    keys: Annotated[int, typer.Option(min=1, help="That are live.")] = 10_000_000,
    events_per_key: Annotated[int, typer.Option(min=1, help="In the window.")] = 5,
    topic: str = "orders",
    format_: Annotated[Format, typer.Option("--format")] = Format.TABLE,
) -> None:
    """How partitions, keys and state spread over 1 to 16 processes, and what moves when their number changes."""
    state = measure_state(events_per_key)
    keys_of_shards = count_keys(keys)
    layouts = [layout(processes, topic, partitions, keys_of_shards) for processes in PROCESSES]
    changes = [change(before, after, keys_of_shards, state) for before, after in CHANGES]
    if format_ is Format.JSON:
        print(json.dumps({"state": state._asdict(), "layouts": _plain(layouts), "changes": _plain(changes)}))
        return
    console = Console()
    console.print(
        f"state of a key, measured: {state.bytes_per_key:.0f} bytes, {state.unpack_ns_per_key:,.0f} ns to unpack;"
        f" of all keys {keys * state.bytes_per_key / 1e6:,.0f} MB"
    )
    console.print(_layouts(layouts), _changes(changes))


def _plain(items: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {name: value._asdict() if isinstance(value, Spread) else value for name, value in item._asdict().items()}
        for item in items
    ]


def _layouts(layouts: Sequence[Layout]) -> Table:
    table = Table("processes", "partitions", "shards", "keys of each", "adds up to", title="simulated")
    for one in layouts:
        counts = [f"{spread.low} to {spread.high}" for spread in (one.partitions, one.shards)]
        keys = f"{one.keys.low:,} to {one.keys.high:,}"
        table.add_row(str(one.processes), *counts, keys, f"{one.adds_up_to:.1f}")
    return table


def _changes(changes: Sequence[Change]) -> Table:
    table = Table(
        "change", "shards moved", "keys moved", "MB moved", "state read, s", title="simulated, times measured"
    )
    for one in changes:
        moved = (f"{one.moved_shards} of {SHARDS}", f"{one.moved_keys:,}", f"{one.moved_mb:,.0f}")
        table.add_row(f"{one.before} to {one.after}", *moved, f"{one.read_s:.1f}")
    return table


if __name__ == "__main__":
    typer.run(simulate)
