"""Records that do not count: each on the rejected topic with its source, and its neighbours in the batch count."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable

import pytest

from tests.support.cluster import Cluster
from tests.support.job import Job
from tests.support.orders import burst, calm, final, logged, order

pytestmark = pytest.mark.kafka

GARBAGE = bytes(range(256)) * 3600


def test_each_is_told_with_its_source_and_its_neighbours_count(make_job: Callable[..., Job], kafka: Cluster) -> None:
    start = int(time.time() * 1000) - 30_000
    bad: list[tuple[str, bytes | None, int]] = [
        ("invalid", b'{"product": {"name": "Nokia"}, "action": "add"', start),
        ("invalid", b'{"product": {}, "action": "add"}', start),
        ("invalid", b'{"product": {"name": null}, "action": "add"}', start),
        ("invalid", b'{"product": {"name": ["Nokia"]}, "action": "add"}', start),
        ("invalid", b"[1, 2]", start),
        ("invalid", b'"text"', start),
        ("future", order("Nokia"), int(time.time() * 1000) + 600_000),
        ("invalid", b"", start),
        ("invalid", None, start),
        ("invalid", GARBAGE, start),
        ("invalid", b'{"product": {"name": "Nok\xffia"}, "action": "add"}', start),
        ("invalid", b'{"product": {"name": "Nokia"}, "action": "add", "note": "\xff"}', start),
        ("invalid", b'{"x":1,"y":"', start),
        ("invalid", b'"}', start),
        ("late", order("Nokia"), start - 10_000),
    ]
    records, expected = [], []
    for number, (reason, value, timestamp) in enumerate(bad):
        # A good one between any two bad ones: the first of all sets the watermark.
        records.append((0, start + number, b"k", order("Nokia", number)))
        expected.append((reason, len(records)))
        records.append((0, timestamp, b"k", value))
    records += [(0, start + 100 + n, b"k", order("Nokia", n)) for n in range(20 - len(bad))]
    records += calm(start + 20_000)
    job = make_job()
    kafka.produce(job.topic, records)
    job.start()
    job.wait_for(lambda: final(logged(job)), "the alert")
    job.wait_for(lambda: len(kafka.read_all(f"{job.prefix}.rejected")) >= len(bad), "the rejected records")
    assert job.stop() == 0
    twentieth = len(records) - 3
    opened = logged(job)[0]
    assert final(logged(job)) == {("Nokia", records[twentieth][1], start + 5_000)}, "the good ones count, and only they"
    assert opened["evidence"]["offset"] == twentieth, "with their own offsets"
    rejected = [json.loads(message.value() or b"") for message in kafka.read_all(f"{job.prefix}.rejected")]
    rejected.sort(key=lambda item: item["source"]["offset"])
    assert [(item["reason"], item["source"]["offset"]) for item in rejected] == expected
    assert {(item["source"]["topic"], item["source"]["partition"]) for item in rejected} == {(job.topic, 0)}
    assert all(item["rules"] == ["hot-product"] and item["detail"] for item in rejected)
    for item, (_, value, _) in zip(rejected, bad, strict=True):
        assert item["value_bytes"] == len(value or b"")
        assert base64.b64decode(item["value_base64"]) == (value or b"")[:65_536]


def test_what_the_broker_finds_too_large_is_told_without_its_value(
    make_job: Callable[..., Job], kafka: Cluster
) -> None:
    """By the topic's own limit, which the broker tells; 64 KiB of a value make 88 kB of JSON."""
    job = make_job()
    kafka.create_topic(f"{job.prefix}.rejected", max_message_bytes="50000")
    now = int(time.time() * 1000)
    kafka.produce(job.topic, [(0, now, b"k", GARBAGE), (0, now, b"k", b"short")])
    job.start()
    job.wait_for(lambda: len(kafka.read_all(f"{job.prefix}.rejected")) >= 2, "both records")
    assert job.stop() == 0
    rejected = [json.loads(message.value() or b"") for message in kafka.read_all(f"{job.prefix}.rejected")]
    rejected.sort(key=lambda item: item["source"]["offset"])
    assert [(item["value_bytes"], item["value_base64"]) for item in rejected] == [
        (len(GARBAGE), ""),
        (5, base64.b64encode(b"short").decode()),
    ]


def test_what_the_broker_had_not_taken_before_a_kill_is_told_after_it(
    make_job: Callable[..., Job], breakable_kafka: Cluster
) -> None:
    """And without another bad record, which would be a reason to go on."""
    kafka = breakable_kafka
    job = make_job(replication=2)
    rejected = f"{job.prefix}.rejected"
    kafka.create_topic(rejected, replication=2, min_insync_replicas="2")
    job.start()
    kafka.kill_broker(1)
    now = int(time.time() * 1000)
    kafka.produce(job.topic, [(n % 2, now, b"k", b"bad %d" % n) for n in range(20)])
    job.wait_for(lambda: kafka.committed(job.prefix, job.topic) == {0: 10, 1: 10}, "them to be judged")
    job.kill()
    assert kafka.read_all(rejected) == []
    kafka.start_broker(1)
    job.start()
    job.wait_for(lambda: len(kafka.read_all(rejected)) >= 20, "all of them")
    assert job.stop() == 0
    told = [json.loads(message.value() or b"")["source"] for message in kafka.read_all(rejected)]
    assert {(item["partition"], item["offset"]) for item in told} == {(n % 2, n // 2) for n in range(20)}


def test_a_rejected_topic_that_is_gone_for_a_while_stops_nothing(make_job: Callable[..., Job], kafka: Cluster) -> None:
    job = make_job()
    rejected = f"{job.prefix}.rejected"
    # After so long the client tells that a topic is not there; half a minute by default.
    job.config["kafka"]["properties"] = {"topic.metadata.propagation.max.ms": 500}
    job.write_config()
    now = int(time.time() * 1000)
    kafka.produce(job.topic, [(0, now, b"k", b"bad")])
    job.start()
    job.wait_for(lambda: len(kafka.read_all(rejected)) == 1, "the first bad record")
    kafka.delete_topic(rejected)
    told = 0

    def said() -> bool:
        nonlocal told
        kafka.produce(job.topic, [(0, now, b"k", b"bad")])
        told += 1
        return "rejected records can't be written" in job.log()

    job.wait_for(said, "it to be said")
    kafka.produce(job.topic, [*burst("Nokia", now, 20)])
    job.wait_for(lambda: logged(job), "an alert meanwhile")
    kafka.create_topic(rejected)
    job.wait_for(lambda: len(kafka.read_all(rejected)) >= told, "the bad records")
    assert job.stop() == 0
    offsets = {json.loads(message.value() or b"")["source"]["offset"] for message in kafka.read_all(rejected)}
    assert offsets == set(range(1, told + 1))
