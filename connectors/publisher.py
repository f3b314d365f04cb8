"""Writes single messages to topics, for the deliveries of the outbox."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from confluent_kafka import KafkaException, Producer

from connectors.client import ConnectionLog, client_config
from settings import KafkaSettings


class Publisher:
    """`publish` returns when the broker has acknowledged, and raises KafkaException when it has not in time."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._errors = ConnectionLog("publisher")
        self._producer = Producer(
            client_config(
                kafka,
                "publisher",
                self._errors,
                acks="all",
                enable_idempotence=True,
                linger_ms=5,
                message_timeout_ms=10_000,
            )
        )
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="tua-publisher", daemon=True)
        self._thread.start()

    async def publish(self, topic: str, key: bytes, value: bytes) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(error: Any) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(KafkaException(error))

        def acknowledged(error: Any, _message: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, error)
            if error is None:
                self._errors.back()

        self._producer.produce(topic, key=key, value=value, on_delivery=acknowledged)
        await done

    def close(self) -> None:
        """Drop what is not acknowledged: the outbox still has it."""
        self._closed.set()
        self._producer.purge()
        self._thread.join(timeout=2)

    def _serve(self) -> None:
        while not self._closed.is_set():
            self._producer.poll(0.1)
