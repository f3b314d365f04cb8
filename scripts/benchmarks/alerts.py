"""What the job told on its topic of alerts."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Consumer, Message, TopicPartition

from scripts.benchmarks.cluster import Cluster
from scripts.benchmarks.orders import Alert


class Told(NamedTuple):
    """One message about an alert; `at_ms` when the job handed it to its producer."""

    at_ms: int
    alert: dict[str, Any]


class AlertsTopic:
    """A reader of `<prefix>.alerts` from its beginning, as far as it has been asked to read."""

    def __init__(self, cluster: Cluster, prefix: str) -> None:
        self.told: list[Told] = []
        self._cluster, self._topic = cluster, f"{prefix}.alerts"
        self._consumer: Consumer | None = None
        self._last: dict[str, dict[str, Any]] = {}

    def read(self, seconds: float) -> int:
        """Take what is there, and what comes within that time; how many messages."""
        reader = self._reader()
        if reader is None:
            time.sleep(seconds)
            return 0
        messages = reader.consume(10_000, seconds)
        good = [message for message in messages if message.error() is None]
        for message in good:
            self._take(message)
        return len(good)

    def read_until(self, done: Callable[[], bool], quiet_s: float) -> None:
        """Read until that is so, or nothing has come for so long."""
        heard = time.monotonic()
        while not done() and time.monotonic() - heard < quiet_s:
            if self.read(0.1):
                heard = time.monotonic()

    def over(self) -> set[Alert]:
        """The alerts that are over and are not part of another, as last told."""
        return {
            Alert(
                alert["rule"], alert["key"]["product.name"], ms(alert["opened_at"]), ms(alert["resolves_at"]),
                alert["events"],
            )
            for alert in self._last.values()
            if alert["status"] == "resolved" and not alert.get("merged_into")
        }  # fmt: skip

    @property
    def open(self) -> int:
        """How many alerts are open."""
        return sum(alert["status"] != "resolved" for alert in self._last.values())

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()

    def _reader(self) -> Consumer | None:
        if self._consumer is None:
            numbers = self._cluster.partitions(self._topic)
            if not numbers:
                return None
            self._consumer = self._cluster.reader()
            self._consumer.assign([TopicPartition(self._topic, number, 0) for number in numbers])
        return self._consumer

    def _take(self, message: Message) -> None:
        alert = msgspec.json.decode(message.value() or b"")
        self.told.append(Told(message.timestamp()[1], alert))
        before = self._last.get(alert["id"])
        if before is None or before["sequence"] <= alert["sequence"]:
            self._last[alert["id"]] = alert


def ms(text: str) -> int:
    """Milliseconds since 1970 of a time in an alert."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)
