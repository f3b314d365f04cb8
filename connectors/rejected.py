"""The side stream of records that do not count, to the topic `<prefix>.rejected`."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any
from zlib import crc32

import msgspec
import structlog
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from confluent_kafka import KafkaError, KafkaException, Producer
from prometheus_client import Counter

from connectors.client import ConnectionLog, client_config
from connectors.source import Arrivals
from detection.intake import LAST_MS, Rejected
from settings import KafkaSettings

log = structlog.get_logger()

REJECTED = Counter("tua_rejected_records", "Records that do not count", ["topic", "reason"])

_PARTS = 4
_VALUE_BYTES = 64 * 1024
_FLUSH_S = 0.5


def rejected_json(topic: str, rejected: Rejected) -> bytes:
    """The message of the rejected topic, as in docs/formats.md; at most the first 64 KiB of the value."""
    value = rejected.value or b""
    timestamp: str | int = rejected.timestamp_ms
    if 0 <= rejected.timestamp_ms <= LAST_MS:
        moment = datetime.fromtimestamp(rejected.timestamp_ms / 1000, UTC)
        timestamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return msgspec.json.encode(
        {
            "reason": rejected.reason,
            "detail": rejected.detail,
            "rules": rejected.rules,
            "source": {
                "topic": topic,
                "partition": rejected.partition,
                "offset": rejected.offset,
                "timestamp": timestamp,
            },
            "value_bytes": len(value),
            "value_base64": base64.b64encode(value[:_VALUE_BYTES]).decode(),
        }
    )


Item = tuple[str, Rejected]
"""(topic, record that does not count)"""


def to_reject(arrivals: Arrivals) -> list[tuple[str, Item | None]]:
    """What the sink gets, by key. With None, once an epoch, a part goes on with what the broker has not taken yet:
    Bytewax calls a part, and asks for its state, only in epochs that bring it something.
    """
    items: list[tuple[str, Item | None]] = [(topic, (topic, rejected)) for topic, rejected in arrivals.rejected]
    if arrivals.states:
        items += [(key, None) for key in _KEY_OF_PART.values()]
    return items


class RejectedSink(FixedPartitionedSink[Item | None, list[bytes]]):
    """What the broker has not acknowledged at the end of an epoch is the sink's state."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka

    def list_parts(self) -> list[str]:
        # Part of the recovery format.
        return [f"out{number:02}" for number in range(_PARTS)]

    def part_fn(self, item_key: str) -> int:
        return _part_of(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: list[bytes] | None) -> _Part:
        return _Part(self._kafka, resume_state or [])


def _part_of(key: str) -> int:
    return crc32(key.encode()) % _PARTS


_KEY_OF_PART = {_part_of(str(number)): str(number) for number in range(100)}


class _Part(StatefulSinkPartition[Item | None, list[bytes]]):
    def __init__(self, kafka: KafkaSettings, unacknowledged: list[bytes]) -> None:
        self._kafka, self._numbers = kafka, count()
        self._waiting: dict[int, bytes] = {}
        self._unsent: list[int] = []
        self._producer: Producer | None = None
        self._answering = True
        self._alone = self._batch_refused = False  # whether the producer sends each message alone; whether it should
        for message in unacknowledged:
            self._take(message)

    def write_batch(self, values: list[Item | None]) -> None:
        for value in values:
            if value is not None:
                topic, rejected = value
                REJECTED.labels(topic, rejected.reason).inc()
                self._take(rejected_json(topic, rejected))
        if self._waiting:
            self._send()

    def snapshot(self) -> list[bytes]:
        # The less waits, the smaller is the state. A broker that did not answer last time costs no time again.
        if self._waiting and self._answering:
            self._answering = self._send().flush(_FLUSH_S) == 0
        return list(self._waiting.values())

    def close(self) -> None:
        if self._producer is not None:
            # They are in the last snapshot.
            self._producer.purge()

    def _take(self, message: bytes) -> None:
        number = next(self._numbers)
        self._waiting[number] = message
        self._unsent.append(number)

    def _send(self) -> Producer:
        """Hand what is new to the client; what its queue has no room for waits for the next call."""
        producer = self._producer
        if producer is None or self._alone is not self._batch_refused:
            producer = self._connect()
        while self._unsent:
            number = self._unsent[-1]
            try:
                producer.produce(
                    self._kafka.rejected_topic, self._waiting[number], on_delivery=self._acknowledged(number)
                )
            except BufferError:
                break
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise
                self._shorten(number)
                continue
            self._unsent.pop()
        producer.poll(0)
        return producer

    def _acknowledged(self, number: int) -> Callable[[Any, Any], None]:
        def acknowledged(error: Any, _message: Any) -> None:
            if error is None:
                self._waiting.pop(number, None)
                self._answering = True
                return
            self._unsent.append(number)
            if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                # The broker judges whole batches: which message is too large is found by sending each alone.
                self._batch_refused = True
                if self._alone:
                    self._shorten(number)

        return acknowledged

    def _shorten(self, number: int) -> None:
        """A message that the broker finds too large goes without the value: where it came from tells where that is."""
        message = msgspec.json.decode(self._waiting[number])
        if message["value_base64"]:
            self._waiting[number] = msgspec.json.encode(message | {"value_base64": ""})
        else:
            log.error("a rejected record is too large for the topic even without its value", **message["source"])
            del self._waiting[number]
            self._unsent.remove(number)

    def _connect(self) -> Producer:
        # One for each part that has something to say: most jobs reject nothing.
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(_FLUSH_S)  # puts what it had among the unsent
        self._alone = self._batch_refused
        batches = {"batch_num_messages": 1} if self._alone else {}
        self._producer = Producer(
            client_config(
                self._kafka,
                "rejected",
                ConnectionLog("rejected"),
                acks="all",
                enable_idempotence=True,
                linger_ms=5,
                message_timeout_ms=0,
                queue_buffering_max_kbytes=65_536,
                **batches,
            )
        )
        return self._producer
