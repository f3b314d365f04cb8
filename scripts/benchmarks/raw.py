"""The measure of a machine: a plain loop over a topic that decodes nothing and counts. Runs in a process of its own.

    python -m scripts.benchmarks.raw BOOTSTRAP TOPIC COUNT

prints the messages a second, from the first ones that came to the last.
"""

from __future__ import annotations

import subprocess
import sys
import time

from confluent_kafka import Consumer, TopicPartition

from scripts.benchmarks.cluster import ROOT, Cluster

_SILENT_S = 30.0


def loop(consumer: Consumer, count: int) -> float:
    """Messages a second. Raises RuntimeError when they stop coming before there are `count`."""
    counted = first = 0
    began = heard = time.perf_counter()
    while counted < count:
        before = counted
        for message in consumer.consume(1000, 0.1):
            if message.error() is None:
                counted += 1
        if counted > before:
            heard = time.perf_counter()
            if before == 0:
                began, first = heard, counted
        elif time.perf_counter() - heard > _SILENT_S:
            raise RuntimeError(f"nothing came for {_SILENT_S:.0f} s after {counted} of {count} messages")
    return (count - first) / (time.perf_counter() - began)


def measured(cluster: Cluster, topic: str, count: int) -> float:
    """Messages a second of the loop, in a Python that does nothing else."""
    command = [sys.executable, "-m", "scripts.benchmarks.raw", cluster.bootstrap, topic, str(count)]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the plain consumer failed:\n{done.stderr[-2000:]}")
    return float(done.stdout)


def main(bootstrap: str, topic: str, count: str) -> None:
    cluster = Cluster(bootstrap)
    consumer = cluster.reader(fetch_queue_backoff_ms=10)
    consumer.assign([TopicPartition(topic, number, 0) for number in cluster.partitions(topic)])
    print(loop(consumer, int(count)))
    consumer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
