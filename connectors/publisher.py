"""Writes single messages to topics, for the deliveries of the outbox."""

from __future__ import annotations

import asyncio

from confluent_kafka import KafkaError, KafkaException, Message

from connectors.polled_producer import PolledProducer
from settings import KafkaSettings


class Publisher:
    """`publish` returns when the broker has acknowledged, and raises KafkaException when it has not in time."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._polled = PolledProducer(kafka, "publisher", linger_ms=5, message_timeout_ms=10_000)

    def publish(self, topic: str, key: bytes, value: bytes) -> asyncio.Future[None]:
        """To be called in an event loop, always the same one. The message is on its way before it is awaited."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def acknowledged(error: KafkaError | None, _message: Message) -> None:
            if error is None:
                self._polled.errors.back()
            self._polled.settle(done, error)

        try:
            self._polled.producer.produce(topic, key=key, value=value, on_delivery=acknowledged)
        except (BufferError, KafkaException) as error:
            done.set_exception(error)
        return done

    def close(self) -> None:
        """Drop what is not acknowledged: the outbox still has it."""
        self._polled.close()
