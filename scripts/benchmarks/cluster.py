"""The real Kafka of a benchmark: one broker that ends with it, topics whose records stay, what a group committed."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import typer
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

ROOT = Path(__file__).parents[2]
_COMMIT_OF_OFFSETS = (0, 1)
_NEW_S = 30.0
_HAS_NOT_HEARD = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
_NOT_YET = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._TIMED_OUT,
)


class Commit(NamedTuple):
    """A committed offset as the broker wrote it down; `at_ms` by the broker's clock, which is this machine's."""

    at_ms: int
    partition: int
    offset: int


class Cluster:
    """Kafka at `bootstrap`, asked by plain clients."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def create_topic(self, name: str, partitions: int) -> None:
        """Retention goes by the records' timestamps, which may lie long ago: nothing is deleted."""
        config = {"retention.ms": "-1", "max.message.bytes": "10000000"}
        self.admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(30)

    def delete_topic(self, name: str) -> None:
        with suppress(KafkaException):
            self.admin.delete_topics([name])[name].result(30)

    def reader(self, **properties: object) -> Consumer:
        """A consumer of no group that commits nothing; `properties` with underscores for dots."""
        config: dict[str, object] = {
            "bootstrap.servers": self.bootstrap,
            "group.id": "bench-reader",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
        return Consumer(config | {name.replace("_", "."): value for name, value in properties.items()})

    def partitions(self, topic: str) -> list[int]:
        found = self.admin.list_topics(topic, timeout=10).topics.get(topic)
        return sorted(found.partitions) if found is not None and found.error is None else []

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The offsets that a group has committed by now, by partition. Empty while a new cluster finds coordinators."""
        consumer = self.reader(group_id=group)
        try:
            places = [TopicPartition(topic, number) for number in self.partitions(topic)]
            return {place.partition: place.offset for place in consumer.committed(places, timeout=10)}
        except KafkaException as error:
            if error.args[0].code() in _NOT_YET:
                return {}
            raise
        finally:
            consumer.close()

    def commits(self, group: str, topic: str) -> list[Commit]:
        """All that a group ever committed for a topic, by time.

        Read from Kafka's own topic of offsets once they are all there, so that looking disturbs nothing. The form of
        its records is that of Kafka's OffsetCommitKey (versions 0 and 1) and OffsetCommitValue (all versions).
        """
        found = []
        for key, value, at_ms in self._everything("__consumer_offsets"):
            if key is None or value is None or struct.unpack_from(">h", key)[0] not in _COMMIT_OF_OFFSETS:
                continue
            names, position = [], 2
            for _ in range(2):
                (length,) = struct.unpack_from(">h", key, position)
                names.append(key[position + 2 : position + 2 + length].decode())
                position += 2 + length
            if names == [group, topic]:
                (partition,) = struct.unpack_from(">i", key, position)
                (offset,) = struct.unpack_from(">q", value, 2)
                found.append(Commit(at_ms, partition, offset))
        return sorted(found)

    def _everything(self, topic: str) -> Iterator[tuple[bytes | None, bytes | None, int]]:
        consumer = self.reader()
        try:
            for number in self.partitions(topic):
                position, end = _edges(consumer, TopicPartition(topic, number))
                consumer.assign([TopicPartition(topic, number, position)])
                while position < end:
                    for message in consumer.consume(1000, 1.0):
                        if message.error() is None:
                            position = (message.offset() or 0) + 1
                            yield message.key(), message.value(), message.timestamp()[1]
        finally:
            consumer.close()


def _edges(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """First and end offset, also of a partition that is so new that its leader has not heard of it."""
    deadline = time.monotonic() + _NEW_S
    while True:
        try:
            return consumer.get_watermark_offsets(place, timeout=10)
        except KafkaException as error:
            if error.args[0].code() not in _HAS_NOT_HEARD or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextmanager
def kafka(directory: Path) -> Iterator[Cluster]:
    """A cluster of one broker that ends with the block, or the one that KAFKA_BOOTSTRAP_SERVERS names."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield Cluster(given)
        return
    script = [sys.executable, str(ROOT / "scripts/kafka")]
    place = ["--dir", str(directory / "kafka")]
    start = [*script, "start", "--brokers", "1", "--free-ports", "--die-with", str(os.getpid()), *place]
    try:
        started = subprocess.run(start, check=False, stdout=subprocess.PIPE, text=True)
        if started.returncode:
            raise typer.Exit(1)  # it has said why
        yield Cluster(started.stdout.split()[-1])
    finally:
        subprocess.run([*script, "stop", *place], check=False, stderr=subprocess.DEVNULL)
