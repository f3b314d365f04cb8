"""What lies on the topic, on a real Kafka: the old messages, the bytes that came, keys, ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.intake import JSON, NDJSON, ORDER, Intake

pytestmark = pytest.mark.kafka
Serve = Callable[..., Intake]


@pytest.fixture
def topic(tmp_path: Path) -> str:
    return f"{tmp_path.name}.products"


def lying(kafka: Cluster, topic: str) -> dict[tuple[int, int], tuple[bytes | None, bytes | None]]:
    """(partition, offset) -> (key, value) of all records."""
    return {(m.partition() or 0, m.offset() or 0): (m.key(), m.value()) for m in kafka.read_all(topic)}


def test_products_lead_to_the_messages_of_the_old_system(serve_kafka: Serve, kafka: Cluster, topic: str) -> None:
    server = serve_kafka()
    sent = [
        ({"id": 17, "name": "Nokia", "price": 153.94}, b"17"),
        ({"id": "18", "name": "Käsemüsli 📱", "price": "153.94"}, b"18"),
        ({"id": 2**70, "name": "iPad", "price": -1, "color": "red"}, str(2**70).encode()),
    ]
    for body, key in sent:
        answer = server.client.post("/api/products", json=body)
        assert answer.status_code == 202, answer.text
        place = answer.json()
        assert place["topic"] == topic
        found_key, value = lying(kafka, topic)[place["partition"], place["offset"]]
        product = {name: body[name] for name in ("id", "name", "price")}
        assert (found_key, json.loads(value or b"")) == (key, {"product": product, "action": "add"})
    answer = server.client.delete("/api/products/a%20b")
    place = answer.json()
    key, value = lying(kafka, topic)[place["partition"], place["offset"]]
    assert key == b"a b"
    assert json.loads(value or b"") == {"product": {"id": "a b", "name": None, "price": None}, "action": "delete"}


def test_events_are_written_as_the_bytes_that_came_under_the_key_of_the_rules(
    serve_kafka: Serve, kafka: Cluster, topic: str
) -> None:
    server = serve_kafka()
    events = [
        b'{"action":"add", "product" :{"name":"Nokia","price":0.12345678901234567890}}',
        b'{"product":{"name":7},"big":123456789012345678901234567890,"action":"add"}',
        b'{"action":"delete"}',
    ]
    keys = [b"Nokia", b"7", None]
    batch = server.client.post(f"/api/events/{topic}", content=b"[" + b" ,".join(events) + b"]", headers=JSON)
    lines = server.client.post(f"/api/events/{topic}", content=b"\r\n".join(events) + b"\n\n", headers=NDJSON)
    single = server.client.post(f"/api/events/{topic}", content=events[0], headers=JSON)
    assert [one.status_code for one in (batch, lines, single)] == [202] * 3
    assert single.json().keys() == {"topic", "partition", "offset", "timestamp", "status"}
    records = lying(kafka, topic)
    for answer in (batch, lines):
        places = [(one["partition"], one["offset"]) for one in answer.json()["events"]]
        assert [records[place] for place in places] == list(zip(keys, (e.strip() for e in events), strict=True))
    assert records[single.json()["partition"], single.json()["offset"]] == (keys[0], events[0])


def test_a_batch_is_written_but_for_the_events_that_are_wrong_and_each_is_told(
    serve_kafka: Serve, kafka: Cluster, topic: str
) -> None:
    server = serve_kafka()
    wrong = [b'{"action":"add"}', b'{"a":1,"a":2}', b"7", b'{"x":NaN}', b"not", b'{"a":"\xff"}']
    order = json.dumps(ORDER).encode()
    answer = server.client.post(f"/api/events/{topic}", content=b"\n".join([order, *wrong, order]), headers=NDJSON)
    assert answer.status_code == 207
    told = answer.json()
    assert (told["written"], told["refused"]) == (2, 6)
    assert [one["status"] for one in told["events"]] == [202, *[422] * 6, 202]
    assert [one.get("field") for one in told["events"][1:3]] == ["product.name", "a"]
    assert [value for _, value in lying(kafka, topic).values()] == [order] * 2


@pytest.mark.parametrize(("path", "event"), [
    ("order_id", '{"action":"add", "product":{"name":"a"}}'),
    ("order.id", '{"order":{"by":1e2},"action":"add", "product":{"name":"a"}}'),
])  # fmt: skip
def test_a_retry_carries_its_key_as_the_events_id_where_it_lacks_one(
    serve_kafka: Serve, kafka: Cluster, topic: str, path: str, event: str
) -> None:
    settings = {"event_id": {"field": path}}
    server = serve_kafka(topic_settings=settings)
    first = server.post(topic, event.encode(), Idempotency_Key="k-1")
    assert first.status_code == 202, first.text
    server.stop()
    # Another process, which remembers nothing: it is written again, with the same id.
    server = serve_kafka(topic_settings=settings)
    again = server.post(topic, event.encode(), Idempotency_Key='"k-1"')
    assert again.status_code == 202
    batch = server.post(topic, [json.loads(event)] * 2, Idempotency_Key="k-2")
    assert batch.status_code == 202
    mine = json.loads(event) | ({"order": {"id": "mine"}} if "." in path else {"order_id": "mine"})
    assert server.post(topic, mine, Idempotency_Key="k-3").status_code == 202
    values = [json.loads(value or b"") for _, value in sorted(lying(kafka, topic).values())]
    ids = sorted(_at(value, path) for value in values)
    assert ids == ["k-1", "k-1", "k-2/0", "k-2/1", "mine"]
    assert all(value["action"] == "add" for value in values)


def test_a_product_carries_its_key_as_the_events_id_too(serve_kafka: Serve, kafka: Cluster, topic: str) -> None:
    server = serve_kafka(topic_settings={"event_id": {"field": "order_id"}})
    for _ in range(2):
        answer = server.client.post(
            "/api/products", json={"id": 1, "name": "a", "price": 2}, headers={"Idempotency-Key": "k"}
        )
        assert answer.status_code == 202
    ((_, value),) = lying(kafka, topic).values()
    assert json.loads(value or b"")["order_id"] == "k"


def _at(value: dict[str, object], path: str) -> str:
    found: object = value
    for name in path.split("."):
        assert isinstance(found, dict)
        found = found[name]
    return str(found)
