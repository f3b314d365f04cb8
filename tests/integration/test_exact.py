"""On a real Kafka the job finds exactly the oracle's episodes, and the backtest of the same records does too."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.ground_truth import intervals_by_key
from tests.support.cluster import Cluster
from tests.support.job import ROOT, Job
from tests.support.orders import calm, final, logged, order

pytestmark = pytest.mark.kafka
Found = set[tuple[str, int, int]]


def backtested(job: Job, records: list[tuple[int, int, bytes | None, bytes | None]], directory: Path) -> Found:
    events = directory / "events.jsonl"
    with events.open("w", encoding="utf-8") as file:
        for partition, timestamp, _, value in records:
            file.write(json.dumps({"partition": partition, "timestamp": timestamp, "value": json.loads(value or b"")}))
            file.write("\n")
    command = [sys.executable, "-m", "tua", "backtest", "--config", str(job.config_path), "--events", str(events)]
    done = subprocess.run([*command, "--format", "jsonl"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {(line["key"]["product.name"], line["opened_at_ms"], line["resolves_at_ms"]) for line in lines}


def test_100_seeded_orders_as_in_the_old_demo(make_job: Callable[..., Job], kafka: Cluster, tmp_path: Path) -> None:
    generator, now = random.Random(7), int(time.time() * 1000) - 60_000
    records = []
    for number in range(100):
        now += generator.randint(1, 120)
        name = generator.choice(["iPhone", "Samsung Galaxy", "Nokia", "iPad"])
        records.append((generator.randrange(2), now, str(number).encode(), order(name, number)))
    expected = intervals_by_key([(json.loads(v)["product"]["name"], p, t) for p, t, _, v in records], 2_000, 5_000, 20)
    assert expected, "the seed must lead to alerts"
    records += calm(now + 30_000)
    job = make_job().start()
    kafka.produce(job.topic, records)
    job.wait_for(lambda: len(final(logged(job))) >= len(expected), "the alerts to resolve")
    assert job.stop() == 0
    assert final(logged(job)) == expected
    assert backtested(job, records, tmp_path) == expected


def test_200_000_disordered_orders_over_two_partitions(
    make_job: Callable[..., Job], kafka: Cluster, tmp_path: Path
) -> None:
    generator, now, lateness = random.Random(11), int(time.time() * 1000) - 86_400_000, 2_000
    records, events, late = [], [], 0
    highest = {0: 0, 1: 0}
    for number in range(200_000):
        now += generator.choice([0, 1, 2, 5, 30])
        partition, timestamp = generator.randrange(2), now - generator.randint(0, 2_200)
        name, action = f"p{int(generator.paretovariate(0.6)) % 400}", "add" if generator.random() < 0.97 else "delete"
        records.append((partition, timestamp, b"k", order(name, number, action)))
        if timestamp >= highest[partition] - lateness:
            highest[partition] = max(highest[partition], timestamp)
            if action == "add":
                events.append((name, partition, timestamp))
        else:
            late += 1
    # Acceptance is judged above, for deletes move the watermark too.
    expected = intervals_by_key(events, 10**9, 5_000, 20)
    assert len(expected) > 500
    records += calm(now + 30_000)
    job = make_job()
    kafka.produce(job.topic, records)
    job.start()
    job.wait_for(lambda: len(final(logged(job))) >= len(expected), "the alerts to resolve", timeout=120)
    assert job.stop() == 0
    assert final(logged(job)) == expected
    assert backtested(job, records, tmp_path) == expected
    rejected = [json.loads(message.value() or b"") for message in kafka.read_all(f"{job.prefix}.rejected")]
    assert late > 100
    assert [item["reason"] for item in rejected] == ["late"] * late
    offsets = {0: 0, 1: 0}
    for partition, *_ in records:
        offsets[partition] += 1
    assert kafka.committed(job.prefix, job.topic) == offsets, "the group's offsets show that there is no lag"
