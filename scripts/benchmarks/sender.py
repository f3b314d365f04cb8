"""Live orders at a steady rate, among them bursts that each must open one alert. Runs in a process of its own.

    python -m scripts.benchmarks.sender BOOTSTRAP TOPIC {json of a Load}

An order's record timestamp is when it was handed to the producer, so that an alert's evidence says when that was.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from confluent_kafka import Producer

from scripts.benchmarks.cluster import ROOT, Cluster
from scripts.benchmarks.orders import value_of

_TICK_S = 0.002


class Load(msgspec.Struct, frozen=True):
    """`rate` orders a second for `seconds`: of `products` by chance, and `bursts` times a second `burst` orders of a
    product that was never ordered before, each within the time of two bursts' orders."""

    rate: int
    seconds: float
    products: int
    partitions: int
    bursts: float
    burst: int

    @property
    def period(self) -> int:
        """A burst begins with each order of which the number is a multiple of this. 0: there are none."""
        return max(2 * self.burst, int(self.rate / self.bursts)) if self.bursts else 0


def send(bootstrap: str, topic: str, load: Load) -> None:
    """Send until it is over. Orders of one burst lie on all partitions, like those of any product."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 1, "log_level": 0, "enable.idempotence": True}
    )
    chance, sent = random.Random(7), 0
    probe = load.products + time.time_ns() // 1_000_000
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < load.seconds:
        due = int(elapsed * load.rate)
        for number in range(sent, due):
            product = int(chance.random() * load.products)
            if load.period and number % load.period < 2 * load.burst and number % 2 == 0:
                product = probe + number // load.period
            value = value_of(number, product, 12_345)
            producer.produce(topic, value, b"%d" % number, partition=number % load.partitions)
            if number % 1000 == 0:
                producer.poll(0)
        sent = max(sent, due)
        producer.poll(0)
        time.sleep(_TICK_S)
    if producer.flush(30):
        raise RuntimeError("Kafka did not take all orders")


@contextmanager
def sending(cluster: Cluster, topic: str, load: Load) -> Iterator[subprocess.Popen[bytes]]:
    """Orders flow while the block runs, or until they are over."""
    command = [sys.executable, "-m", "scripts.benchmarks.sender", cluster.bootstrap, topic]
    process = subprocess.Popen([*command, msgspec.json.encode(load).decode()], cwd=ROOT, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    send(sys.argv[1], sys.argv[2], msgspec.json.decode(sys.argv[3], type=Load))
