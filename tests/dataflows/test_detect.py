"""The steps of the flow around a shard, without Bytewax and Kafka."""

import msgspec
import pytest

from connectors.exchange import Exchange, ShardBatch, worker_of_shard
from connectors.source import Arrivals
from dataflows.detect import Detection, Tick, Wake
from detection.keys import SHARDS, shard_of
from detection.rows import Batch, Rows
from detection.rules import CountRule, Topic
from detection.watermarks import PartitionState

TOPIC = Topic("products", lateness_ms=0)
SHARD = shard_of("Nokia")
RULE = CountRule("hot", TOPIC, ("name",), threshold=2, window_ms=1_000)


def detection(*rules: CountRule) -> Detection:
    return Detection(rules, [TOPIC], 3_600_000, Exchange(1))


def batch(*rows: tuple[str, int, int], rule: int = 0) -> ShardBatch:
    return ShardBatch(SHARD, Batch("products", 0, None, rows[-1][2] + 1, {rule: Rows.of(rows, lowest_ms=0)}))


def at(highest_ms: int) -> Tick:
    return Tick(0, [PartitionState("products", 0, highest_ms, highest_ms, False, True, 1, 0)])


def test_the_clock_wakes_only_a_shard_that_has_something_due() -> None:
    job = detection(RULE)
    step = job.detect(None)
    opened, _ = step.on_batch([batch(("Nokia", 100, 0), ("Nokia", 200, 1))])
    assert [transition.status for transition in opened] == ["opened"]
    assert list(job.clock(None).on_batch([at(1_100)])[0]) == [], "an event at the end would still touch"
    assert list(job.clock(None).on_batch([at(1_101)])[0]) == [Wake(SHARD)]
    resolved, _ = step.on_batch([Wake(SHARD)])
    assert [transition.status for transition in resolved] == ["resolved"]
    assert list(job.clock(None).on_batch([at(1_102)])[0]) == []


def test_the_clock_keeps_nothing_to_snapshot() -> None:
    assert detection(RULE).clock(None).on_batch([at(1)])[1] is True


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_ticks_reach_every_worker_once_and_only_when_there_is_news(workers: int) -> None:
    exchange = Exchange(workers)
    job = Detection([RULE], [TOPIC], 3_600_000, exchange)
    assert job.ticks(Arrivals([], [], [], [])) == []
    told = [tick.shard for tick in job.ticks(Arrivals([], [], [], at(5).states))]
    assert [worker_of_shard(shard, workers) for shard in told] == list(range(workers))
    assert sorted(shard for carrier in told for shard in job.shards_with(carrier)) == list(range(SHARDS))


def test_a_restored_shard_is_woken_without_any_event() -> None:
    before = detection(RULE)
    step = before.detect(None)
    step.on_batch([batch(("Nokia", 100, 0), ("Nokia", 200, 1))])
    after = detection(RULE)
    restored = after.detect(step.snapshot())
    assert list(after.clock(None).on_batch([at(5_000)])[0]) == [Wake(SHARD)]
    assert [transition.status for transition in restored.on_batch([Wake(SHARD)])[0]] == ["resolved"]


def test_a_changed_rule_starts_empty_and_its_open_alerts_end_as_cancelled() -> None:
    step = detection(RULE).detect(None)
    (opened,), _ = step.on_batch([batch(("Nokia", 100, 0), ("Nokia", 200, 1))])
    other = CountRule("hot", TOPIC, ("name",), threshold=3, window_ms=1_000)
    changed = detection(other).detect(step.snapshot())
    assert changed.notify_at() is not None
    (cancelled,), _ = changed.on_notify()
    assert (cancelled.alert_id, cancelled.rule_version) == (opened.alert_id, RULE.version)
    assert (cancelled.status, cancelled.cancelled, cancelled.sequence) == ("resolved", True, 2)
    assert changed.notify_at() is None
    assert changed.on_notify()[0] == []
    assert changed.on_batch([batch(("Nokia", 300, 2), ("Nokia", 300, 3))])[0] == []


def test_a_rule_that_only_changed_its_place_among_others_keeps_its_state() -> None:
    other = CountRule("other", TOPIC, ("name",), threshold=9, window_ms=1_000)
    step = detection(RULE, other).detect(None)
    step.on_batch([batch(("Nokia", 100, 0))])
    moved = detection(other, RULE).detect(step.snapshot())
    rows = batch(("Nokia", 200, 1))
    assert [transition.status for transition in moved.on_batch([rows])[0]] == ["opened"]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("log", [None, "id"])
def test_a_shard_passes_over_what_it_had_counted_unless_the_log_lost_that(cut: bool, log: str | None) -> None:
    """Also where the id of the topic was learnt after it was counted."""
    step = detection(RULE).detect(None)
    step.on_batch([batch(("Nokia", 100, 0), ("iPad", 200, 1))])
    if cut:
        step.on_batch([ShardBatch(SHARD, Batch("products", 0, None, 1, {}))])
    again = detection(RULE).detect(step.snapshot())
    rows = Rows.of([("Nokia", 150, 1)], lowest_ms=0)
    told, _ = again.on_batch([ShardBatch(SHARD, Batch("products", 0, log, 2, {0: rows}))])
    assert len(told) == cut


def test_what_the_log_lost_after_the_restart_is_not_passed_over() -> None:
    step = detection(RULE).detect(None)
    step.on_batch([batch(("Nokia", 100, 0), ("iPad", 200, 1))])
    again = detection(RULE).detect(step.snapshot())
    again.on_batch([ShardBatch(SHARD, Batch("products", 0, None, 1, {}))])
    told, _ = again.on_batch([batch(("Nokia", 150, 1))])
    assert len(told) == 1


def test_state_of_another_format_is_refused_and_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="format 99"):
        detection(RULE).detect(msgspec.msgpack.encode((99, 7, {})))
