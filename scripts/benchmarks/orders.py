"""The orders of a benchmark: as many as wanted, as arrays, in the form of the shop's; and the alerts that are true.

The form is that of scripts/load_orders.py. Array arithmetic, because 20 million orders are made and judged here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from confluent_kafka import Producer
from numpy.typing import NDArray

LATENESS_MS = 10_000  # of the shipped products topic
_DELETES = 0.05
_NO_ORDER = -1
_CHUNK = 50_000
_AGO_MS = 60_000

Ints = NDArray[np.int64]


class Rule(NamedTuple):
    """At least `threshold` orders of one product within `window_ms`."""

    name: str
    threshold: int
    window_ms: int


SHIPPED = Rule("hot-product", 20, 5_000)


def rules(count: int) -> tuple[Rule, ...]:
    """The shipped rule and others with longer windows, whose thresholds are met so rarely that it still alerts most.

    Where 8 orders of a product are usual within 5 s, m are in a longer window: its threshold is m + 4.8 sqrt(m). What
    is compared is the cost of watching; alerts cost by their number, whichever rule they are of.
    """
    found = [SHIPPED]
    for number in range(1, count):
        usual = 8 * (5 + number) / 5
        found.append(Rule(f"hot-product-{number}", round(usual + 4.8 * usual**0.5), 5_000 + 1_000 * number))
    return tuple(found)


class Alert(NamedTuple):
    """What is compared of an alert that is over: the episode, in milliseconds of event time, and its orders."""

    rule: str
    product: str
    opened_at_ms: int
    resolves_at_ms: int
    events: int


@dataclass(frozen=True)
class Orders:
    """How a topic is filled.

    `pace` is orders a second in event time. An order's partition is its product's, as with a producer that has the
    product as its key; with `spread` or `hot` it is any, and `hot` is the share of partition 0. Each order's time is up
    to `disorder_ms` before what the pace says. `message_bytes` pads the values to that size; None leaves them as they
    are, of about 75 bytes.

    Product by chance; one message in 20 is a delete, which does not count. At the end of each partition lie orders
    of a product of its own, of which the last opens an alert by the shipped rule: when it is told, all of the
    partition has been counted. Behind them, where it is `closed`, a delete moves event time on, so that all alerts end
    and all state is freed.
    """

    count: int
    products: int = 1_000
    partitions: int = 4
    pace: int = 1_600
    hot: float | None = None
    spread: bool = False
    disorder_ms: int = 0
    message_bytes: int | None = None
    longest_window_ms: int = 30_000
    closed: bool = True
    seed: int = 34

    @property
    def duration_ms(self) -> int:
        return self.count * 1000 // self.pace

    def end_product(self, partition: int) -> int:
        return self.products + partition

    def made(self, now_ms: int) -> Made:
        """The orders, all of them before `now_ms`."""
        chance = np.random.default_rng(self.seed)
        start_ms = now_ms - _AGO_MS - self.longest_window_ms - LATENESS_MS - self.duration_ms
        times = start_ms + np.arange(self.count, dtype=np.int64) * 1000 // self.pace
        if self.disorder_ms:
            times -= chance.integers(0, self.disorder_ms, self.count, endpoint=True)
        products = chance.integers(0, self.products, self.count)
        products[chance.random(self.count) < _DELETES] = _NO_ORDER
        shares = np.full(self.partitions, 1 / self.partitions)
        if self.hot is not None:
            shares[:] = (1 - self.hot) / (self.partitions - 1)
            shares[0] = self.hot
        places = chance.choice(self.partitions, self.count, p=shares).astype(np.int64)
        if self.hot is None and not self.spread:
            places = np.where(products == _NO_ORDER, places, products % self.partitions)
        last_ms = start_ms + self.duration_ms
        over_ms = last_ms + self.longest_window_ms + LATENESS_MS + 1_000
        ends = range(self.partitions)
        closing = ends if self.closed else range(0)
        each = SHIPPED.threshold
        return Made(
            self,
            f"orders-{now_ms}",
            np.concatenate(
                [products, np.repeat([self.end_product(p) for p in ends], each), np.full(len(closing), _NO_ORDER)]
            ),
            np.concatenate([times, np.full(each * len(ends), last_ms), np.full(len(closing), over_ms)]),
            np.concatenate([places, np.repeat(np.arange(len(ends)), each), np.array(closing, dtype=np.int64)]),
        )


@dataclass(frozen=True)
class Made:
    """Orders as they are sent: product (-1: no order), event time, partition; and a name for their topic."""

    orders: Orders
    topic: str
    products: Ints
    times: Ints
    partitions: Ints

    @cached_property
    def ends(self) -> dict[int, int]:
        """How many messages each partition has."""
        return dict(enumerate(np.bincount(self.partitions, minlength=self.orders.partitions).tolist()))

    def send(self, bootstrap: str, progress: Callable[[int], None]) -> int:
        """Produce all in order; `progress` is told how many more have been. Returns the mean bytes of a value.

        Raises RuntimeError when the broker does not take them.
        """
        producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 20,
                "batch.size": 1_000_000,
                "queue.buffering.max.messages": 500_000,
                "queue.buffering.max.kbytes": 1_000_000,
                "log_level": 0,
            }
        )
        topic, size = self.topic, 0
        for chunk in _chunks(self):
            for partition, time_ms, key, value in chunk:
                size += len(value)
                while True:
                    try:
                        producer.produce(topic, value, key, partition=partition, timestamp=time_ms)
                        break
                    except BufferError:
                        producer.poll(0.05)
            producer.poll(0)
            progress(len(chunk))
        left = producer.flush(120)
        if left:
            raise RuntimeError(f"Kafka has not taken {left} of the orders within two minutes")
        return size // len(self.times)

    def true_alerts(self, of: tuple[Rule, ...]) -> set[Alert]:
        """All episodes, straight from the definition in docs/detection.md. No order may be late."""
        counted = self.products >= 0
        by_product = np.lexsort((self.times[counted], self.products[counted]))
        products, times = self.products[counted][by_product], self.times[counted][by_product]
        return {alert for rule in of for alert in episodes(products, times, rule)}


def episodes(products: Ints, times: Ints, rule: Rule) -> Iterator[Alert]:
    """The maximal intervals of the union over i of [s_{i+N-1}, s_i + W), for each product.

    `products` is sorted, and `times` within each product. Both ends of these intervals grow with i, so one begins an
    episode unless it touches the one before it.
    """
    n, window = rule.threshold, rule.window_ms
    if len(times) < n:
        return
    starts, ends = times[n - 1 :], times[: len(times) - n + 1] + window
    breach = (products[n - 1 :] == products[: len(products) - n + 1]) & (starts < ends)
    whose, starts, ends = products[n - 1 :][breach], starts[breach], ends[breach]
    if not len(whose):
        return
    begins = np.ones(len(whose), dtype=bool)
    begins[1:] = (whose[1:] != whose[:-1]) | (starts[1:] > ends[:-1])
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(whose)) - 1
    whose, starts, ends = whose[first], starts[first], ends[last]
    for product, start, end in zip(whose.tolist(), starts.tolist(), ends.tolist(), strict=True):
        low, high = np.searchsorted(products, (product, product + 1))
        own = times[low:high]
        events = int(np.searchsorted(own, end) - np.searchsorted(own, start - window, side="right"))
        yield Alert(rule.name, f"product {product}", start, end, events)


def _chunks(made: Made) -> Iterator[list[tuple[int, int, bytes, bytes]]]:
    """(partition, time, key, value) of each message."""
    prices = np.random.default_rng(made.orders.seed).integers(5_000, 90_000, _CHUNK).tolist()
    padded = made.orders.message_bytes
    for first in range(0, len(made.times), _CHUNK):
        part = slice(first, first + _CHUNK)
        columns: Any = zip(
            made.products[part].tolist(),
            made.times[part].tolist(),
            made.partitions[part].tolist(),
            prices,
            strict=False,
        )
        chunk = []
        for number, (product, time_ms, partition, price) in enumerate(columns, first + 1):
            value = value_of(number, product, price)
            if padded is not None:
                value = f'{value[:-1]},"note":"{"x" * (padded - len(value) - 10)}"}}'
            chunk.append((partition, time_ms, b"%d" % number, value.encode()))
        yield chunk


def value_of(number: int, product: int, price: int) -> str:
    """An order as the shop sends it, or a delete; the price in hundredths."""
    if product == _NO_ORDER:
        return f'{{"product":{{"id":"{number}","name":null,"price":null}},"action":"delete"}}'
    return f'{{"product":{{"id":"{number}","name":"product {product}","price":{price / 100}}},"action":"add"}}'
