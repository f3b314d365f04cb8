"""Writes events to topics, and says of each what Kafka said of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import structlog
from confluent_kafka import KafkaError, KafkaException, Message

from connectors.intake_api.answers import Outcome, Refused, Written
from connectors.intake_api.events import Event
from connectors.polled_producer import PolledProducer
from settings import KafkaSettings

log = structlog.get_logger()

# Memory stays flat while Kafka is away: what is beyond this is refused at once.
_QUEUED_EVENTS = 100_000
_QUEUED_KB = 65_536
_UNACKNOWLEDGED = Refused(503, "Kafka has not acknowledged it in time; it may be on the topic all the same")
_FULL = Refused(503, "too many events wait for Kafka")


class _Sent(list[Outcome | None]):
    """The outcomes of one request's events. Fills up as Kafka answers, also after the request's own time is over."""

    def __init__(self, count: int) -> None:
        super().__init__([None] * count)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # One is counted by the event loop alone, the other by the polling thread alone; who is last sees them equal.
        self.expected: int | None = None
        self.arrived = 0

    async def wait_until(self, deadline: float) -> bool:
        """Whether Kafka has answered for all by then, by the loop's clock."""
        if self.expected is None or self.arrived < self.expected:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await asyncio.shield(self.done)
        return self.arrived == self.expected


class TopicWriter:
    """One idempotent producer, to be used in one event loop. `within_ms`: the longest that `write` takes."""

    def __init__(self, kafka: KafkaSettings, within_ms: int) -> None:
        self._within_ms = within_ms
        self._polled = PolledProducer(
            kafka,
            "intake",
            linger_ms=2,
            # librdkafka looks for what is overdue once a second: so it has given up before we answer.
            message_timeout_ms=max(within_ms - 1_000, 500),
            queue_buffering_max_messages=_QUEUED_EVENTS,
            queue_buffering_max_kbytes=_QUEUED_KB,
        )
        self._says_each = log.bind().is_enabled_for(logging.DEBUG)

    async def write(
        self, topic: str, events: Sequence[Event | Refused], before: Sequence[Outcome | None] | None = None
    ) -> list[Outcome | None]:
        """The outcome of each event, with None for those that Kafka has not decided on in time.

        A refused one stays refused, and what is written according to `before`, the list that an earlier call for the
        same events returned, is not written again; nothing is while Kafka has not decided on all of that. The list that
        is returned is filled up later with what comes late.
        """
        deadline = asyncio.get_running_loop().time() + self._within_ms / 1000
        if isinstance(before, _Sent) and not await before.wait_until(deadline):
            return before
        sent, expected, timestamp_ms = _Sent(len(events)), 0, time.time_ns() // 1_000_000
        for number, event in enumerate(events):
            if isinstance(event, Refused):
                sent[number] = event
            elif before is not None and isinstance(before[number], Written):
                sent[number] = before[number]
            else:
                try:
                    self._polled.producer.produce(
                        topic,
                        event.value,
                        event.key,
                        timestamp=timestamp_ms,
                        on_delivery=partial(self._delivered, sent, number),
                    )
                    expected += 1
                except BufferError:
                    sent[number] = _FULL
                except KafkaException as error:
                    sent[number] = _refused(error.args[0])
        sent.expected = expected
        await sent.wait_until(deadline)
        return sent

    def topics(self, timeout_s: float) -> dict[str, int]:
        """Partitions by topic, as a broker says. Blocks. Raises KafkaException when none does in time."""
        found = self._polled.producer.list_topics(timeout=timeout_s).topics
        self._polled.errors.back()
        return {name: len(topic.partitions) for name, topic in found.items()}

    def close(self) -> None:
        """Drop what is not acknowledged; nobody waits for it any more."""
        self._polled.close()

    def _delivered(self, sent: _Sent, number: int, error: KafkaError | None, message: Message) -> None:
        if error is None:
            _, timestamp = message.timestamp()
            offset = message.offset()
            written = Written(
                message.topic() or "", message.partition() or 0, -1 if offset is None else offset, timestamp
            )
            sent[number] = written
            if self._says_each:
                log.debug("message sent", topic=written.topic, partition=written.partition, offset=written.offset)
        else:
            sent[number] = _refused(error)
        sent.arrived += 1
        if sent.arrived == sent.expected:
            self._polled.settle(sent.done)


def told(outcomes: Sequence[Outcome | None]) -> list[Outcome]:
    """What a client is told now; of what Kafka has not decided on, that it may be on the topic."""
    return [_UNACKNOWLEDGED if outcome is None else outcome for outcome in outcomes]


def _refused(error: KafkaError) -> Refused:
    if error.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE):
        return Refused(413, "larger than what Kafka takes as one message")
    if error.code() in (KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT):
        return _UNACKNOWLEDGED
    return Refused(503, f"Kafka does not take it: {error.str()}")
