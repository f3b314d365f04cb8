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
from settings import KafkaSettings


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


async def test_a_producer_that_cannot_go_on_is_replaced(embedded: str) -> None:
    publisher = Publisher(KafkaSettings(bootstrap_servers=embedded))
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
