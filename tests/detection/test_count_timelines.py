"""Timelines of one key, drawn: what each shows is what the definition is about."""

from __future__ import annotations

import pytest

from detection.count import CountEvaluator
from detection.episodes import Episode
from detection.rows import Rows
from detection.rules import CountRule, Topic
from detection.transitions import Transition
from detection.watermarks import ENDED

Told = tuple[str, int, int]


def rule(threshold: int = 3, window_ms: int = 5_000) -> CountRule:
    return CountRule("hot", Topic("orders"), ("name",), threshold, window_ms)


def play(times: list[int], of: CountRule | None = None, *, resolve: bool = True) -> list[Transition]:
    """Events at these times, each in a batch of its own, in this order; then everything resolves."""
    evaluator = CountEvaluator(of or rule())
    out: list[Transition] = []
    for offset, time_ms in enumerate(times):
        evaluator.add(Rows.of([("Nokia", time_ms, offset)]), out)
    if resolve:
        evaluator.advance(0, ENDED, ENDED, out)
    return out


def told(transitions: list[Transition]) -> list[Told]:
    return [(t.status, t.opened_at_ms, t.resolves_at_ms) for t in transitions]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        # 0    1    2    3    4    5 s
        # x    x    x=================|           opens with the third, ends when the first leaves
        pytest.param([0, 1000, 2000], [(2000, 5000)], id="three within the window"),
        # x         x              x              (0, 5] holds two
        pytest.param([0, 2500, 5000], [], id="exactly the window apart is not within it"),
        pytest.param([0, 2500, 4999], [(4999, 5000)], id="a millisecond less is"),
        # x    x    x=======================|     4.5 and 5.5 prolong it: the triples overlap
        pytest.param([0, 1000, 2000, 4500, 5500], [(2000, 7000)], id="overlapping triples are one episode"),
        pytest.param([7, 7, 7], [(7, 5007)], id="equal timestamps all count"),
        # 0, 1, 2 breach in [2, 5), and 1, 2, 5 in [5, 6)
        pytest.param([0, 1000, 2000, 5000], [(2000, 6000)], id="intervals that touch are one"),
        pytest.param(
            [0, 1000, 2000, 60_000, 61_000, 62_000], [(2000, 5000), (62_000, 65_000)], id="after calm, a new alert"
        ),
    ],
)
def test_a_timeline_has_its_episodes(times: list[int], expected: list[tuple[int, int]]) -> None:
    final = [t for t in play(times) if t.status == "resolved" and not t.merged_into]
    assert [(t.opened_at_ms, t.resolves_at_ms) for t in final] == expected
    assert sum(t.status == "opened" for t in play(times)) == len(expected)


def test_with_a_threshold_of_one_a_gap_of_the_window_goes_on() -> None:
    assert told(play([0, 5_000], rule(threshold=1))) == [("opened", 0, 5_000), ("resolved", 0, 10_000)]
    assert len(play([0, 5_001], rule(threshold=1))) == 4


def test_a_product_hot_for_a_minute_is_one_opened_and_one_resolved() -> None:
    """An order each 100 ms for 60 s: never more than 50 in 5 s, and the next `updated` would be at 60."""
    transitions = play(list(range(0, 60_000, 100)), rule(threshold=30))
    assert told(transitions) == [("opened", 2_900, 5_000), ("resolved", 2_900, 57_100 + 5_000 - 100)]
    assert (transitions[-1].peak, transitions[-1].events) == (50, 600)


def test_growth_is_told_at_twice_and_four_times_the_threshold() -> None:
    transitions = play(list(range(14)))
    assert [(t.status, t.peak) for t in transitions] == [
        ("opened", 3), ("updated", 6), ("updated", 12), ("resolved", 14),
    ]  # fmt: skip


def test_a_late_event_opens_an_alert_in_the_past() -> None:
    transitions = play([0, 2000, 100_000, 1000], resolve=False)
    assert told(transitions) == [("opened", 2000, 5000)]
    assert transitions[0].source.offset == 3, "the late one is the evidence"


def test_a_late_event_moves_the_opening_to_an_earlier_time_under_the_same_id() -> None:
    #  0         2    3    4
    #            x    x    x==           opened at 4
    #  x(late)   x    x==                with it the breach began at 3
    transitions = play([2000, 3000, 4000, 0])
    assert told(transitions) == [("opened", 4000, 7000), ("resolved", 3000, 7000)]
    assert len({t.alert_id for t in transitions}) == 1


