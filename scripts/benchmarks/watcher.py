"""The reference for latency: a plain consumer, in a process of its own, that notes when it had which offset.

    python -m scripts.benchmarks.watcher BOOTSTRAP TOPIC >FILE

writes `partition offset milliseconds` for the highest offset of each batch, until it is killed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import TopicPartition

from scripts.benchmarks.cluster import ROOT, Cluster

Place = tuple[int, int]
"""(partition, offset)"""


class Seen:
    """When a plain consumer had each order, in ms since 1970."""

    def __init__(self, path: Path) -> None:
        self._offsets: dict[int, list[int]] = defaultdict(list)
        self._times: dict[int, list[float]] = defaultdict(list)
        for line in path.read_text(encoding="ascii").splitlines():
            partition, offset, at_ms = line.split()
            self._offsets[int(partition)].append(int(offset))
            self._times[int(partition)].append(float(at_ms))

    def at_ms(self, partition: int, offset: int) -> float | None:
        position = bisect_left(self._offsets[partition], offset)
        times = self._times[partition]
        return times[position] if position < len(times) else None


@contextmanager
def watching(cluster: Cluster, topic: str, path: Path) -> Iterator[None]:
    """Notes go to the file while the block runs."""
    command = [sys.executable, "-m", "scripts.benchmarks.watcher", cluster.bootstrap, topic]
    with path.open("wb") as notes:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=notes)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main(bootstrap: str, topic: str) -> None:
    cluster = Cluster(bootstrap)
    consumer = cluster.reader(fetch_queue_backoff_ms=10)
    consumer.assign([TopicPartition(topic, number, 0) for number in cluster.partitions(topic)])
    while True:
        first = consumer.poll(1.0)
        messages = [first] if first is not None else []
        messages += consumer.consume(1000, 0)
        at_ms = time.time() * 1000
        highest = {message.partition(): message.offset() for message in messages if message.error() is None}
        for partition, offset in highest.items():
            print(partition, offset, f"{at_ms:.1f}")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
