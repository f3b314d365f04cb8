"""Writes single messages to topics, for the deliveries of the outbox."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
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
        self._acknowledged: deque[tuple[asyncio.Future[None], Any]] = deque()
        self._settling = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="tua-publisher", daemon=True)
        self._thread.start()

    def publish(self, topic: str, key: bytes, value: bytes) -> asyncio.Future[None]:
        """To be called in an event loop, always the same one. The message is on its way before it is awaited."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def acknowledged(error: Any, _message: Any) -> None:
            if error is None:
                self._errors.back()
            self._acknowledged.append((done, error))
            if not self._settling:
                self._settling = True
                # The loop may be closed by now, and who waited is gone.
                with suppress(RuntimeError):
                    done.get_loop().call_soon_threadsafe(self._settle)

        try:
            self._producer.produce(topic, key=key, value=value, on_delivery=acknowledged)
        except (BufferError, KafkaException) as error:
            done.set_exception(error)
        return done

    def _settle(self) -> None:
        # To wake the loop costs more than all the rest: it is woken once for what comes together. An acknowledgement
        # that comes from here on wakes it again, those before are in the deque.
        self._settling = False
        while self._acknowledged:
            done, error = self._acknowledged.popleft()
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(KafkaException(error))

    def close(self) -> None:
        """Drop what is not acknowledged: the outbox still has it."""
        self._closed.set()
        self._producer.purge()
        self._thread.join(timeout=2)

    def _serve(self) -> None:
        while not self._closed.is_set():
            self._producer.poll(0.1)
