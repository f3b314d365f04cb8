"""Kills in the middle of load, and Kafka gone: what was acknowledged is on the topic, and all else is told in time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import httpx2
import pytest

from tests.support.cluster import Cluster
from tests.support.intake import JSON, ORDER, Intake
from tests.support.waiting import wait_until

pytestmark = pytest.mark.kafka
Serve = Callable[..., Intake]
WITHIN_S = 5.0


class Load:
    """Clients that send batches and single events, each with an id of its own, until the block ends."""

    def __init__(self, url: str, topic: str) -> None:
        self.acknowledged: set[str] = set()
        self.statuses: list[int] = []
        self._path = f"{url}/api/events/{topic}"
        self._numbers = count()
        self._over = threading.Event()

    @contextmanager
    def running(self, clients: int = 8) -> Iterator[None]:
        threads = [threading.Thread(target=self._send, args=(1 if n % 2 else 20,)) for n in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _send(self, size: int) -> None:
        with httpx2.Client(timeout=WITHIN_S) as client:
            while not self._over.is_set():
                ids = [f"e{next(self._numbers)}" for _ in range(size)]
                events = [ORDER | {"order": id_} for id_ in ids]
                try:
                    answer = client.post(self._path, json=events if size > 1 else events[0])
                except httpx2.ReadTimeout:
                    self.statuses.append(0)
                    continue
                except httpx2.TransportError:
                    self._over.wait(0.05)
                    continue
                told = answer.json()
                outcomes = told.get("events", [told])
                self.acknowledged.update(
                    id_ for id_, outcome in zip(ids, outcomes, strict=False) if outcome["status"] == 202
                )
                self.statuses.append(answer.status_code)


def ids_on(kafka: Cluster, topic: str) -> list[str]:
    return [json.loads(message.value() or b"")["order"] for message in kafka.read_all(topic)]


def test_after_kill_9_of_the_server_all_that_it_acknowledged_is_on_the_topic(
    serve_kafka: Serve, kafka: Cluster
) -> None:
    server = serve_kafka()
    topic = server.config["intake"]["products_topic"]
    load = Load(server.url, topic)
    with load.running():
        for bound in (500, 1_500):
            wait_until(lambda bound=bound: len(load.acknowledged) > bound)
            server.process.kill()
            server.process.wait()
            server.start()
        wait_until(lambda: len(load.acknowledged) > 2_500)
    found = ids_on(kafka, topic)
    assert load.acknowledged <= set(found)
    assert len(found) == len(set(found)), "and nothing that the clients sent once is there twice"


def test_after_kill_9_of_a_broker_all_that_was_acknowledged_is_on_the_topic_once(
    breakable_kafka: Cluster, serve_kafka: Serve
) -> None:
    server = serve_kafka(replication=2)
    topic = server.config["intake"]["products_topic"]
    load = Load(server.url, topic)
    with load.running():
        for number in (1, 2):
            bound = len(load.acknowledged) + 500
            wait_until(lambda bound=bound: len(load.acknowledged) > bound, 60)
            breakable_kafka.kill_broker(number)
            bound = len(load.acknowledged) + 500
            wait_until(lambda bound=bound: len(load.acknowledged) > bound, 60)
            breakable_kafka.start_broker(number)
            breakable_kafka.wait_until_healthy()
    found = ids_on(breakable_kafka, topic)
    assert load.acknowledged <= set(found)
    assert len(found) == len(set(found))
    assert set(load.statuses) <= {202, 503}


@pytest.mark.parametrize(("how", "rounds"), [("killed", 8), ("stopped", 3)])
def test_without_kafka_the_answer_is_503_in_time_memory_stays_flat_and_it_works_again_when_it_is_back(
    breakable_kafka: Cluster, serve_kafka: Serve, how: str, rounds: int
) -> None:
    server = serve_kafka()
    topic = server.config["intake"]["products_topic"]
    big = json.dumps([ORDER | {"order": "x" * 2_000}] * 400).encode()
    assert server.client.post(f"/api/events/{topic}", content=big, headers=JSON).status_code == 202
    _take_away(breakable_kafka, how)
    try:
        server.wait_for("ready", 503)
        statuses: list[int] = []
        peaks: list[int] = []

        def hammer() -> None:
            with httpx2.Client(base_url=server.url, timeout=WITHIN_S) as client:
                for _ in range(rounds):
                    answer = client.post(f"/api/events/{topic}", content=big, headers=JSON)
                    assert answer.headers["retry-after"]
                    statuses.append(answer.status_code)
                    peaks.append(server.memory_kb())

        threads = [threading.Thread(target=hammer) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # 25 MB were sent in each round; the producer keeps 64 MB at most.
        assert statuses == [503] * 32 * rounds
        half = len(peaks) // 2
        assert max(peaks[half:]) <= max(peaks[:half]) + 60_000
        assert server.client.get("/health/live").status_code == 200
    finally:
        _give_back(breakable_kafka, how)
    server.wait_for("ready")
    wait_until(lambda: server.post(topic, ORDER).status_code == 202)
    assert server.process.poll() is None


def _take_away(kafka: Cluster, how: str) -> None:
    if how == "killed":
        kafka.stop_brokers()
    else:
        kafka.signal_brokers(19)  # SIGSTOP


def _give_back(kafka: Cluster, how: str) -> None:
    if how == "killed":
        kafka.start_broker(1)
        kafka.start_broker(2)
    else:
        kafka.signal_brokers(18)  # SIGCONT
    kafka.wait_until_healthy()


def test_a_topic_that_is_taken_away_is_503_and_taken_again_when_it_is_back(serve_kafka: Serve, kafka: Cluster) -> None:
    server = serve_kafka()
    topic = server.config["intake"]["products_topic"]
    assert server.post(topic, ORDER).status_code == 202
    kafka.delete_topic(topic)
    server.wait_for("ready", 503)
    assert server.post(topic, ORDER).status_code == 503
    assert topic in server.client.get("/health/ready").text
    kafka.create_topic(topic, partitions=1)
    server.wait_for("ready")
    wait_until(lambda: server.post(topic, ORDER).status_code == 202)


def test_an_event_that_is_larger_than_kafka_takes_is_413_and_the_others_are_written(
    serve_kafka: Serve, kafka: Cluster
) -> None:
    server = serve_kafka(max_body_bytes=4_000_000)
    topic = server.config["intake"]["products_topic"]
    big = ORDER | {"order": "x" * 1_200_000}
    assert server.post(topic, big).status_code == 413
    answer = server.post(topic, [ORDER, big, ORDER])
    assert answer.status_code == 207
    assert [one["status"] for one in answer.json()["events"]] == [202, 413, 202]
    assert len(kafka.read_all(topic)) == 2
