"""Where each partition is read: from what was stored or committed, and what to do when that is not there any more."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from prometheus_client import Counter

from connectors.client import SAID_AGAIN_S
from connectors.inquiries import Inquiries
from connectors.partition import Partition
from detection.rules import Topic
from detection.watermarks import NEVER
from settings import KafkaSettings

log = structlog.get_logger()

MISSED = Counter("tua_missed_records", "Records that were gone from the broker before they were read", ["topic"])

_ASK_EVERY_S = 1.0
_REFRESH_S = 2.0

Place = tuple[str, int]
"""(topic, partition)"""


class Position(NamedTuple):
    """From where on a partition is to be read, and how far it had been passed on.

    That differs while some shards have counted records that others still lack, see `connectors.turns`. `highest_ms` is
    the highest timestamp accepted before `next_offset`, `passed_ms` before `passed_to`; `topic_id` is None where
    brokers have none. `behind`: shard -> the offset before which it has counted, of those for which that is not
    `passed_to`. `future`: the offsets in between that were rejected as future. That was decided by a clock, and is not
    decided anew.
    """

    next_offset: int
    highest_ms: int
    topic_id: str | None
    passed_to: int
    passed_ms: int
    behind: dict[int, int] = {}  # noqa: RUF012 - never changed
    future: list[int] = []  # noqa: RUF012

    def counted(self, shard: int) -> int:
        """The offset before which a shard has counted."""
        return self.behind.get(shard, self.passed_to)


class Positions:
    """Assigns partitions to the consumer, and watches over their topics.

    `counts` is how many partitions each topic has, kept up to date as topics grow; `partitions` are those that are
    read here.
    """

    def __init__(
        self, consumer: Consumer, kafka: KafkaSettings, partitions: Mapping[str, int], topic_ids: Mapping[str, str]
    ) -> None:
        self.counts = dict(partitions)
        self.partitions: dict[Place, Partition] = {}
        self._consumer, self._inquiries = consumer, Inquiries(kafka)
        self._ids = dict(topic_ids)
        self._left_ids: set[str] = set()
        self._unplaced: list[Partition] = []
        self._lost: list[Partition] = []
        self._asked_s = self._refreshed_s = self._missing_said_s = -1.0e9

    def add(self, topic: Topic, number: int, position: Position | None) -> Partition:
        """Start reading a partition: from `position`, else the group's committed offset, else its beginning."""
        topic_id = self._ids.get(topic.name)
        if position is None:
            partition = Partition(topic, number, None, NEVER, topic_id, time.monotonic())
            self._unplaced.append(partition)
        else:
            place = (position.next_offset, position.highest_ms, position.topic_id)
            partition = Partition(topic, number, *place, time.monotonic())
            partition.resume(position.passed_to, position.passed_ms)
        self.partitions[topic.name, number] = partition
        if position is None:
            return partition
        if position.topic_id and topic_id and position.topic_id != topic_id:
            self._begin_anew(partition, topic_id)
        elif position.passed_to > position.next_offset:
            # Whether what is passed over is still what is there.
            self.lost(partition)
        else:
            self._read_from(partition, position.next_offset)
        return partition

    def lost(self, partition: Partition) -> None:
        """The broker may not have what was asked for: find out what it has, then go on."""
        name, place = partition.topic.name, TopicPartition(partition.topic.name, partition.number)
        asked_at, read = partition.expected, partition.logs

        def found(edges: tuple[int, int] | KafkaException, topic_id: str | None) -> None:
            if partition.logs != read:
                return
            if isinstance(edges, KafkaException):
                unknown(edges)
            else:
                self._found(partition, asked_at, *edges, topic_id)

        def described(topic: tuple[int, str] | KafkaException) -> None:
            if isinstance(topic, KafkaException):
                unknown(topic)
            elif topic[1] not in self._left_ids:
                self._inquiries.edges(place, lambda edges: found(edges, topic[1]))
            else:
                self._lost.append(partition)

        def unknown(error: KafkaException) -> None:
            log.warning("offsets can't be had; asking again", topic=name, error=str(error))
            self._lost.append(partition)

        if partition.reading_id is None:
            self._inquiries.edges(place, lambda edges: found(edges, None))
        else:
            self._inquiries.topic(name, described)

    def _found(self, partition: Partition, asked_at: int | None, low: int, high: int, topic_id: str | None) -> None:
        """What the broker has; it was asked when `asked_at` was to come next."""
        expected, where = partition.expected, {"topic": partition.topic.name, "partition": partition.number}
        if topic_id is not None and topic_id != partition.reading_id:
            self._begin_anew(partition, topic_id)
            return
        if expected != asked_at:
            return  # it was not lost, and has gone on
        if expected is None:
            # From the beginning, which retention moved meanwhile.
            self._read_from(partition, low)
            return
        read = max(expected, partition.replayed_to)
        if read > high and partition.topic_id is None:
            self._begin_anew(partition, partition.reading_id)
            return
        if read > high:
            # Where exactly is not known: what was written since then lies before the end too.
            text = "the log was cut off before what has been read; going on from its end, some of it may be missed"
            log.warning(text, **where, read=read, end=high)
            partition.cut_off(high)
        if expected < low:
            MISSED.labels(partition.topic.name).inc(low - expected)
            log.warning("records were deleted before they were read", **where, first=expected, last=low - 1)
        self._read_from(partition, max(low, min(expected, high)))

    def _begin_anew(self, partition: Partition, topic_id: str | None) -> None:
        if partition.reading_id and partition.reading_id != topic_id:
            self._left_ids.add(partition.reading_id)
        self._ids[partition.topic.name] = topic_id or ""
        partition.begin_anew(topic_id, time.monotonic())
        log.warning(
            "the topic was deleted and created again; reading it from its beginning",
            topic=partition.topic.name,
            partition=partition.number,
            old_position=partition.next_offset,
        )
        self._read_from(partition, 0)

    def _read_from(self, partition: Partition, offset: int) -> None:
        place = TopicPartition(partition.topic.name, partition.number, offset)
        partition.expected = None if offset == OFFSET_BEGINNING else offset
        # Partitions that stopped for an error can't be sought: they are assigned again.
        assigned = {(item.topic, item.partition) for item in self._consumer.assignment()}
        if (place.topic, place.partition) in assigned:
            self._consumer.incremental_unassign([place])
        self._consumer.incremental_assign([place])
        if partition.paused:
            # The client remembers that over an assignment.
            self._consumer.resume([place])
        partition.resumed(time.monotonic())

    def _look_up(self, partitions: list[Partition]) -> None:
        """Find what the group has committed.

        Assigning OFFSET_STORED would leave it to librdkafka, which gives up for good when the first answer is
        NOT_COORDINATOR, as on a cluster whose first group this is.
        """
        places = [TopicPartition(item.topic.name, item.number) for item in partitions]
        read = [item.logs for item in partitions]

        def found(committed: list[TopicPartition] | KafkaException) -> None:
            if isinstance(committed, KafkaException):
                error = committed.args[0]
            else:
                error = next((item.error for item in committed if item.error is not None), None)
            if error is not None or isinstance(committed, KafkaException):
                level = log.debug if error.code() == KafkaError.NOT_COORDINATOR else log.warning
                level("committed offsets can't be had yet; asking again", error=error.str())
                self._unplaced += partitions
                return
            for partition, place, logs in zip(partitions, committed, read, strict=True):
                if partition.logs != logs:
                    continue
                self._read_from(partition, place.offset if place.offset >= 0 else OFFSET_BEGINNING)

        self._inquiries.on_thread(lambda: self._consumer.committed(places, timeout=2), found)

    def look_after(self, now_s: float) -> None:
        """Ask for positions that are not known, for end offsets where they matter, and what topics there are."""
        self._inquiries.take_answers()
        if now_s - self._asked_s < _ASK_EVERY_S:
            return
        self._asked_s = now_s
        unplaced, self._unplaced = self._unplaced, []
        if unplaced:
            self._look_up(unplaced)
        lost, self._lost = self._lost, []
        for partition in lost:
            self.lost(partition)
        for (topic, number), partition in self.partitions.items():
            if partition.wants_verifying(now_s):
                came = partial(self._end_came, partition, partition.logs, now_s)
                self._inquiries.end(TopicPartition(topic, number), came)
        if now_s - self._refreshed_s >= _REFRESH_S:
            self._refreshed_s = now_s
            for name in self.counts:
                marks = [
                    (partition, partition.logs, partition.expected, partition.highest_ms)
                    for (topic, _), partition in self.partitions.items()
                    if topic == name
                ]
                self._inquiries.topic(name, partial(self._described, name, self.counts[name], marks))

    def _end_came(self, partition: Partition, read: int, asked_s: float, end: int | KafkaException) -> None:
        now_s = time.monotonic()
        if isinstance(end, KafkaException):
            partition.unanswered(now_s)
        elif partition.logs == read:
            partition.end_is(end, asked_s, now_s)

    def _described(
        self,
        name: str,
        known: int,
        marks: list[tuple[Partition, int, int | None, int]],
        topic: tuple[int, str] | KafkaException,
    ) -> None:
        """`known` and `marks`: how many partitions the topic had, and those that are read, when it was asked for."""
        if isinstance(topic, KafkaException):
            self._missing(name, topic)
            return
        partitions, topic_id = topic
        if topic_id in self._left_ids:
            return  # from a broker that has not heard yet
        if partitions > self.counts.get(name, 0):
            log.info("the topic has more partitions", topic=name, partitions=partitions)
        self.counts[name] = max(partitions, 1)
        self._ids[name] = topic_id
        for partition, read, expected, highest_ms in marks:
            if partition.logs != read:
                continue
            if partition.reading_id is None:
                partition.reading_id = topic_id  # it could not be had at the start
            if partition.reading_id != topic_id:
                self._begin_anew(partition, topic_id)
            elif known == partitions:
                partition.confirmed(expected, highest_ms)

    def _missing(self, name: str, error: KafkaException) -> None:
        problem = error.args[0]
        now_s = time.monotonic()
        if problem.code() == KafkaError.UNKNOWN_TOPIC_OR_PART and now_s - self._missing_said_s >= SAID_AGAIN_S:
            self._missing_said_s = now_s
            log.warning("a topic that is watched is not there; waiting for it to be created", topic=name)