def test_a_late_event_joins_two_alerts_and_the_one_opened_first_goes_on() -> None:
    #  0    1    2==============|5    6    7    7.5=============|11     two alerts: [2, 5) and [7.5, 11)
    #                      4.5(late)                                    and now [4.5, 6), [6, 7), [7, 9.5) too
    transitions = play([0, 1000, 2000, 6000, 7000, 7500, 4500])
    first, second = (t for t in transitions if t.status == "opened")
    ends = [t for t in transitions if t.status == "resolved"]
    assert [(t.alert_id, t.merged_into, t.told) for t in ends] == [
        (second.alert_id, first.alert_id, True),
        (first.alert_id, None, True),
    ]
    assert (ends[-1].opened_at_ms, ends[-1].resolves_at_ms, ends[-1].events) == (2000, 11_000, 7)


def test_a_late_event_whose_breach_only_touches_an_alert_is_part_of_it() -> None:
    #            5 =========|10 (late)
    #                        10 =========|15
    assert told(play([10_000, 5_000], rule(threshold=1))) == [("opened", 10_000, 15_000), ("resolved", 5_000, 15_000)]
    for times in ([5_000, 15_000, 10_000], [15_000, 5_000, 10_000]):
        assert told(play(times, rule(threshold=1)))[-1] == ("resolved", 5_000, 20_000)


def test_an_ended_episode_is_kept_as_long_as_an_accepted_event_may_touch_it() -> None:
    evaluator = CountEvaluator(rule(threshold=1))
    out: list[Transition] = []
    evaluator.add(Rows.of([("Nokia", 0, 0)]), out)
    for floor in (2_500, 4_999, 5_000):
        evaluator.advance(0, 5_000, floor, out)
    evaluator.add(Rows.of([("Nokia", 5_000, 1)]), out)
    evaluator.advance(0, ENDED, ENDED, out)
    assert told(out) == [("opened", 0, 5_000), ("resolved", 0, 10_000)]


def test_an_alert_resolves_only_when_the_watermark_is_beyond_its_end() -> None:
    evaluator = CountEvaluator(rule())
    out: list[Transition] = []
    evaluator.add(Rows.of([("Nokia", time_ms, time_ms) for time_ms in (0, 1000, 2000)]), out)
    evaluator.advance(0, 5000, 5000, out)
    assert [t.status for t in out] == ["opened"], "an event at 5000 would still be accepted, and touch"
    evaluator.advance(0, 5001, 5000, out)
    assert [t.status for t in out] == ["opened", "resolved"]


def test_an_alert_that_was_resolved_by_the_clock_is_opened_again_by_an_event_that_prolongs_it() -> None:
    evaluator = CountEvaluator(rule())
    out: list[Transition] = []
    evaluator.add(Rows.of([("Nokia", time_ms, time_ms) for time_ms in (0, 1000, 2000)]), out)
    evaluator.advance(0, 6000, -10_000, out)
    evaluator.add(Rows.of([("Nokia", 4000, 9)]), out)
    assert [(t.status, t.reopened, t.sequence) for t in out] == [
        ("opened", False, 1), ("resolved", False, 2), ("opened", True, 3),
    ]  # fmt: skip
    assert len({t.alert_id for t in out}) == 1


def test_an_alert_that_a_late_event_opens_again_tells_the_peak_with_that_event() -> None:
    """W = 10, N = 3:  0 1 . . . 5 6     5 comes last, after the clock resolved [6, 10); at 6 the count is 4."""
    evaluator = CountEvaluator(CountRule("hot", Topic("orders"), ("name",), 3, 10))
    out: list[Transition] = []
    evaluator.add(Rows.of([("Nokia", time_ms, time_ms) for time_ms in (0, 1, 6)]), out)
    evaluator.advance(0, 100, -1_000, out)
    evaluator.add(Rows.of([("Nokia", 5, 50)], partition=1), out)
    assert (out[-1].reopened, out[-1].opened_at_ms, out[-1].resolves_at_ms) == (True, 5, 11)
    assert (out[-1].peak, out[-1].events) == (4, 4)


