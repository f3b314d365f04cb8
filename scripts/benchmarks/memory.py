"""`scripts/bench memory`: what live keys take, what a hot key takes, and that a quiet key takes nothing.

All of it is of the real job, from outside: its resident memory, and the packed state in its recovery store. A key's
share is the difference to a run over as many orders of a thousand products, of which next to nothing is live in the
end; less 8 bytes for each order's timestamp.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import KafkaException, Producer

from scripts.benchmarks.cluster import Cluster
from scripts.benchmarks.job import Job, JobFailed, configuration, running
from scripts.benchmarks.orders import LATENESS_MS, SHIPPED, Made, Orders, value_of
from scripts.benchmarks.progress import Bar
from scripts.benchmarks.results import Result
from scripts.benchmarks.state import shard_bytes
from scripts.benchmarks.throughput import fill, wait_until_through

TIMESTAMP_BYTES = 8
_SETTLE_S = 3.0
_FREED_S = 60.0
_NEXT_TO_NOTHING = 16_384  # of empty shards
_SAMPLE_S = 0.5
_FEW = 1_000


class _Held(NamedTuple):
    resident_bytes: int
    peak_bytes: int
    state_bytes: int
    freed_bytes: int
    most_bytes_of_a_shard: int


def run(cluster: Cluster, directory: Path, keys: int, hot_seconds: int, bar: Bar) -> Iterator[Result]:
    """The results as they come."""
    yield _result("per-key", {"keys": keys, "orders_per_key": 10}, lambda: _per_key(cluster, directory, keys, bar))
    parameters = {"rate": 100_000, "seconds": hot_seconds}
    yield _result("hot-key", parameters, lambda: _hot_key(cluster, directory, hot_seconds, bar))


def _result(case: str, parameters: dict[str, Any], measure: Any) -> Result:
    try:
        values = measure()
    except (JobFailed, KafkaException, RuntimeError) as error:
        return Result("memory", case, parameters, failed=str(error))
    return Result("memory", case, parameters, values)


def _per_key(cluster: Cluster, directory: Path, keys: int, bar: Bar) -> dict[str, Any]:
    count = 10 * keys
    # All orders lie within window and lateness of the last one, so that none of their keys may be freed.
    pace = count * 1000 // (SHIPPED.window_ms + LATENESS_MS - 5_000)
    many = _held(cluster, directory, Orders(count, keys, pace=pace, closed=False), "live keys", bar)
    few = _held(cluster, directory, Orders(count, _FEW, pace=_FEW, closed=False), "a thousand keys", bar)

    def per_key(with_keys: int, without: int) -> int:
        return round((with_keys - without - TIMESTAMP_BYTES * count) / keys)

    return {
        "bytes_per_key": per_key(many.resident_bytes, few.resident_bytes),
        "bytes_per_key_at_peak": per_key(many.peak_bytes, few.peak_bytes),
        "resident_mb": round(many.resident_bytes / 1e6),
        "resident_mb_with_few_keys": round(few.resident_bytes / 1e6),
        "peak_mb": round(many.peak_bytes / 1e6),
        "peak_mb_with_few_keys": round(few.peak_bytes / 1e6),
        "state_mb": round(many.state_bytes / 1e6, 3),
        "state_mb_once_quiet": round(many.freed_bytes / 1e6, 3),
    }


def _hot_key(cluster: Cluster, directory: Path, seconds: int, bar: Bar) -> dict[str, Any]:
    orders = Orders(100_000 * seconds, 1, pace=100_000, closed=False)
    held = _held(cluster, directory, orders, "a hot key", bar)
    return {
        "most_state_bytes": held.most_bytes_of_a_shard,
        "resident_mb": round(held.resident_bytes / 1e6),
        "state_mb_once_quiet": round(held.freed_bytes / 1e6, 3),
    }


def _held(cluster: Cluster, directory: Path, orders: Orders, what: str, bar: Bar) -> _Held:
    """What a job holds when it is through, and when event time has gone on so far that nothing is live any more."""
    name = f"bench-memory-{time.time_ns() // 1_000_000}"
    made, _ = fill(cluster, orders, bar)
    state = directory / name / "state"
    config = configuration(name, cluster.bootstrap, made.topic, orders.partitions, [SHIPPED], state)
    most = 0
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory / name, ignore_errors=True)
        stack.callback(cluster.delete_topic, made.topic)
        job = stack.enter_context(running(Job(directory / name, config)))
        with bar.task(f"memory: {what}", len(made.times)) as advance:

            def moved(more: int) -> None:
                nonlocal most
                most = max(most, *shard_bytes(state).values(), 0)
                advance(more)

            wait_until_through(cluster, job, name, made, moved)
        time.sleep(_SETTLE_S)
        usage, sizes = job.usage(), shard_bytes(state)
        most = max(most, *sizes.values(), 0)
        _move_on(cluster, made)
        freed, deadline = sum(sizes.values()), time.monotonic() + _FREED_S
        enough = max(freed // 100, _NEXT_TO_NOTHING)
        with bar.task(f"memory: {what}, freed", None):
            while time.monotonic() < deadline and freed > enough:
                time.sleep(_SAMPLE_S)
                freed = sum(shard_bytes(state).values())
        job.stop()
    return _Held(usage.resident_bytes, usage.peak_bytes, sum(sizes.values()), freed, most)


def _move_on(cluster: Cluster, made: Made) -> None:
    """A delete on each partition, later than all that any order could still need."""
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "log_level": 0})
    later_ms = int(made.times.max()) + made.orders.longest_window_ms + LATENESS_MS
    for partition in made.ends:
        value = value_of(0, -1, 0)
        producer.produce(made.topic, value, b"0", partition=partition, timestamp=later_ms)
    if producer.flush(30):
        raise RuntimeError("Kafka did not take the last messages")
