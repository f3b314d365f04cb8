"""Positions and idleness of one partition. L = lateness, idle timeout 30 s, times in seconds of a monotonic clock."""

import pytest

from connectors.partition import Break, Partition
from detection.intake import Record, Records
from detection.rules import Topic
from detection.watermarks import NEVER

TOPIC = Topic("products", lateness_ms=2_000, idle_timeout_ms=30_000)


def record(offset: int, timestamp: int = 1_000) -> Record:
    return Record(b"{}", timestamp, offset)


def partition(next_offset: int | None = None, topic_id: str | None = "a") -> Partition:
    return Partition(TOPIC, 0, next_offset, NEVER, topic_id, now_s=0.0)


def test_a_snapshot_holds_what_was_passed_on_and_not_what_waits() -> None:
    read = partition()
    read.arrived(Records.of([record(0), record(1)]), 4, 1.0)
    read.arrived(Records.of([record(2)]), 2, 1.0)
    assert (read.next_offset, read.expected) == (None, 3)
    read.take()
    assert (read.next_offset, read.expected, read.waiting_bytes) == (2, 3, 2)


@pytest.mark.parametrize(
    ("quiet_until", "asked", "end", "idle"),
    [
        pytest.param(30.9, 30.0, 1, False, id="not quiet for long enough"),
        pytest.param(40.0, 39.0, 1, True, id="quiet and the broker has no more"),
        pytest.param(40.0, 39.0, 2, False, id="quiet, but the broker has more: the job is behind"),
        pytest.param(90.0, 40.0, 1, False, id="the broker has not been heard of for long: silence is not calm"),
    ],
)
def test_idle_is_what_the_broker_confirms(quiet_until: float, asked: float, end: int, idle: bool) -> None:
    read = partition()
    read.arrived(Records.of([record(0)]), 2, 1.0)
    read.take()
    read.accepted(1.0)
    read.end_is(end, asked, asked)
    assert read.is_idle(quiet_until) is idle


@pytest.mark.parametrize(
    ("failed", "asked", "answered"),
    [
        pytest.param(25.0, 41.0, 41.0, id="asks that failed"),
        pytest.param(None, 20.0, 25.0, id="an answer that took long"),
    ],
)
def test_the_time_of_an_outage_is_not_calm(failed: float | None, asked: float, answered: float) -> None:
    """What producers could not send meanwhile comes when the broker is back."""
    read = partition()
    read.arrived(Records.of([record(0)]), 2, 1.0)
    read.take()
    if failed is not None:
        read.unanswered(failed)
    read.end_is(1, asked, answered)
    read.end_is(1, 42.0, 42.0)
    assert not read.is_idle(42.0), "quiet for 41 s, but reachable only since 25"
    read.end_is(1, 55.0, 55.0)
    assert read.is_idle(55.0)


def test_records_that_do_not_count_are_no_sign_of_life() -> None:
    """A producer of garbage, or one whose clock is far behind, must not hold back the end of an alert for ever."""
    read = partition()
    for second in range(41):
        read.arrived(Records.of([record(second)]), 2, float(second))
        read.take()
        if second == 5:
            read.accepted(5.0)
    read.end_is(41, 40.0, 40.0)
    assert not read.is_idle(34.0)
    assert read.is_idle(40.0)
    assert read.state(1, 0, 40.0).quiet_ms == 35_000


def test_a_quiet_partition_is_verified_often_enough_to_notice_an_outage_within_the_idle_timeout() -> None:
    read = partition()
    read.end_is(0, 0.0, 0.0)
    read.arrived(Records.of([record(0)]), 2, 1.0)
    read.take()
    read.accepted(1.0)
    assert not read.wants_verifying(5.0)
    assert read.wants_verifying(6.0)
    read.end_is(1, 6.0, 6.0)
    assert not read.wants_verifying(10.0)
    assert read.wants_verifying(11.0)


def test_not_idle_while_records_wait_to_be_passed_on() -> None:
    read = partition()
    read.arrived(Records.of([record(0)]), 2, 1.0)
    read.end_is(1, 39.0, 39.0)
    assert not read.is_idle(40.0)


def test_a_transaction_marker_at_the_end_does_not_keep_a_partition_from_being_idle() -> None:
    read = partition()
    read.arrived(Records.of([record(0)]), 2, 1.0)
    read.take()
    read.end_is(2, 39.0, 39.0)  # offset 1 is the marker
    assert not read.is_idle(40.0)
    read.reached_end(2)
    assert read.is_idle(40.0)
    assert read.state(1, 0, 40.0).caught_up


def test_caught_up_when_the_end_at_start_has_been_passed_on() -> None:
    read = partition()
    assert not read.state(1, 0, 0.0).caught_up, "the end is not known yet"
    read.end_is(2, 0.0, 0.0)
    read.arrived(Records.of([record(0), record(1)]), 4, 1.0)
    assert not read.state(1, 0, 1.0).caught_up, "read, but not passed on"
    read.take()
    read.end_is(100, 2.0, 2.0)
    assert read.state(1, 0, 2.0).caught_up, "what came after the start does not matter"


def test_a_log_that_begins_anew_forgets_the_event_time_of_the_old_one_but_not_its_records() -> None:
    read = partition(next_offset=500)
    read.highest_ms = 9_000
    read.arrived(Records.of([record(500)]), 2, 1.0)
    read.begin_anew("b", 2.0)
    read.arrived(Records.of([record(0, timestamp=100)]), 2, 3.0)
    read.take()
    assert (read.highest_ms, read.next_offset, read.topic_id) == (9_000, 501, "a")
    assert read.take() == Break(0, True, "b")
    assert (read.highest_ms, read.next_offset, read.topic_id) == (NEVER, 0, "b")
    read.take()
    assert (read.highest_ms, read.next_offset, read.topic_id) == (NEVER, 1, "b")


@pytest.mark.parametrize("new_from", [None, 505, 500])
def test_of_a_log_made_anew_what_was_read_at_a_position_of_the_old_one_is_not_counted_again(
    new_from: int | None,
) -> None:
    """Batches of five from 500 on; at `new_from` the consumer has gone on in the new log, where times are others."""

    def timestamp(offset: int) -> int:
        return 9_000 + offset if new_from is not None and offset >= new_from else 1_000 + offset

    read = partition(next_offset=495)
    for first in range(495, 515, 5):
        read.arrived(Records.of([record(offset, timestamp(offset)) for offset in range(first, first + 5)]), 10, 1.0)
    read.confirmed(500, NEVER)
    read.begin_anew("b", 2.0)
    again = [record(offset, 9_000 + offset) for offset in range(600)]
    parts = (again[:502], again[502:511], again[511:])
    kept = [record.offset for part in parts for record in read.without_counted(Records.of(part)).rows()]
    assert kept == [offset for offset in range(600) if new_from is None or not new_from <= offset < 515]


def test_what_waits_is_judged_as_before_the_start_also_if_the_log_breaks_meanwhile() -> None:
    read = partition(next_offset=500)
    read.resume(1_000, NEVER)
    read.arrived(Records.of([record(500), record(501)]), 2, 1.0)
    read.begin_anew("b", 2.0)
    read.arrived(Records.of([record(0)]), 2, 3.0)
    taken = []
    while read.waiting:
        read.take()
        taken.append(read.taken_again_to)
    assert (taken[0], taken[-1]) == (1_000, 0)
