"""The side stream of records that do not count, to the topic `<prefix>.rejected`."""

from __future__ import annotations

import base64
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any
from zlib import crc32

import msgspec
import structlog
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from confluent_kafka import KafkaError, KafkaException, Producer
from prometheus_client import Counter

from connectors.client import SAID_AGAIN_S, ConnectionLog, client_config
from connectors.source import Arrivals
from detection.intake import Rejected
from detection.times import LAST_MS, iso
from settings import KafkaSettings

log = structlog.get_logger()

REJECTED = Counter("tua_rejected_records", "Records that do not count", ["topic", "reason"])

_PARTS = 4
_VALUE_BYTES = 64 * 1024
_FLUSH_S = 0.5
_WITH_VALUES_BYTES = 4 * 1024 * 1024
_MOST_BYTES = 16 * 1024 * 1024
"""Of what waits in one part. Beyond the first bound records wait without their values, which Kafka still has."""


def rejected_json(topic: str, rejected: Rejected, *, most: int = _VALUE_BYTES) -> bytes:
    """The message of the rejected topic, as in docs/formats.md; at most the first 64 KiB of the value."""
    value = rejected.value or b""
    timestamp = rejected.timestamp_ms
    return msgspec.json.encode(
        {
            "reason": rejected.reason,
            "detail": rejected.detail,
            "rules": rejected.rules,
            "source": {
                "topic": topic,
                "partition": rejected.partition,
                "offset": rejected.offset,
                "timestamp": iso(timestamp) if 0 <= timestamp <= LAST_MS else timestamp,
            },
            "value_bytes": len(value),
            "value_base64": base64.b64encode(value[:most]).decode(),
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
        self._parts: list[_Part] = []

    @property
    def full(self) -> bool:
        """The topic can't be written, and so much waits that the source must pause."""
        return any(part.bytes > _MOST_BYTES for part in self._parts)

    def list_parts(self) -> list[str]:
        # Part of the recovery format.
        return [f"out{number:02}" for number in range(_PARTS)]

    def part_fn(self, item_key: str) -> int:
        return _part_of(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: list[bytes] | None) -> _Part:
        part = _Part(self._kafka, resume_state or [])
        self._parts.append(part)
        return part


def _part_of(key: str) -> int:
    return crc32(key.encode()) % _PARTS


_KEY_OF_PART = {_part_of(str(number)): str(number) for number in range(100)}


class _Part(StatefulSinkPartition[Item | None, list[bytes]]):
    """`bytes` is the size of what the broker has not acknowledged."""

    def __init__(self, kafka: KafkaSettings, unacknowledged: list[bytes]) -> None:
        self._kafka, self._numbers = kafka, count()
        self._waiting: dict[int, bytes] = {}
        self._unsent: deque[int] = deque()
        self.bytes = 0
        self._producer: Producer | None = None
        self._answering = True
        self._outdated = False  # the producer is of no use any more
        self._alone = self._batch_refused = False  # whether it sends each message alone; whether it should
        self._said_s = -1.0e9
        for message in unacknowledged:
            self._take(message)

    def write_batch(self, values: list[Item | None]) -> None:
        for value in values:
            if value is not None:
                topic, rejected = value
                REJECTED.labels(topic, rejected.reason).inc()
                most = _VALUE_BYTES if self.bytes < _WITH_VALUES_BYTES else 0
                self._take(rejected_json(topic, rejected, most=most))
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
        self._put(number, message)
        self._unsent.append(number)

    def _put(self, number: int, message: bytes | None) -> None:
        self.bytes += len(message or b"") - len(self._waiting.pop(number, b""))
        if message is not None:
            self._waiting[number] = message

    def _send(self) -> Producer:
        """Hand what is new to the client; what it does not take waits for the next call."""
        producer = self._producer
        if producer is None or self._outdated:
            producer = self._connect()
        while self._unsent:
            number = self._unsent[0]
            try:
                producer.produce(
                    self._kafka.rejected_topic, self._waiting[number], on_delivery=self._acknowledged(number)
                )
            except BufferError:
                break
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    self._failed(error.args[0])
                    break
                self._shorten(number)
                continue
            self._unsent.popleft()
        producer.poll(0)
        return producer

    def _acknowledged(self, number: int) -> Callable[[Any, Any], None]:
        def acknowledged(error: Any, _message: Any) -> None:
            if error is None:
                self._put(number, None)
                self._answering = True
                return
            self._unsent.append(number)
            if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                # The broker judges whole batches: which message is too large is found by sending each alone.
                if self._alone:
                    self._shorten(number)
                else:
                    self._batch_refused = self._outdated = True
            elif error.code() != KafkaError._PURGE_QUEUE:
                self._failed(error)

        return acknowledged

    def _failed(self, error: KafkaError) -> None:
        """Nothing is lost, and nothing stops: it is tried again in the next epoch."""
        self._outdated |= error.fatal()
        now_s = time.monotonic()
        if now_s - self._said_s >= SAID_AGAIN_S:
            self._said_s = now_s
            log.error(
                "rejected records can't be written; they are kept, and tried again",
                topic=self._kafka.rejected_topic,
                waiting=len(self._waiting),
                error=error.str(),
            )

    def _shorten(self, number: int) -> None:
        """A message that the broker finds too large goes without the value: where it came from tells where that is."""
        message = msgspec.json.decode(self._waiting[number])
        if message["value_base64"]:
            self._put(number, msgspec.json.encode(message | {"value_base64": ""}))
        else:
            log.error("a rejected record is too large for the topic even without its value", **message["source"])
            self._put(number, None)
            self._unsent.remove(number)

    def _connect(self) -> Producer:
        # One for each part that has something to say: most jobs reject nothing.
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(_FLUSH_S)  # puts what it had among the unsent
        self._outdated, self._alone = False, self._batch_refused
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
