"""What the consumer makes of answers about topics and positions. There is no broker: the answers are given here."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from confluent_kafka import OFFSET_BEGINNING

from connectors.poller import Poller
from detection.rules import Topic
from detection.watermarks import NEVER
from settings import KafkaSettings
from tests.support.receivers import free_port


def connect(**topic_ids: str) -> Poller:
    kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}")
    return Poller(kafka, {"products": Topic("products")}, {"products": 2}, topic_ids, lambda: 0)


@pytest.fixture
def poller() -> Iterator[Poller]:
    """One that could not learn the topic's id at the start."""
    poller = connect()
    yield poller
    poller.close()


def assigned(poller: Poller) -> dict[int, int]:
    return {place.partition: place.offset for place in poller._consumer.assignment()}


def test_a_topic_whose_id_is_learnt_late_is_no_other_topic(poller: Poller) -> None:
    partition = poller.add("products", 0, (500, 9_000, None))
    poller._described("products", 2, "a")
    assert (partition.expected, partition.reading_id) == (500, "a")
    assert poller.add("products", 1, None).reading_id == "a"
    poller._described("products", 2, "b")
    assert partition.expected == 0, "this is another one"


def test_a_beginning_that_retention_moved_is_looked_for_again(poller: Poller) -> None:
    partition = poller.add("products", 0, None)
    poller._read_from(partition, OFFSET_BEGINNING)
    poller._found(partition, low=40, high=90, topic_id=None)
    assert (partition.expected, assigned(poller)) == (40, {0: 40})


def test_a_stored_position_in_a_topic_of_another_id_is_not_used() -> None:
    poller = connect(products="b")
    partition = poller.add("products", 0, (500, 9_000, "a"))
    assert (partition.expected, assigned(poller)) == (0, {0: 0})
    assert (partition.next_offset, partition.highest_ms) == (500, 9_000), "until a record of the new log is passed on"
    poller.close()


def test_a_job_that_stood_still_does_not_take_what_it_has_not_seen_for_calm(
    poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a laptop that sleeps. The first look after it finds nothing yet, for the client wakes up too."""
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr("connectors.poller.time", SimpleNamespace(monotonic=lambda: now.s))
    poller.looked_s = 100.0
    partition = poller.add("products", 0, (1, 9_000, None))

    def idle_after(seconds: float) -> bool:
        now.s += seconds
        poller.poll()
        partition.end_is(1, now.s, now.s)
        return partition.is_idle(poller.looked_s)

    assert [idle_after(1.5) for _ in range(20)] == [*[False] * 19, True], "quiet for the idle timeout, 30 s"
    assert not idle_after(5.0), "but not looked at for 5 s"


def test_without_an_id_an_offset_beyond_the_end_tells_a_topic_made_anew(poller: Poller) -> None:
    partition = poller.add("products", 0, (500, 9_000, None))
    poller._found(partition, low=0, high=20, topic_id=None)
    partition.arrived([(b"{}", 100, 0, None)], 2, 1.0)
    partition.take()
    assert (partition.next_offset, partition.highest_ms) == (1, NEVER)
