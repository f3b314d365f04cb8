"""Where partitions are read, by what brokers answer. There is no broker: the answers are given here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from connectors.partition import Break
from connectors.positions import Position, Positions
from detection.intake import Record, Records
from detection.rules import Topic
from detection.watermarks import NEVER
from settings import KafkaSettings
from tests.support.receivers import free_port

TOPIC = Topic("products")


class Asked:
    """Keeps the questions of a Positions, to be answered by a test: the last about a topic, all about edges."""

    def __init__(self) -> None:
        self.topic_then: Callable[[Any], None] = lambda _: None
        self.edges_then: list[Callable[[Any], None]] = []

    def topic(self, name: str, then: Callable[[Any], None]) -> None:
        self.topic_then = then

    def edges(self, place: TopicPartition, then: Callable[[Any], None]) -> None:
        self.edges_then.append(then)

    def end(self, place: TopicPartition, then: Callable[[Any], None]) -> None:
        return

    def on_thread(self, ask: object, then: object) -> None:
        return

    def take_answers(self) -> None:
        return


@pytest.fixture
def make() -> Iterator[Callable[..., tuple[Positions, Asked]]]:
    consumers: list[Consumer] = []

    def make(**ids: str) -> tuple[Positions, Asked]:
        servers = f"127.0.0.1:{free_port()}"
        consumer = Consumer({"bootstrap.servers": servers, "group.id": "test", "log_level": 0})
        consumers.append(consumer)
        positions = Positions(consumer, KafkaSettings(bootstrap_servers=servers), {"products": 2}, ids)
        positions._inquiries = asked = Asked()  # type: ignore[assignment]
        return positions, asked

    yield make
    for consumer in consumers:
        consumer.close()


def assigned(positions: Positions) -> dict[int, int]:
    return {place.partition: place.offset for place in positions._consumer.assignment()}


def refresh(positions: Positions, at_s: float) -> None:
    positions.look_after(at_s)


def at(offset: int, highest_ms: int, topic_id: str | None, passed_to: int | None = None) -> Position:
    return Position(offset, highest_ms, topic_id, passed_to or offset, highest_ms)


def records(*offsets: int) -> Records:
    return Records.of(Record(b"{}", 1_000 + offset, offset) for offset in offsets)


def test_a_topic_whose_id_is_learnt_late_is_no_other_topic(make: Callable[..., tuple[Positions, Asked]]) -> None:
    positions, asked = make()
    partition = positions.add(TOPIC, 0, at(500, 9_000, None))
    refresh(positions, 10.0)
    asked.topic_then((2, "a"))
    assert (partition.expected, partition.reading_id) == (500, "a")
    assert positions.add(TOPIC, 1, None).reading_id == "a"


def test_a_beginning_that_retention_moved_is_looked_for_again(make: Callable[..., tuple[Positions, Asked]]) -> None:
    positions, asked = make()
    partition = positions.add(TOPIC, 0, None)
    positions._read_from(partition, OFFSET_BEGINNING)
    positions.lost(partition)
    asked.edges_then[0]((40, 90))
    assert (partition.expected, assigned(positions)) == (40, {0: 40})


def test_a_stored_position_in_a_topic_of_another_id_is_not_used(make: Callable[..., tuple[Positions, Asked]]) -> None:
    positions, _ = make(products="b")
    partition = positions.add(TOPIC, 0, at(500, 9_000, "a"))
    assert (partition.expected, assigned(positions)) == (0, {0: 0})
    assert (partition.next_offset, partition.highest_ms) == (500, 9_000), "until a record of the new log is passed on"


def test_without_an_id_an_offset_beyond_the_end_tells_a_topic_made_anew(
    make: Callable[..., tuple[Positions, Asked]],
) -> None:
    positions, asked = make()
    partition = positions.add(TOPIC, 0, at(500, 9_000, None))
    positions.lost(partition)
    asked.edges_then[0]((0, 20))
    assert partition.take() == Break(0, True, None)
    assert (partition.next_offset, partition.highest_ms) == (0, NEVER)


def test_a_topic_that_was_made_anew_is_read_from_its_beginning(make: Callable[..., tuple[Positions, Asked]]) -> None:
    positions, asked = make(products="a")
    partition = positions.add(TOPIC, 0, at(490, 9_000, "a"))
    positions.lost(partition)
    refresh(positions, 10.0)
    asked.topic_then((2, "b"))
    assert (partition.expected, partition.reading_id, assigned(positions)) == (0, "b", {0: 0})
    asked.topic_then((2, "b"))
    assert partition.logs == 1, "once"


def test_a_broker_that_has_not_heard_of_the_new_topic_does_not_bring_the_old_one_back(
    make: Callable[..., tuple[Positions, Asked]],
) -> None:
    positions, asked = make(products="b")
    partition = positions.add(TOPIC, 0, at(500, 9_000, "a"))
    refresh(positions, 10.0)
    asked.topic_then((7, "a"))
    assert (partition.reading_id, partition.logs, positions.counts) == ("b", 1, {"products": 2})


def test_an_id_that_was_wrong_for_a_moment_changes_nothing(make: Callable[..., tuple[Positions, Asked]]) -> None:
    positions, asked = make(products="a")
    partition = positions.add(TOPIC, 0, at(490, 9_000, "a"))
    positions.lost(partition)
    asked.topic_then((2, "a"))
    partition.arrived(records(490, 491), 2, 1.0)
    asked.edges_then[0]((0, 490))
    assert (partition.expected, assigned(positions)) == (492, {0: 490}), "it has gone on meanwhile"


def test_event_time_is_settled_when_it_is_known_that_there_are_no_more_partitions(
    make: Callable[..., tuple[Positions, Asked]],
) -> None:
    """A new partition may bring events of the time since then: the floor must not pass them."""
    positions, asked = make(products="a")
    partition = positions.add(TOPIC, 0, at(1, 1_000, "a"))
    refresh(positions, 10.0)
    partition.highest_ms = 2_000
    assert partition.state(2, 0, 0.0).settled_ms == 1_000
    asked.topic_then((2, "a"))
    assert partition.state(2, 0, 0.0).settled_ms == 1_000, "as it was when it was asked for"
    refresh(positions, 20.0)
    asked.topic_then((3, "a"))
    assert (partition.state(3, 0, 0.0).settled_ms, positions.counts) == (1_000, {"products": 3})
    refresh(positions, 30.0)
    asked.topic_then((3, "a"))
    assert partition.state(3, 0, 0.0).settled_ms == 2_000


def test_a_topic_that_is_gone_is_said(
    make: Callable[..., tuple[Positions, Asked]], capsys: pytest.CaptureFixture[str]
) -> None:
    positions, asked = make(products="a")
    positions.add(TOPIC, 0, at(1, 1_000, "a"))
    for second in (10.0, 13.0):
        refresh(positions, second)
        asked.topic_then(KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)))
    assert capsys.readouterr().out.count("is not there") == 1


def test_what_is_passed_over_after_a_restart_is_looked_at_first(
    make: Callable[..., tuple[Positions, Asked]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Some shards had counted up to 500, from 490 on others had not; meanwhile the log lost what lay behind 495."""
    positions, asked = make(products="a")
    partition = positions.add(TOPIC, 0, at(490, 9_000, "a", 500))
    assert assigned(positions) == {}
    asked.topic_then((2, "a"))
    asked.edges_then[0]((0, 495))
    assert assigned(positions) == {0: 490}
    assert capsys.readouterr().out.count("cut off") == 1
    assert partition.passed_to == 500, "until it is told"
    assert partition.take() == Break(495, False, "a")
    assert (partition.passed_to, partition.next_offset) == (495, 490)


