"""A Kafka producer for an event loop: served by a thread of its own, and replaced when it has met a fatal error."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from connectors.client import ConnectionLog, client_config
from settings import KafkaSettings

log = structlog.get_logger()


class PolledProducer:
    """Idempotent, and acknowledged by all replicas in sync. To be used in one event loop.

    `client` is what it is called in the log, `properties` are librdkafka's, with underscores.
    """

    def __init__(self, kafka: KafkaSettings, client: str, **properties: Any) -> None:
        self._kafka, self._client = kafka, client
        self._properties = {"acks": "all", "enable_idempotence": True, **properties}
        self.errors = ConnectionLog(client)
        self.producer = self._connect()
        self._settled: deque[tuple[asyncio.Future[None], KafkaError | None]] = deque()
        self._settling = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"tua-{client}", daemon=True)
        self._thread.start()

    def settle(self, done: asyncio.Future[None], error: KafkaError | None = None) -> None:
        """To be called in `on_delivery`, which runs on the thread: have a future of the loop end."""
        self._settled.append((done, error))
        if not self._settling:
            self._settling = True
            # The loop may be closed by now, and who waited is gone.
            with suppress(RuntimeError):
                done.get_loop().call_soon_threadsafe(self._settle)

    def close(self) -> None:
        """Drop what is not acknowledged."""
        self._closed.set()
        self.producer.purge()
        self._thread.join(timeout=2)

    def _connect(self) -> Producer:
        return Producer(client_config(self._kafka, self._client, self.errors, **self._properties))

    def _settle(self) -> None:
        # To wake the loop costs more than all the rest: it is woken once for what comes together. What comes from here
        # on wakes it again, what came before is in the deque.
        self._settling = False
        while self._settled:
            done, error = self._settled.popleft()
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(KafkaException(error))

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                self.producer.poll(0.1)
            except KafkaException as error:
                # It is fatal, such as a sequence that brokers have lost: this producer takes nothing any more.
                what = "the producer cannot go on, and is replaced"
                log.warning(what, client=self._client, error=error.args[0].str())
                self._replace()
            except Exception:
                # Of a callback. Without this thread nothing would be acknowledged any more.
                log.exception("a mistake in a producer's callback", client=self._client)

    def _replace(self) -> None:
        old = self.producer
        while not self._closed.is_set():
            try:
                self.producer = self._connect()
                break
            except Exception:  # such as a secret's file that is being changed: the error above comes only once
                log.exception("no new producer can be made; trying again", client=self._client)
                self._closed.wait(1)
        old.purge()
        with suppress(KafkaException):
            old.poll(1)  # so that who waits for it is told
