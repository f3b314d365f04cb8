"""The one Kafka consumer of a process: partitions assigned by hand, records sorted into their partitions.

Nothing here waits for the network: what the broker is asked is answered in the background and looked at by a later
call. Calls come from the flow's thread alone; answers arrive on librdkafka's threads and are queued.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from itertools import groupby
from typing import Any

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_CREATE_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from prometheus_client import Counter

from connectors.client import ConnectionLog, client_config
from connectors.partition import PROMPT_S, Partition
from detection.intake import Record
from detection.rules import Topic
from detection.watermarks import NEVER
from settings import KafkaSettings

log = structlog.get_logger()

MISSED = Counter("tua_missed_records", "Records that were gone from the broker before they were read", ["topic"])

BATCH = 1000
_WAITING_BYTES = 64 * 1024 * 1024
_RECORD_BYTES = 200
_POLL_EVERY_S = 0.001
_REFRESH_S = 15.0
_ASK_EVERY_S = 1.0

Place = tuple[str, int]
"""(topic, partition)"""
Position = tuple[int, int, str | None]
"""(next offset, highest accepted timestamp, id of the topic where brokers have one)"""


class Poller:
    """Reads the partitions that slots `add`.

    `counts` is how many partitions each topic has, kept up to date as topics grow; `looked_s` when `poll` last had a
    look, by a monotonic clock.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        topics: Mapping[str, Topic],
        partitions: Mapping[str, int],
        topic_ids: Mapping[str, str],
        now_ms: Callable[[], int],
    ) -> None:
        self.counts = dict(partitions)
        self.partitions: dict[Place, Partition] = {}
        self._topics, self._ids, self._now_ms = topics, dict(topic_ids), now_ms
        self._errors = ConnectionLog("consumer")
        config = client_config(
            kafka,
            "consumer",
            self._errors,
            group_id=kafka.consumer_group,
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            enable_partition_eof=True,
            # A position that the broker does not have is looked into (`_lost`), never silently moved.
            auto_offset_reset="error",
            # librdkafka waits a second by default each time its local queue is full.
            fetch_queue_backoff_ms=10,
            queued_max_messages_kbytes=65_536,
        )
        self._consumer = Consumer(config)
        self._admin = AdminClient(client_config(kafka, "offsets", ConnectionLog("offsets")))
        self._answers: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._unplaced: list[Partition] = []
        self._lookup: threading.Thread | None = None
        self._polled_s = self._asked_s = self._looked_up_s = -1.0e9
        self._refreshed_s = self.looked_s = time.monotonic()

    def add(self, topic: str, number: int, position: Position | None) -> Partition:
        """Start reading a partition: from `position`, else the group's committed offset, else its beginning."""
        next_offset, highest_ms, stored_id = position or (None, NEVER, None)
        topic_id = self._ids.get(topic)
        known = stored_id if next_offset is not None else topic_id
        partition = Partition(self._topics[topic], number, next_offset, highest_ms, known, time.monotonic())
        self.partitions[topic, number] = partition
        if stored_id and topic_id and stored_id != topic_id:
            self._begin_anew(partition)
        elif next_offset is None:
            self._unplaced.append(partition)
        else:
            self._read_from(partition, next_offset)
        return partition

    def poll(self) -> None:
        """Take what the broker has sent meanwhile; never waits."""
        now_s = time.monotonic()
        if now_s - self._polled_s < _POLL_EVERY_S or not self.partitions:
            return
        if now_s - self.looked_s > PROMPT_S:
            # The job stood still, or was held up: what came meanwhile has not been seen.
            for partition in self.partitions.values():
                partition.unanswered(now_s)
        self._ask(now_s)
        if self._unplaced and self._lookup is None and now_s - self._looked_up_s >= _ASK_EVERY_S:
            self._looked_up_s = now_s
            self._lookup = threading.Thread(target=self._look_up, args=(self._unplaced,), name="tua-offsets")
            self._unplaced = []
            self._lookup.start()
        while not self._answers.empty():
            self._answers.get()()
        if sum(partition.waiting_bytes for partition in self.partitions.values()) > _WAITING_BYTES:
            return
        self.looked_s = now_s
        messages = self._consumer.consume(BATCH, 0)
        if len(messages) < BATCH:
            # Nothing more is there; a full batch says to come back at once.
            self._polled_s = now_s
        if messages:
            self._errors.back()
            for place, run in groupby(messages, key=lambda message: (message.topic(), message.partition())):
                self._sort(place, list(run), now_s)

    def commit(self, partitions: Iterable[Partition]) -> None:
        """Tell the consumer group how far the durable snapshot is, so that Kafka's own tools show the lag."""
        moved = [partition for partition in partitions if partition.next_offset not in (None, partition.committed)]
        if moved:
            offsets = [TopicPartition(item.topic.name, item.number, item.next_offset or 0) for item in moved]
            try:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            except KafkaException as error:
                log.debug("offsets not committed; the next epoch tries again", error=str(error))
                return
            for item in moved:
                item.committed = item.next_offset

    def close(self) -> None:
        if self._lookup is not None:
            self._lookup.join()
        self._consumer.close()

    # What came

    def _sort(self, place: Place, messages: list[Message], now_s: float) -> None:
        partition = self.partitions.get(place)
        if partition is None:
            for message in messages:
                log.warning("Kafka", error=str(message.error()))
            return
        records: list[Record] = []
        by_field = partition.topic.event_time.field is not None
        now_ms, size, expected = self._now_ms(), 0, partition.expected or 0
        for message in messages:
            if (error := message.error()) is not None:
                self._failed(partition, error, message)
                continue
            offset: int = message.offset()  # type: ignore[assignment]  # every record has one
            if offset < expected:
                continue  # read again after a reassignment
            value, (kind, timestamp) = message.value(), message.timestamp()
            arrival = timestamp if by_field else now_ms if kind == TIMESTAMP_CREATE_TIME else None
            records.append((value, timestamp, offset, arrival))  # type: ignore[arg-type]  # quicker than a Record
            size += len(value or b"") + _RECORD_BYTES
        if records:
            partition.arrived(records, size, now_s)

    def _failed(self, partition: Partition, error: KafkaError, message: Message) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            partition.reached_end(message.offset() or 0)
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            self._lost(partition)
        else:
            # Unknown topic while it is created again, no leader while a broker is away: librdkafka goes on trying.
            log.warning("Kafka", topic=partition.topic.name, partition=partition.number, error=error.str())

    def _lost(self, partition: Partition) -> None:
        """The broker does not have the position that was asked for: find out what it has, then go on."""
        name, place = partition.topic.name, TopicPartition(partition.topic.name, partition.number)
        futures = [
            next(iter(self._admin.list_offsets({place: spec}, request_timeout=10).values()))
            for spec in (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
        ]
        if partition.reading_id is not None:
            futures.append(self._admin.describe_topics(TopicCollection([name]), request_timeout=5)[name])

        def found() -> None:
            try:
                low, high, *described = (future.result() for future in futures)
            except KafkaException as error:
                log.warning("offsets can't be had; asking again", topic=name, error=str(error))
                self._lost(partition)
            else:
                topic_id = str(described[0].topic_id) if described else None
                self._found(partition, low.offset, high.offset, topic_id)

        _when_done(futures, lambda: self._answers.put(found))

    def _found(self, partition: Partition, low: int, high: int, topic_id: str | None) -> None:
        expected, where = partition.expected, {"topic": partition.topic.name, "partition": partition.number}
        if topic_id != partition.reading_id:
            self._ids[partition.topic.name] = topic_id or ""
            self._begin_anew(partition)
        elif expected is None:
            # From the beginning, which retention moved meanwhile.
            self._read_from(partition, low)
        elif expected < low:
            MISSED.labels(partition.topic.name).inc(low - expected)
            log.warning("records were deleted before they were read", **where, first=expected, last=low - 1)
            self._read_from(partition, low)
        elif expected > high and topic_id is None:
            self._begin_anew(partition)
        elif expected > high:
            log.warning(
                "the log was cut off behind what has been read; going on from its end", **where, read=expected, end=high
            )
            self._read_from(partition, high)
        else:
            self._read_from(partition, expected)

    def _begin_anew(self, partition: Partition) -> None:
        log.warning(
            "the topic was deleted and created again; reading it from its beginning",
            topic=partition.topic.name,
            partition=partition.number,
            old_position=partition.next_offset,
        )
        partition.begin_anew(self._ids.get(partition.topic.name), time.monotonic())
        self._read_from(partition, 0)

    def _read_from(self, partition: Partition, offset: int) -> None:
        place = TopicPartition(partition.topic.name, partition.number, offset)
        partition.expected = None if offset == OFFSET_BEGINNING else offset
        # Partitions that stopped for an error can't be sought: they are assigned again.
        assigned = {(item.topic, item.partition) for item in self._consumer.assignment()}
        if (place.topic, place.partition) in assigned:
            self._consumer.incremental_unassign([place])
        self._consumer.incremental_assign([place])

    def _look_up(self, partitions: list[Partition]) -> None:
        """Find what the group has committed; on a thread of its own, for there is no call that does not wait.

        Assigning OFFSET_STORED would leave it to librdkafka, which gives up for good when the first answer is
        NOT_COORDINATOR, as on a cluster whose first group this is.
        """
        places = [TopicPartition(item.topic.name, item.number) for item in partitions]
        try:
            committed = self._consumer.committed(places, timeout=2)
            error = next((item.error for item in committed if item.error is not None), None)
        except KafkaException as failed:
            committed, error = [], failed.args[0]

        def answer() -> None:
            self._lookup = None
            if error is not None:
                level = log.debug if error.code() == KafkaError.NOT_COORDINATOR else log.warning
                level("committed offsets can't be had yet; asking again", error=error.str())
                self._unplaced += partitions
                return
            for partition, place in zip(partitions, committed, strict=True):
                self._read_from(partition, place.offset if place.offset >= 0 else OFFSET_BEGINNING)

        self._answers.put(answer)

    # What is asked

    def _ask(self, now_s: float) -> None:
        """Ask for end offsets where they matter, and now and then for new partitions."""
        if now_s - self._asked_s < _ASK_EVERY_S:
            return
        self._asked_s = now_s
        wanted = [item for item in self.partitions.values() if item.wants_verifying(now_s)]
        if wanted:
            places = {TopicPartition(item.topic.name, item.number): OffsetSpec.latest() for item in wanted}  # type: ignore[no-untyped-call]
            for place, future in self._admin.list_offsets(places, request_timeout=5).items():
                partition = self.partitions[place.topic, place.partition]
                future.add_done_callback(partial(self._end_came, partition, now_s))
        if now_s - self._refreshed_s >= _REFRESH_S:
            self._refreshed_s = now_s
            for name, future in self._admin.describe_topics(
                TopicCollection(list(self._topics)), request_timeout=5
            ).items():
                future.add_done_callback(partial(self._topic_came, name))

    def _end_came(self, partition: Partition, asked_s: float, done: Future[Any]) -> None:
        answered_s = time.monotonic()
        if done.exception() is None:
            self._answers.put(lambda: partition.end_is(done.result().offset, asked_s, answered_s))
        else:
            self._answers.put(lambda: partition.unanswered(answered_s))

    def _topic_came(self, name: str, done: Future[Any]) -> None:
        if done.exception() is None:
            self._answers.put(lambda: self._described(name, len(done.result().partitions), str(done.result().topic_id)))

    def _described(self, name: str, partitions: int, topic_id: str) -> None:
        self._ids[name] = topic_id
        for (topic, _), partition in self.partitions.items():
            if topic != name or partition.reading_id == topic_id:
                continue
            if partition.reading_id is None:
                partition.reading_id = topic_id  # it could not be had at the start
            else:
                self._begin_anew(partition)
        if partitions > self.counts.get(name, 0):
            log.info("the topic has more partitions", topic=name, partitions=partitions)
        self.counts[name] = max(partitions, 1)


def _when_done(futures: list[Future[Any]], then: Callable[[], None]) -> None:
    """Call `then` once all futures are done, on the thread of the last."""
    if not futures:
        then()
        return
    futures[0].add_done_callback(lambda _: _when_done(futures[1:], then))
