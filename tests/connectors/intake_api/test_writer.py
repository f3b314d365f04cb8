"""The producer of the intake, where it cannot be reached through HTTP: a fatal error of librdkafka itself."""

from __future__ import annotations

import ctypes
from pathlib import Path

import confluent_kafka
from confluent_kafka import KafkaError, Producer

from connectors.intake_api.answers import Written
from connectors.intake_api.events import Event
from connectors.intake_api.writer import TopicWriter
from settings import KafkaSettings

EVENT = Event(b"{}", None)


def break_for_good(producer: Producer) -> None:
    """What happens to an idempotent producer when brokers have lost its messages, by librdkafka's own test hook."""
    (library,) = Path(confluent_kafka.__file__).parents[1].glob("confluent_kafka.libs/librdkafka-*.so*")
    handle = ctypes.cast(id(producer) + object.__basicsize__, ctypes.POINTER(ctypes.c_void_p))[0]
    break_it = ctypes.CDLL(str(library)).rd_kafka_test_fatal_error
    break_it.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    assert break_it(handle, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, b"lost") == 0


async def test_a_producer_that_cannot_go_on_is_replaced(embedded: str) -> None:
    writer = TopicWriter(KafkaSettings(bootstrap_servers=embedded), 4_000)
    try:
        assert isinstance((await writer.write("products", [EVENT]))[0], Written)
        for _ in range(2):
            break_for_good(writer._producer)
            outcomes = []
            while not outcomes or not isinstance(outcomes[-1], Written):
                outcomes += await writer.write("products", [EVENT])
                assert len(outcomes) < 1_000_000
    finally:
        writer.close()
