"""Reading and writing of events, without HTTP."""

from __future__ import annotations

from connectors.intake_api.answers import Refused, Written
from connectors.intake_api.events import Event, EventReader
from connectors.intake_api.writer import TopicWriter, _Sent
from detection.rules import CountRule, EventTime, Topic
from settings import KafkaSettings

EVENT = Event(b"{}", None)


async def test_a_retry_of_what_kafka_has_not_decided_on_writes_nothing(embedded: str) -> None:
    writer = TopicWriter(KafkaSettings(bootstrap_servers=embedded), 1_000)
    try:
        before = _Sent(1)
        before.expected = 1
        assert await writer.write("products", [EVENT], before) is before
        assert len(writer._polled.producer) == 0
        before[0] = written = Written("products", 0, 5, 1)
        before.arrived = 1
        assert list(await writer.write("products", [EVENT], before)) == [written], "it was decided meanwhile"
    finally:
        writer.close()


def test_an_event_far_ahead_in_a_batch_does_not_make_the_others_late() -> None:
    topic = Topic("products", event_time=EventTime("at", "iso"), max_future_ms=None)
    reader = EventReader(topic, [CountRule("hot", topic, ("product.name",), 2, 100)])
    ahead, without_key = b'{"at":"2099-01-01T00:00:00Z","product":{"name":"Nokia"}}', b'{"at":"2026-01-01T00:00:00Z"}'
    first, second = reader.read([ahead, without_key], None, batch=True)
    assert isinstance(first, Event)
    assert isinstance(second, Refused)
    assert second.field == "product.name"
