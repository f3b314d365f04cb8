"""Producers that go on when librdkafka's cannot: a fatal error, by librdkafka's own test hook."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from connectors.publisher import Publisher
from scripts.stack import embedded_broker
from settings import KafkaSettings, SecretError


@pytest.fixture
def embedded() -> Iterator[str]:
    owner, bootstrap = embedded_broker()
    yield bootstrap
    del owner


def break_for_good(producer: Producer) -> None:
    """What happens to an idempotent producer when brokers have lost its messages."""
    (library,) = Path(confluent_kafka.__file__).parents[1].glob("confluent_kafka.libs/librdkafka-*.so*")
    handle = ctypes.cast(id(producer) + object.__basicsize__, ctypes.POINTER(ctypes.c_void_p))[0]
    break_it = ctypes.CDLL(str(library)).rd_kafka_test_fatal_error
    break_it.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    assert break_it(handle, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, b"lost") == 0


async def test_a_producer_that_cannot_go_on_is_replaced_also_when_that_fails_at_first(embedded: str) -> None:
    publisher = Publisher(KafkaSettings(bootstrap_servers=embedded))
    connect, failures = publisher._polled._connect, [SecretError("a file is being changed")]

    def fails_once() -> Producer:
        if failures:
            raise failures.pop()
        return connect()

    publisher._polled._connect = fails_once  # type: ignore[method-assign]
    try:
        await publisher.publish("products", b"key", b"{}")
        for _ in range(2):
            break_for_good(publisher._polled.producer)
            for _ in range(1_000_000):
                try:
                    await publisher.publish("products", b"key", b"{}")
                    break
                except KafkaException:
                    continue
            else:
                raise AssertionError("it never goes on")
    finally:
        publisher.close()


async def test_a_mistake_in_a_callback_does_not_end_the_thread(embedded: str) -> None:
    publisher = Publisher(KafkaSettings(bootstrap_servers=embedded))
    try:
        publisher._polled.producer.produce("products", b"{}", on_delivery=lambda *_: 1 / 0)
        for _ in range(2):
            await publisher.publish("products", b"key", b"{}")
    finally:
        publisher.close()
