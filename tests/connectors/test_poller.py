"""The consumer without a broker: what it makes of time."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, KafkaError, Message

from connectors.partition import Partition
from connectors.poller import Poller
from connectors.positions import Position
from detection.rules import Topic
from settings import KafkaSettings
from tests.support.receivers import free_port


def test_a_job_that_stood_still_does_not_take_what_it_has_not_seen_for_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a laptop that sleeps. The first look after it finds nothing yet, for the client wakes up too."""
    now = SimpleNamespace(s=100.0)
    kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}")
    poller = Poller(kafka, {"products": Topic("products")}, {"products": 1}, {}, lambda: 0)
    for module in ("poller", "positions"):
        monkeypatch.setattr(f"connectors.{module}.time", SimpleNamespace(monotonic=lambda: now.s))
    poller.looked_s = 100.0
    partition = poller.add("products", 0, Position(1, 9_000, None, 1, 9_000))

    def idle_after(seconds: float) -> bool:
        now.s += seconds
        poller.poll()
        partition.end_is(1, now.s, now.s)
        return partition.is_idle(poller.looked_s)

    assert [idle_after(1.5) for _ in range(20)] == [*[False] * 19, True], "quiet for the idle timeout, 30 s"
    assert not idle_after(5.0), "but not looked at for 5 s"


def test_a_process_that_reads_no_partition_yet_hears_of_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}")
    poller = Poller(kafka, {"products": Topic("products")}, {"products": 1}, {}, lambda: 0)
    looks: list[float] = []
    monkeypatch.setattr(poller._positions, "look_after", looks.append)
    poller.poll()
    assert looks
    poller.close()


def answer(offset: int, code: int | None = None) -> Message:
    error = None if code is None else KafkaError(code)
    time = (TIMESTAMP_CREATE_TIME, 1_000)
    return Message(topic="products", partition=0, offset=offset, value=b"{}", timestamp=time, error=error)


def reading(poller: Poller) -> Partition:
    return poller.add("products", 0, Position(10, 9_000, None, 10, 9_000))


@pytest.fixture
def poller() -> Iterator[Poller]:
    kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}")
    poller = Poller(kafka, {"products": Topic("products")}, {"products": 1}, {}, lambda: 0)
    yield poller
    poller.close()


def test_a_position_that_is_lost_is_the_one_behind_the_records_that_came_with_the_news(
    poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = reading(poller)
    lost_at: list[int | None] = []
    monkeypatch.setattr(poller._positions, "lost", lambda partition: lost_at.append(partition.expected))
    poller._sort_all([answer(10), answer(11), answer(12, KafkaError._AUTO_OFFSET_RESET)], 1.0)
    assert (lost_at, partition.expected) == ([12], 12)


def test_a_record_that_came_while_all_waited_is_of_the_log_that_was_read_then(
    poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the one that begins anew at the same moment: else its first records would be taken for read."""
    partition = reading(poller)
    poller._early = [answer(10)]
    monkeypatch.setattr(poller._positions, "look_after", lambda _: poller._positions._begin_anew(partition, "b"))
    poller.poll()
    assert (partition.expected, len(partition.waiting)) == (0, 2)
    partition.take()
    assert (partition.next_offset, partition.topic_id) == (11, None)


def test_a_partition_that_was_held_back_is_not_held_back_in_another_place(poller: Poller) -> None:
    partition = reading(poller)
    resumed = []

    class Watched:
        def __init__(self, consumer: object) -> None:
            self._consumer = consumer

        def __getattr__(self, name: str) -> object:
            return getattr(self._consumer, name)

        def resume(self, places: object) -> None:
            resumed.append(places)

    poller._positions._consumer = Watched(poller._consumer)  # type: ignore[assignment]
    partition.paused = True
    poller._positions._begin_anew(partition, "b")
    assert (len(resumed), partition.paused) == (1, False)
