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
from confluent_kafka import Producer
from prometheus_client import Counter

from connectors.client import ConnectionLog, client_config
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


class RejectedSink(FixedPartitionedSink[tuple[str, Rejected], list[bytes]]):
    """Takes (topic, rejected). What the broker has not acknowledged at the end of an epoch is the sink's state."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka

    def list_parts(self) -> list[str]:
        # Part of the recovery format.
        return [f"out{number:02}" for number in range(_PARTS)]

    def part_fn(self, item_key: str) -> int:
        return crc32(item_key.encode())

    def build_part(self, step_id: str, for_part: str, resume_state: list[bytes] | None) -> _Part:
        return _Part(self._kafka, resume_state or [])


class _Part(StatefulSinkPartition[tuple[str, Rejected], list[bytes]]):
    def __init__(self, kafka: KafkaSettings, unacknowledged: list[bytes]) -> None:
        self._kafka, self._numbers = kafka, count()
        self._waiting: dict[int, bytes] = {}
        self._unsent: list[int] = []
        self._producer: Producer | None = None
        for message in unacknowledged:
            self._take(message)

    def write_batch(self, values: list[tuple[str, Rejected]]) -> None:
        for topic, rejected in values:
            REJECTED.labels(topic, rejected.reason).inc()
            self._take(rejected_json(topic, rejected))
        self._send()

    def snapshot(self) -> list[bytes]:
        if self._waiting:
            self._send().flush(_FLUSH_S)
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
        producer = self._producer = self._producer or self._connect()
        while self._unsent:
            number = self._unsent[-1]
            try:
                producer.produce(
                    self._kafka.rejected_topic, self._waiting[number], on_delivery=self._acknowledged(number)
                )
            except BufferError:
                break
            self._unsent.pop()
        producer.poll(0)
        return producer

    def _acknowledged(self, number: int) -> Callable[[Any, Any], None]:
        def acknowledged(error: Any, _message: Any) -> None:
            if error is None:
                self._waiting.pop(number, None)
            else:
                self._unsent.append(number)

        return acknowledged

    def _connect(self) -> Producer:
        # One for each part that has something to say: most jobs reject nothing.
        return Producer(
            client_config(
                self._kafka,
                "rejected",
                ConnectionLog("rejected"),
                acks="all",
                enable_idempotence=True,
                linger_ms=5,
                message_timeout_ms=0,
                queue_buffering_max_kbytes=65_536,
            )
        )
