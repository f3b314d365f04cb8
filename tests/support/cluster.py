"""The real Kafka of integration tests: a controller and two brokers, started through scripts/kafka."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.waiting import wait_until

SCRIPT = Path(__file__).parents[2] / "scripts" / "kafka"


class NoKafka(Exception):
    """Why a real Kafka can't be had here."""


class Cluster:
    """With KAFKA_BOOTSTRAP_SERVERS set it is that one, which can't be stopped or killed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
        self.is_ours = given is None
        self.bootstrap = given or self._script("start", "--free-ports", "--die-with", str(os.getpid())).splitlines()[-1]
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def close(self) -> None:
        if self.is_ours:
            self._script("stop")

    def kill_broker(self, number: int) -> None:
        self._script("kill-broker", str(number))

    def start_broker(self, number: int) -> None:
        self._script("start-broker", str(number), "--die-with", str(os.getpid()))

    def signal_brokers(self, number: int) -> None:
        """As SIGSTOP and SIGCONT: brokers that take connections and answer nothing."""
        for broker in ("broker-1", "broker-2"):
            os.kill(int((self._directory / broker / "pid").read_text()), number)

    def stop_brokers(self) -> None:
        """Both brokers die; the controller and the data stay."""
        self.kill_broker(1)
        self.kill_broker(2)

    def wait_until_healthy(self) -> None:
        """Both brokers there, every partition with a leader and all its replicas in sync."""

        def healthy() -> bool:
            try:
                found = self.admin.list_topics(timeout=5)
            except KafkaException:
                return False
            partitions = [item for topic in found.topics.values() for item in topic.partitions.values()]
            return len(found.brokers) == 2 and all(
                item.leader >= 0 and len(item.isrs) == len(item.replicas) for item in partitions
            )

        wait_until(healthy, 60, "the cluster to be healthy")

    def create_topic(self, name: str, partitions: int = 1, replication: int = 1, **config: str) -> None:
        """`config` with underscores for dots. Records are kept whatever their timestamps."""
        settings = {"retention.ms": "-1"} | {key.replace("_", "."): value for key, value in config.items()}
        self.admin.create_topics([NewTopic(name, partitions, replication, config=settings)])[name].result(30)

    def delete_topic(self, name: str) -> None:
        self.admin.delete_topics([name])[name].result(30)
        wait_until(lambda: name not in self.admin.list_topics(timeout=5).topics, 30, f"{name} to be gone")

    def produce(self, topic: str, records: Iterable[tuple[int, int, bytes | None, bytes | None]]) -> list[int]:
        """Write (partition, timestamp in ms, key, value) in order; the offset of each."""
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "reconnect.backoff.max.ms": 500,
                "message.max.bytes": 2_000_000,
                "queue.buffering.max.messages": 1_000_000,
                "log_level": 0,
            }
        )
        offsets: list[int] = []

        def delivered(position: int) -> Any:
            def done(error: Any, message: Message) -> None:
                assert error is None, error
                offsets[position] = message.offset() or 0

            return done

        for position, (partition, timestamp, key, value) in enumerate(records):
            offsets.append(-1)
            producer.produce(
                topic, value, key, partition=partition, timestamp=timestamp, on_delivery=delivered(position)
            )
            if position % 1000 == 0:
                producer.poll(0)
        assert producer.flush(60) == 0
        return offsets

    def read_all(self, topic: str) -> list[Message]:
        """All records up to the ends as they are now, by partition."""
        partitions = self.admin.list_topics(topic, timeout=10).topics[topic].partitions
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "test-reader", "log_level": 0})
        try:
            found: dict[int, list[Message]] = defaultdict(list)
            for number in partitions:
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
                consumer.assign([TopicPartition(topic, number, low)])
                while low < high:
                    message = consumer.poll(10)
                    assert message is not None, f"{topic}[{number}] stopped at {low} of {high}"
                    assert message.error() is None, message.error()
                    found[number].append(message)
                    low = (message.offset() or 0) + 1
            return [message for number in sorted(found) for message in found[number]]
        finally:
            consumer.close()

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The offsets that a consumer group has committed, by partition."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": group, "log_level": 0})
        try:
            partitions = self.admin.list_topics(topic, timeout=10).topics[topic].partitions
            places = consumer.committed([TopicPartition(topic, number) for number in partitions], timeout=10)
            return {place.partition: place.offset for place in places if place.offset >= 0}
        finally:
            consumer.close()

    def _script(self, *arguments: str) -> str:
        command = [sys.executable, str(SCRIPT), *arguments, "--dir", str(self._directory)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NoKafka(done.stderr.strip())
        return done.stdout
