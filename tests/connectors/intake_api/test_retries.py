"""A retry counts once: while the first is in flight, after it, and when Kafka had only a part of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

import pytest

from connectors.intake_api.answers import Outcome, Refusal, Refused, Written
from connectors.intake_api.retries import Retries, key_in
from tests.support.cluster import Cluster
from tests.support.intake import ORDER, Intake

WRITTEN = Written("products", 0, 7, 1)
GONE = Refused(503, "gone")
WRONG = Refused(422, "wrong")
SCOPE = ("shop", "products", "k")


class Topic:
    """What is written, with the outcomes that it is to have, one list a call."""

    def __init__(self, *plan: list[Outcome | None]) -> None:
        self.plan = list(plan)
        self.before: list[Sequence[Outcome | None] | None] = []
        self.open = asyncio.Event()
        self.open.set()
        self.called = asyncio.Event()

    async def write(self, before: Sequence[Outcome | None] | None) -> list[Outcome | None]:
        self.before.append(before)
        self.called.set()
        await self.open.wait()
        return self.plan.pop(0)


async def test_a_retry_gets_the_first_answer_and_writes_nothing() -> None:
    retries, topic = Retries(600, 1_000), Topic([WRITTEN, WRONG])
    for _ in range(3):
        assert await retries.once(SCOPE, b"same", 2, topic.write) == [WRITTEN, WRONG]
    assert topic.before == [None]


async def test_a_retry_while_the_first_is_in_flight_waits_for_its_answer() -> None:
    retries, topic = Retries(600, 1_000), Topic([WRITTEN])
    topic.open.clear()
    attempts = [asyncio.create_task(retries.once(SCOPE, b"same", 1, topic.write)) for _ in range(5)]
    await topic.called.wait()
    topic.open.set()
    assert await asyncio.gather(*attempts) == [[WRITTEN]] * 5
    assert len(topic.before) == 1


async def test_only_what_kafka_has_not_acknowledged_is_written_again() -> None:
    first: list[Outcome | None] = [WRITTEN, GONE, None, WRONG]
    retries, topic = Retries(600, 1_000), Topic(first, [WRITTEN] * 3 + [WRONG])
    assert await retries.once(SCOPE, b"same", 4, topic.write) == first
    for _ in range(2):
        assert await retries.once(SCOPE, b"same", 4, topic.write) == [WRITTEN] * 3 + [WRONG]
    assert topic.before == [None, first]


async def test_another_request_under_the_same_key_is_refused_also_in_flight() -> None:
    retries, topic = Retries(600, 1_000), Topic([WRITTEN])
    topic.open.clear()
    first = asyncio.create_task(retries.once(SCOPE, b"same", 1, topic.write))
    await topic.called.wait()
    for _ in range(2):
        with pytest.raises(Refusal) as raised:
            await retries.once(SCOPE, b"other", 1, topic.write)
        assert (raised.value.status, raised.value.field) == (422, "Idempotency-Key")
        topic.open.set()
        await first


async def test_keys_of_other_clients_and_topics_are_other_keys() -> None:
    retries, topic = Retries(600, 1_000), Topic(*([WRITTEN] for _ in range(3)))
    for scope in (SCOPE, ("app", "products", "k"), ("shop", "orders", "k")):
        await retries.once(scope, scope[0].encode(), 1, topic.write)
    assert len(topic.before) == 3


async def test_a_key_is_forgotten_when_its_time_is_over_and_the_oldest_when_there_are_too_many() -> None:
    now = [0.0]
    retries = Retries(600, 1_000, lambda: now[0])
    topic = Topic(*([WRITTEN] for _ in range(10)))
    await retries.once(SCOPE, b"", 1, topic.write)
    now[0] = 599.9
    await retries.once(SCOPE, b"", 1, topic.write)
    assert len(topic.before) == 1
    now[0] = 600.0
    await retries.once(SCOPE, b"", 1, topic.write)
    assert len(topic.before) == 2
    await retries.once(("shop", "products", "batch"), b"", 1_000, topic.write)
    await retries.once(("shop", "products", "next"), b"", 1, topic.write)
    await retries.once(("shop", "products", "next"), b"", 1, topic.write)
    assert len(topic.before) == 4
    await retries.once(SCOPE, b"", 1, topic.write)
    assert len(topic.before) == 5


async def test_a_request_that_was_cut_leaves_nothing_behind() -> None:
    retries, topic = Retries(600, 1_000), Topic([WRITTEN])
    topic.open.clear()
    first, second = (asyncio.create_task(retries.once(SCOPE, b"same", 1, topic.write)) for _ in range(2))
    await topic.called.wait()
    first.cancel()
    with pytest.raises(Refusal) as raised:
        await second
    assert raised.value.status == 503
    topic.open.set()
    assert await retries.once(SCOPE, b"same", 1, topic.write) == [WRITTEN]


@pytest.mark.parametrize(
    ("header", "key"), [(None, None), ('"a b"', "a b"), ("a", "a"), ('"', '"'), ("x" * 255, "x" * 255)]
)
def test_a_key_is_a_string_of_structured_fields_or_bare(header: str | None, key: str | None) -> None:
    assert key_in(header) == key


@pytest.mark.parametrize("header", ["", '""', "x" * 256, "ä", "a\tb"])
def test_what_is_no_key_is_refused(header: str) -> None:
    with pytest.raises(Refusal) as raised:
        key_in(header)
    assert raised.value.status == 422


@pytest.mark.kafka
def test_retries_of_every_kind_of_request_lie_on_the_topic_once(
    serve_kafka: Callable[..., Intake], kafka: Cluster
) -> None:
    server = serve_kafka()
    topic = server.config["intake"]["products_topic"]

    def requests() -> list[tuple[int, bytes]]:
        answers = [
            server.post(topic, ORDER, Idempotency_Key="1"),
            server.post(topic, [ORDER, ORDER, {"action": "add"}], Idempotency_Key="2"),
            server.client.post(
                "/api/products", json={"id": 1, "name": "a", "price": 1}, headers={"Idempotency-Key": "3"}
            ),
            server.client.delete("/api/products/1", headers={"Idempotency-Key": "4"}),
        ]
        return [(answer.status_code, answer.content) for answer in answers]

    first = requests()
    assert [status for status, _ in first] == [202, 207, 202, 202]
    assert requests() == first
    assert len(kafka.read_all(topic)) == 5
    assert server.post(topic, {**ORDER, "n": 1}, Idempotency_Key="1").status_code == 422
    assert server.client.delete("/api/products/2", headers={"Idempotency-Key": "4"}).status_code == 422
    assert server.post(topic, ORDER, Idempotency_Key="").status_code == 422
    assert len(kafka.read_all(topic)) == 5
    assert json.loads(first[0][1])["topic"] == topic
