"""The one Kafka consumer of a process: partitions assigned by hand, records sorted into their partitions.

Nothing here waits for the network: what the broker is asked is answered in the background and looked at by a later
call. Calls come from the flow's thread alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, TypeVar

import structlog
from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from connectors.client import ConnectionLog, client_config
from connectors.partition import PROMPT_S, Partition
from connectors.positions import Place, Position, Positions
from detection.intake import Records
from detection.rules import Topic
from settings import KafkaSettings

log = structlog.get_logger()

T = TypeVar("T")

_BATCH = 4000
_WAITING_BYTES = 64 * 1024 * 1024
_RECORD_BYTES = 200
_POLL_EVERY_S = 0.001
_CLOSE_S = 2.0


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
        self._topics, self._now_ms = topics, now_ms
        self._errors = ConnectionLog("consumer")
        config = client_config(
            kafka,
            "consumer",
            self._errors,
            group_id=kafka.consumer_group,
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            enable_partition_eof=True,
            # A position that the broker does not have is looked into (`Positions.lost`), never silently moved.
            auto_offset_reset="error",
            # librdkafka waits a second by default each time its local queue is full.
            fetch_queue_backoff_ms=10,
            queued_max_messages_kbytes=65_536,
        )
        self._consumer = Consumer(config | {"on_commit": self._committed})
        self._positions = Positions(self._consumer, kafka, partitions, topic_ids)
        self.counts, self.partitions = self._positions.counts, self._positions.partitions
        self._early: list[Message] = []
        self._polled_s = -1.0e9
        self.looked_s = time.monotonic()

    def add(self, topic: str, number: int, position: Position | None) -> Partition:
        """Start reading a partition: from `position`, else the group's committed offset, else its beginning."""
        return self._positions.add(self._topics[topic], number, position)

    def poll(self) -> None:
        """Take what the broker has sent meanwhile; never waits."""
        now_s = time.monotonic()
        if now_s - self._polled_s < _POLL_EVERY_S:
            return
        if now_s - self.looked_s > PROMPT_S:
            # The job stood still, or was held up: what came meanwhile has not been seen.
            for partition in self.partitions.values():
                partition.unanswered(now_s)
        # Before a position may be moved: it is of the log that was read until now.
        early, self._early = self._early, []
        self._sort_all(early, now_s)
        self._positions.look_after(now_s)
        self._hold_back(now_s)
        self.looked_s = now_s
        messages = self._consumer.consume(_BATCH, 0)
        if len(messages) < _BATCH:
            # Nothing more is there; a full batch says to come back at once.
            self._polled_s = now_s
        self._sort_all(messages, now_s)

    def wait(self, seconds: float) -> None:
        """Wait until a record comes, but no longer than that."""
        if self._early:
            time.sleep(seconds)
            return
        message = self._consumer.poll(seconds)
        if message is not None:
            self._early.append(message)
            self._polled_s = -1.0e9

    def commit(self, partitions: Iterable[Partition]) -> None:
        """Tell the consumer group how far the durable snapshot is, so that Kafka's own tools show the lag."""
        moved = [partition for partition in partitions if partition.next_offset not in (None, partition.committed)]
        if moved:
            offsets = [TopicPartition(item.topic.name, item.number, item.next_offset or 0) for item in moved]
            try:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            except KafkaException as error:
                log.debug("offsets not committed; the next epoch tries again", error=str(error))

    def close(self) -> None:
        """Let go of the brokers; of those that do not answer after a moment."""
        # The consumer waits for the answers to its commits. It is in no group that it would have to leave.
        closing = threading.Thread(target=self._consumer.close, name="tua-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)

    # What came

    def _hold_back(self, now_s: float) -> None:
        """A partition whose records wait for others is read no further; what memory cannot hold stays in Kafka."""
        bound = _WAITING_BYTES // max(1, len(self.partitions))
        for (topic, number), partition in self.partitions.items():
            if partition.waiting_bytes > bound and not partition.paused:
                self._consumer.pause([TopicPartition(topic, number)])
                partition.paused = True
            elif partition.paused and partition.waiting_bytes < bound // 2:
                self._consumer.resume([TopicPartition(topic, number)])
                partition.resumed(now_s)

    def _sort_all(self, messages: list[Message], now_s: float) -> None:
        if not messages:
            return
        self._errors.back()
        numbers: list[Any] = list(map(Message.partition, messages))
        if len(self._topics) == 1:
            [topic] = self._topics
            for number, begin, end in _runs(numbers):
                self._sort((topic, number), messages[begin:end], now_s)
        else:
            topics: list[Any] = list(map(Message.topic, messages))
            for place, begin, end in _runs(list(zip(topics, numbers, strict=True))):
                self._sort(place, messages[begin:end], now_s)

    def _sort(self, place: Place, messages: list[Message], now_s: float) -> None:
        partition = self.partitions.get(place)
        if partition is None:
            for message in messages:
                log.warning("Kafka", error=str(message.error()))
            return
        failures: list[Message] = []
        # Not by `==`: that of an error with None raises.
        if any(map(Message.error, messages)):
            failures = [message for message in messages if message.error() is not None]
            messages = [message for message in messages if message.error() is None]
        expected = partition.expected or 0
        if messages and (messages[0].offset() or 0) < expected:
            # Read again after a reassignment.
            messages = [message for message in messages if (message.offset() or 0) >= expected]
        if messages:
            stamps: list[int] = list(chain.from_iterable(map(Message.timestamp, messages)))
            kinds, times = stamps[::2], stamps[1::2]
            for kind, begin, end in _runs(kinds):
                self._arrived(partition, kind, messages[begin:end], times[begin:end], now_s)
        # What they say of the position is true behind the records that came with them.
        for message in failures:
            self._failed(partition, message)

    def _arrived(
        self, partition: Partition, kind: int, messages: list[Message], times: list[int], now_s: float
    ) -> None:
        by_field = partition.topic.event_time.field is not None
        arrivals: Sequence[int | None] | int | None = times if by_field else None
        if kind == TIMESTAMP_NOT_AVAILABLE or (kind == TIMESTAMP_CREATE_TIME and not by_field):
            arrivals = self._now_ms()
        first, last = messages[0].offset() or 0, messages[-1].offset() or 0
        offsets: Sequence[int] = range(first, last + 1)
        if len(offsets) != len(messages):
            offsets = [message.offset() or 0 for message in messages]  # compacted, or written in transactions
        records = partition.without_counted(Records(list(map(Message.value, messages)), times, offsets, arrivals))
        if records.values:
            size = sum(map(len, filter(None, records.values))) + _RECORD_BYTES * len(records.values)
            partition.arrived(records, size, now_s)

    def _failed(self, partition: Partition, message: Message) -> None:
        error = message.error()
        assert error is not None
        if error.code() == KafkaError._PARTITION_EOF:
            partition.reached_end(message.offset() or 0)
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            self._positions.lost(partition)
        else:
            # Unknown topic while it is created again, no leader while a broker is away: librdkafka goes on trying.
            log.warning("Kafka", topic=partition.topic.name, partition=partition.number, error=error.str())

    def _committed(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        for place in offsets:
            partition = self.partitions.get((place.topic, place.partition))
            if error is None and place.error is None and partition is not None:
                partition.committed = place.offset


def _runs(column: Sequence[T]) -> list[tuple[T, int, int]]:
    """(value, begin, end) of each run of equal values."""
    if column.count(column[0]) == len(column):
        # Nearly always; and to count is quicker than to look at each.
        return [(column[0], 0, len(column))]
    begins = [0, *(number for number, (before, after) in enumerate(pairwise(column), 1) if before != after)]
    return [(column[begin], begin, end) for begin, end in pairwise([*begins, len(column)])]
