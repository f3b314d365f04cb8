"""How far event time has come, from what the partitions report."""

from __future__ import annotations

from detection.rules import Topic
from detection.watermarks import ENDED, NEVER, PartitionState, Watermarks

TOPIC = Topic("t", lateness_ms=10, idle_timeout_ms=30)


def report(
    partition: int,
    highest_ms: int,
    *,
    idle: bool = False,
    caught_up: bool = True,
    of: int = 2,
    now_ms: int = 1_000,
    quiet_ms: int = 0,
    settled_ms: int | None = None,
) -> PartitionState:
    settled_ms = highest_ms if settled_ms is None else settled_ms
    return PartitionState("t", partition, highest_ms, settled_ms, idle, caught_up, of, now_ms, quiet_ms)


def after(*reports: PartitionState, retention_ms: int = 500) -> tuple[int, int]:
    """(watermark, floor)"""
    watermarks = Watermarks([TOPIC], retention_ms)
    for one in reports:
        watermarks.update(one)
    return watermarks.watermark("t"), watermarks.floor("t")


def test_both_are_the_minimum_over_the_partitions_minus_the_lateness() -> None:
    assert after(report(0, 500), report(1, 300)) == (290, 290)


def test_nothing_is_known_before_every_partition_has_reported() -> None:
    assert after(report(0, 500)) == (NEVER, NEVER)


def test_a_partition_without_events_holds_everything_back_until_it_is_idle() -> None:
    assert after(report(0, 500), report(1, NEVER)) == (NEVER, NEVER)
    assert after(report(0, 500), report(1, NEVER, idle=True))[0] == 490


def test_an_idle_partition_leaves_the_watermark_and_holds_the_floor_up_to_the_retention() -> None:
    assert after(report(0, 900), report(1, 600, idle=True)) == (890, 590)
    assert after(report(0, 2_000), report(1, 600, idle=True)) == (1_990, 1_490)


def test_the_floor_follows_only_what_is_settled() -> None:
    assert after(report(0, 500), report(1, 300, settled_ms=200)) == (290, 190)


def test_when_all_are_idle_the_wall_clock_stands_in() -> None:
    assert after(report(0, 500, idle=True), report(1, 400, idle=True, now_ms=900))[0] == 900 - 10 - 30


def test_when_all_are_idle_the_floor_stays_until_they_have_been_quiet_for_the_retention() -> None:
    """The wall clock may be days ahead of event time, as in a replay, and the next event a second after the last."""
    quiet = [report(0, 500, idle=True, quiet_ms=700), report(1, 400, idle=True, quiet_ms=499)]
    assert after(*quiet) == (960, 390)
    assert after(*quiet, report(1, 400, idle=True, quiet_ms=500)) == (960, 460)


def test_a_backlog_frees_what_no_partition_will_need_and_may_be_older_than_the_retention() -> None:
    assert after(report(0, 500), report(1, 300, caught_up=False)) == (290, 290)
    assert after(report(0, 2_000, caught_up=False), report(1, 600, idle=True)) == (1_990, 590)


def test_a_partition_that_ended_holds_nothing_back() -> None:
    assert after(report(0, ENDED), report(1, 300)) == (290, 290)


def test_a_topic_that_was_made_anew_with_fewer_partitions_forgets_the_others() -> None:
    assert after(report(0, 500), report(1, 100), report(0, 600, of=1)) == (590, 590)


def test_a_report_of_a_topic_that_no_rule_reads_is_of_no_interest() -> None:
    watermarks = Watermarks([TOPIC], 500)
    watermarks.update(PartitionState("other", 0, 5, 5, False, True, 1, 5))
    assert watermarks.watermark("t") == NEVER