@pytest.mark.parametrize(
    ("first", "then", "opened_at"),
    [
        #           4 5 6 . 8
        pytest.param((5, 6, 8), 4, 6, id="it began earlier"),
        #             5 . . 8
        #             5     8
        pytest.param((5, 5, 8), 8, 8, id="the window of its last moment holds one more"),
    ],
)
def test_what_an_alert_turned_out_to_be_after_the_clock_resolved_it_is_the_last_word_for_the_record(
    first: tuple[int, ...], then: int, opened_at: int
) -> None:
    """W = 10, N = 3: [8, 15) is resolved by the clock; then comes an event that does not prolong it."""
    evaluator = CountEvaluator(CountRule("hot", Topic("orders"), ("name",), 3, 10))
    out: list[Transition] = []
    evaluator.add(Rows.of([("Nokia", time_ms, offset) for offset, time_ms in enumerate(first)]), out)
    evaluator.advance(0, 100, -1_000, out)
    evaluator.add(Rows.of([("Nokia", then, 50)], partition=1), out)
    assert told(out) == [("opened", 8, 15), ("resolved", 8, 15)], "nothing to tell people"
    evaluator.advance(0, 1_000, 1_000, out)
    assert told(out[2:]) == [("resolved", opened_at, 15)]
    last = out[2]
    assert (last.told, last.sequence, last.peak, last.peak_exact, last.events) == (False, 3, 4, True, 4)
    assert evaluator.sizes() == (0, 0, 0)


def test_an_event_has_a_look_only_at_the_episodes_that_it_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a key that has been hot a thousand times while the floor was held back, as when a backlog is read."""
    looks = []
    monkeypatch.setattr(Episode, "thin", lambda episode, *_: looks.append(episode))
    monkeypatch.setattr(Episode, "late_event_at", lambda episode, _: looks.append(episode))
    evaluator = CountEvaluator(rule(window_ms=10), max_kept=1)
    out: list[Transition] = []
    for number in range(1_000):
        evaluator.add(Rows.of([("Nokia", 100 * number + n, number) for n in range(4)]), out)
    evaluator.add(Rows.of([("Nokia", 50_001, 0)], partition=1), out)
    assert evaluator.sizes()[2] == 1_000
    assert len(looks) < 3 * 1_000


def test_an_id_names_the_record_that_opened_the_alert_and_is_the_same_on_a_replay() -> None:
    assert [t.alert_id for t in play([0, 1000, 2000])] == [t.alert_id for t in play([0, 1000, 2000])]
    assert play([0, 1000, 2000])[0].alert_id != play([0, 1000, 1500, 2000])[0].alert_id


def test_what_is_freed_is_known_after_a_restart() -> None:
    evaluator = CountEvaluator(rule())
    evaluator.add(Rows.of([("Nokia", time_ms, time_ms) for time_ms in (0, 5_000, 100_000)]), [])
    evaluator.advance(0, 90_000, 90_000, [])
    restored = CountEvaluator(rule())
    restored.restore(evaluator.pack())
    restored.add(Rows.of([("Nokia", 6_000, 9)], lowest_ms=6_000), [])
    assert restored.incomplete == 1


def test_copies_of_an_event_count_once() -> None:
    evaluator = CountEvaluator(CountRule("hot", Topic("orders", event_id="order_id"), ("name",), 3, 5_000))
    out: list[Transition] = []
    rows = [("Nokia", 0, 0, "o1"), ("Nokia", 10, 1, "o1"), ("Nokia", 20, 2, "o2"), ("Nokia", 30, 3, 2)]
    evaluator.add(Rows.of(rows), out)
    assert evaluator.copies == 1
    assert [t.status for t in out] == ["opened"]
    assert out[0].source.offset == 3


def test_an_id_is_remembered_as_long_as_its_event_may_be_in_a_window() -> None:
    evaluator = CountEvaluator(CountRule("hot", Topic("orders", event_id="order_id"), ("name",), 3, 5_000))
    out: list[Transition] = []
    evaluator.add(Rows.of([("Nokia", 0, 0, "o1"), ("Nokia", 2_500, 1, "o2")]), out)
    evaluator.advance(0, 7_500, 7_500, out)
    evaluator.add(Rows.of([("Nokia", 7_500, 2, "o2")]), out)
    assert evaluator.copies == 1
    evaluator.advance(0, 20_000, 20_000, out)
    evaluator.add(Rows.of([("Nokia", 20_000, 3, "o2")]), out)
    assert evaluator.copies == 1
    assert evaluator.sizes()[1] == 1