def test_a_log_that_is_whole_is_read_on(make: Callable[..., tuple[Positions, Asked]]) -> None:
    positions, asked = make(products="a")
    partition = positions.add(TOPIC, 0, at(490, 9_000, "a", 500))
    asked.topic_then((2, "a"))
    asked.edges_then[0]((0, 500))
    assert (partition.passed_to, len(partition.waiting)) == (500, 0)


def test_a_log_that_is_cut_off_while_it_is_read_goes_on_from_its_end(
    make: Callable[..., tuple[Positions, Asked]],
) -> None:
    positions, asked = make(products="a")
    partition = positions.add(TOPIC, 0, at(490, 9_000, "a"))
    partition.arrived(records(490, 491, 492), 2, 1.0)
    positions.lost(partition)
    asked.topic_then((2, "a"))
    asked.edges_then[0]((0, 491))
    assert assigned(positions) == {0: 491}
    partition.take()
    assert partition.next_offset == 493, "what was read of the old end comes first"
    partition.end_is(491, 2.0, 2.0)
    partition.take()
    assert (partition.next_offset, partition.highest_ms) == (491, 9_000), "also if nothing comes"
    assert partition.caught_up


def test_the_id_of_a_topic_that_is_learnt_while_its_edges_are_asked_for_does_not_begin_it_anew(
    make: Callable[..., tuple[Positions, Asked]],
) -> None:
    positions, asked = make()
    partition = positions.add(TOPIC, 0, at(490, 9_000, None, 500))
    refresh(positions, 10.0)
    asked.topic_then((2, "a"))
    assert partition.reading_id == "a"
    asked.edges_then[0]((0, 600))
    assert assigned(positions) == {0: 490}
    refresh(positions, 20.0)
    asked.topic_then((3, "a"))
    assert positions.counts == {"products": 3}
