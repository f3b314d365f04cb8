"""What people are spared, on an outbox by itself and through the dispatcher. Time is a number that the tests set."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from actions import metrics
from actions.alert import Summary
from actions.delivery.compose import Composer
from actions.delivery.noise import Cooldown, spared
from actions.delivery.outbox import Outbox
from actions.delivery.records import Places
from actions.delivery.store import Store
from actions.delivery.topic import ALERTS, OwnTopicAction, OwnTopicSettings
from actions.registry import create
from detection.times import iso
from detection.transitions import Transition
from settings import CooldownSettings, FloodSettings, QuietHours, RetrySettings, Settings
from tests.actions.conftest import Start
from tests.support.delivering import action, context, email_action, opened, resolved, rows, settings
from tests.support.receivers import HttpReceiver, MailReceiver
from tests.support.waiting import wait_until

NOW = 1_000_000_000
MINUTE = 60_000


class Noise:
    """An outbox for a rule `hot` with the actions `mail` and `web`, and what became of each message."""

    def __init__(
        self, *, flood: FloodSettings | None = None, recipients: tuple[str, ...] = ("a@example.com",), **rule: Any
    ):
        actions = {
            "mail": email_action(1, flood=flood, to=recipients),
            "web": action("webhook", url="http://localhost:1/"),
        }
        self.settings = settings(Path(), actions, **rule)
        self.outbox = Outbox(Store(None), "me")
        self.compose = self._composer(self.settings)
        self.start_ms = 0

    def _composer(self, made: Settings) -> Composer:
        own = OwnTopicAction(ALERTS, OwnTopicSettings(topic="tua.alerts"), context())
        built = {name: create(name, one, context()) for name, one in made.actions.items()}
        return Composer(made, {ALERTS: own, **built}, self.outbox.actions_of)

    def use(self, **rule: Any) -> None:
        """Go on with another configuration of the rule."""
        self.settings = settings(Path(), dict(self.settings.actions), **rule)
        self.compose = self._composer(self.settings)

    def put(self, *transitions: Transition, now_ms: int = NOW) -> None:
        self.outbox.put(transitions, self.compose, now_ms)

    def episode(self, name: str, start_ms: int, end_ms: int, key: str = "Nokia") -> tuple[Transition, Transition]:
        """An alert from its opening to its end."""
        opening = replace(opened(self.settings, name, key, start_ms), resolves_at_ms=start_ms + 4_000)
        return opening, replace(resolved(opening), resolves_at_ms=end_ms)

    def told(self, action_name: str = "mail") -> list[tuple[str, int, str]]:
        """(alert, sequence, reason or `told`) of every delivery of an action."""
        with self.outbox.store.reading() as db:
            found = db.execute(
                "SELECT alert_id, sequence, CASE state WHEN 'suppressed' THEN reason ELSE 'told' END FROM deliveries"
                " WHERE action = ? ORDER BY number",
                (action_name,),
            )
            return found.fetchall()

    def names(self, action_name: str = "mail") -> list[str]:
        """The alerts whose opening an action told."""
        return [name for name, sequence, reason in self.told(action_name) if reason == "told" and sequence == 1]

    def sum_up(self, now_ms: int) -> list[Summary]:
        """The summaries that are due, as the first recipient gets them."""
        while self.outbox.sum_up(lambda _: self.settings.actions["mail"].to, now_ms):  # type: ignore[attr-defined]
            pass
        leases, _ = self.outbox.exchange((), [Places("mail", 1_000)], now_ms)
        mine = [leased.delivery for leased in leases if leased.delivery.recipient == "a@example.com"]
        return [delivery.told for delivery in mine if isinstance(delivery.told, Summary)]


def cooldown(first_ms: int, cap_ms: int = 24 * 60 * MINUTE) -> CooldownSettings:
    return CooldownSettings(first=first_ms, cap=cap_ms)


# Cooldown of ten minutes:
#
#   minute   0    1          6        11  12
#            [a---]          |            |
#                 <---- cooldown ---->    |
#                            [b]          [c]
#            told            spared       told


def test_what_comes_back_within_the_cooldown_is_suppressed_with_its_end_and_the_reason() -> None:
    noise = Noise(cooldown=cooldown(10 * MINUTE))
    noise.put(*noise.episode("a", 0, MINUTE), *noise.episode("b", 6 * MINUTE, 7 * MINUTE))
    noise.put(*noise.episode("c", 11 * MINUTE, 12 * MINUTE))
    until = "cooldown until 1970-01-01T00:11:00.000Z"
    expected = [
        ("a", 1, "told"),
        ("a", 2, "told"),
        ("b", 1, until),
        ("b", 2, until),
        ("c", 1, "told"),
        ("c", 2, "told"),
    ]
    assert noise.told("mail") == expected
    assert noise.told("web") == expected


def test_the_alerts_topic_is_spared_nothing() -> None:
    noise = Noise(cooldown=cooldown(10 * MINUTE))
    noise.put(*noise.episode("a", 0, MINUTE), *noise.episode("b", 6 * MINUTE, 7 * MINUTE))
    assert noise.told(ALERTS) == [("a", 1, "told"), ("a", 2, "told"), ("b", 1, "told"), ("b", 2, "told")]


def test_another_key_has_a_cooldown_of_its_own() -> None:
    noise = Noise(cooldown=cooldown(10 * MINUTE))
    noise.put(*noise.episode("a", 0, MINUTE), *noise.episode("b", 2 * MINUTE, 3 * MINUTE, key="iPhone"))
    assert noise.names() == ["a", "b"]


def test_a_rule_without_cooldown_tells_everything() -> None:
    noise = Noise()
    noise.put(*noise.episode("a", 0, MINUTE), *noise.episode("b", 2 * MINUTE, 3 * MINUTE))
    assert noise.names() == ["a", "b"]


def test_a_key_that_never_rests_is_told_ever_more_seldom_but_told() -> None:
    noise = Noise(cooldown=cooldown(10 * MINUTE, 40 * MINUTE))
    for n in range(200):  # an episode of half a minute every minute
        noise.put(*noise.episode(str(n), n * MINUTE, n * MINUTE + MINUTE // 2))
    told = [int(name) for name in noise.names()]
    assert [later - earlier for earlier, later in pairwise(told)] == [11, 21, 41, 41, 41, 41]


def test_a_cooldown_in_which_nothing_came_starts_over() -> None:
    noise = Noise(cooldown=cooldown(10 * MINUTE))
    for name, minute in (("a", 0), ("b", 5), ("c", 12), ("d", 50), ("e", 62)):
        noise.put(*noise.episode(name, minute * MINUTE, minute * MINUTE + 30_000))
    # c's cooldown was twice as long (until 32:30), and nothing came in it; d's is ten minutes again.
    assert noise.names() == ["a", "c", "d", "e"]


def test_a_higher_severity_passes() -> None:
    noise = Noise(cooldown=cooldown(10 * MINUTE), severity="info")
    noise.put(*noise.episode("a", 0, MINUTE))
    noise.use(cooldown=cooldown(10 * MINUTE), severity="critical")
    noise.put(*noise.episode("b", 2 * MINUTE, 3 * MINUTE), *noise.episode("c", 5 * MINUTE, 6 * MINUTE))
    assert noise.names() == ["a", "b"]


def test_a_replay_finds_it_decided() -> None:
    noise = Noise(cooldown=cooldown(10 * MINUTE))
    life = [*noise.episode("a", 0, MINUTE), *noise.episode("b", 6 * MINUTE, 7 * MINUTE)]
    noise.put(*life[:3])
    before = noise.told()
    noise.put(*life)
    assert noise.told()[:3] == before
    assert [reason == "told" for _, _, reason in noise.told()] == [True, True, False, False]


def test_the_alert_that_goes_on_is_not_silent_where_the_one_merged_into_it_was_told() -> None:
    # b is spared by a's cooldown, c is told after it; then a late event shows that c is part of b.
    noise = Noise(cooldown=cooldown(10 * MINUTE))
    b, _ = noise.episode("b", 6 * MINUTE, 7 * MINUTE)
    c, _ = noise.episode("c", 12 * MINUTE, 13 * MINUTE)
    noise.put(*noise.episode("a", 0, MINUTE), b, c)
    assert noise.told()[2] == ("b", 1, "cooldown until 1970-01-01T00:11:00.000Z")
    noise.put(replace(c, sequence=2, status="resolved", merged_into="b"))
    noise.put(replace(b, sequence=2, status="resolved", peak=30, resolves_at_ms=14 * MINUTE))
    assert noise.told()[2:] == [
        ("b", 1, "told"), ("c", 1, "told"), ("c", 2, "told"), ("b", 2, "told"),
    ]  # fmt: skip


def test_an_alert_whose_severity_rises_is_told_from_its_opening() -> None:
    noise = Noise(cooldown=cooldown(10 * MINUTE), severity="info")
    b = noise.episode("b", 2 * MINUTE, 3 * MINUTE)
    noise.put(*noise.episode("a", 0, MINUTE), b[0])
    assert noise.names() == ["a"]
    noise.use(cooldown=cooldown(10 * MINUTE), severity="critical")
    noise.put(b[1])
    assert noise.told()[2:] == [("b", 1, "told"), ("b", 2, "told")]


@pytest.mark.parametrize(("level", "expected"), [(0, 10), (1, 20), (3, 80), (4, 100), (1_000, 100)])
def test_it_doubles_up_to_the_cap(level: int, expected: int) -> None:
    assert Cooldown(10, 100).after(level) == expected


@pytest.mark.parametrize("seed", range(20))
def test_a_backtest_says_the_same_as_the_outbox(seed: int) -> None:
    generator = random.Random(seed)
    noise = Noise(cooldown=cooldown(10 * MINUTE, 60 * MINUTE))
    ends, now = [], 0
    for n in range(60):
        now += generator.choice((1, 5, 9, 11, 30, 90)) * MINUTE
        life = noise.episode(str(n), now, now := now + generator.randrange(5_000, 2 * MINUTE))
        noise.put(*life)
        ends.append(life[1])
    told = set(noise.names())
    assert [end.alert_id not in told for end in ends] == spared(Cooldown(10 * MINUTE, 60 * MINUTE), ends)


# Flood: more than 3 alerts of a rule within a minute.


def burst(noise: Noise, count: int, now_ms: int = NOW, name: str = "") -> list[Transition]:
    """`count` alerts of as many keys at once; the later the higher their peaks."""
    burst = [replace(opened(noise.settings, f"{name}{n}", f"P{name}{n}"), peak=20 + n) for n in range(count)]
    noise.put(*burst, now_ms=now_ms)
    return burst


def test_many_alerts_at_once_become_a_few_and_one_summary_for_each_recipient() -> None:
    noise = Noise(flood=FloodSettings(more_than=3, within=MINUTE), recipients=("a@example.com", "b@example.com"))
    burst(noise, 50)
    assert noise.names() == ["0", "0", "1", "1", "2", "2"]
    assert noise.sum_up(NOW + MINUTE - 1) == []
    (summary,) = noise.sum_up(NOW + MINUTE)
    assert (summary.alerts, summary.resolved, summary.rule, summary.severity) == (47, 0, "hot", "warning")
    assert (summary.began_at, summary.ended_at) == (NOW, NOW + MINUTE)
    assert [(one.key["product.name"], one.peak) for one in summary.top] == [
        (f"P{n}", 20 + n) for n in range(49, 39, -1)
    ]
    assert len([one for one in noise.told() if one[0] == summary.id]) == 2


def test_a_program_gets_each_alert() -> None:
    noise = Noise(flood=FloodSettings(more_than=3, within=MINUTE))
    burst(noise, 50)
    assert len(noise.names("web")) == len(noise.names(ALERTS)) == 50


def test_the_end_of_an_alert_that_was_told_is_told_and_of_one_that_was_summed_up_is_not() -> None:
    noise = Noise(flood=FloodSettings(more_than=3, within=MINUTE))
    life = burst(noise, 5)
    noise.put(resolved(life[0]), resolved(life[4]), now_ms=NOW + 1_000)
    assert noise.told()[-2:] == [("0", 2, "told"), ("4", 2, f"flood of {iso(NOW)}")]
    (summary,) = noise.sum_up(NOW + MINUTE)
    assert (summary.alerts, summary.resolved) == (2, 1)


def test_a_flood_that_goes_on_is_one_summary_for_each_interval() -> None:
    noise = Noise(flood=FloodSettings(more_than=3, within=MINUTE))
    burst(noise, 10, NOW, "a")
    assert [one.alerts for one in noise.sum_up(NOW + MINUTE)] == [7]
    burst(noise, 10, NOW + MINUTE + 1, "b")
    assert [one.alerts for one in noise.sum_up(NOW + 2 * MINUTE)] == [10]
    assert noise.sum_up(NOW + 3 * MINUTE) == [], "nothing came in this one, and the flood is over"
    burst(noise, 2, NOW + 3 * MINUTE + 1, "c")
    assert noise.names()[-2:] == ["c0", "c1"]


def test_alerts_in_the_course_of_time_are_no_flood() -> None:
    noise = Noise(flood=FloodSettings(more_than=3, within=MINUTE))
    for n in range(20):
        noise.put(opened(noise.settings, str(n), f"P{n}"), now_ms=NOW + n * MINUTE // 2)
    assert len(noise.names()) == 20


def test_what_was_summed_up_once_is_not_counted_again() -> None:
    noise = Noise(flood=FloodSettings(more_than=3, within=MINUTE))
    life = burst(noise, 10)
    assert [one.alerts for one in noise.sum_up(NOW + MINUTE)] == [7]
    noise.put(*(resolved(one) for one in life), now_ms=NOW + MINUTE + 1)
    assert noise.sum_up(NOW + 2 * MINUTE) == []


def test_an_alert_that_begins_again_long_after_its_flood_is_told() -> None:
    noise = Noise(flood=FloodSettings(more_than=3, within=MINUTE))
    life = burst(noise, 5)[4]
    noise.put(resolved(life))
    assert len(noise.sum_up(NOW + MINUTE)) == 1
    again = replace(life, sequence=3, resolves_at_ms=life.resolves_at_ms + 10**6, peak=40)
    over = replace(again, sequence=4, status="resolved")
    noise.put(again, over, now_ms=NOW + 10 * MINUTE)
    assert noise.told()[-2:] == [("4", 3, "told"), ("4", 4, "told")]


def test_what_a_flood_has_still_to_sum_up_is_not_forgotten() -> None:
    noise = Noise(flood=FloodSettings(more_than=3, within=60 * MINUTE))
    noise.put(*(resolved(one) for one in burst(noise, 10)))
    noise.outbox.purge(1, NOW + 30 * MINUTE)
    burst(noise, 1, NOW + 31 * MINUTE, "late")
    assert [one.alerts for one in noise.sum_up(NOW + 60 * MINUTE)] == [8]


def test_a_clock_that_steps_back_does_not_prolong_a_flood() -> None:
    noise = Noise(flood=FloodSettings(more_than=3, within=MINUTE))
    burst(noise, 10)
    assert [one.alerts for one in noise.sum_up(NOW - 60 * MINUTE)] == [7]


# Through the dispatcher, to a mailbox.

NIGHT = QuietHours(start=(22, 0), end=(7, 0))
ELEVEN_PM = 1_769_900_400_000  # 2026-01-31T23:00:00Z
HOURS = 3_600_000


def test_in_quiet_hours_a_warning_waits_for_the_morning_and_then_comes_in_order(
    start: Start, mail: MailReceiver, web: HttpReceiver
) -> None:
    now = [ELEVEN_PM]
    actions = {"mail": email_action(mail.port, quiet_hours=NIGHT), "web": action("webhook", url=web.url)}
    run = start(actions, now_ms=lambda: now[0])
    life = opened(run.settings)
    run.dispatcher.put([life, resolved(life)])
    wait_until(lambda: len(web.requests) == 2 and run.dispatcher.pending() == 2)
    now[0] += 8 * HOURS - 1
    run.dispatcher.put([opened(run.settings, "b", "B")])
    wait_until(lambda: len(web.requests) == 3 and run.dispatcher.pending() == 3)
    assert mail.mails == []
    now[0] += 1
    wait_until(lambda: run.dispatcher.pending() == 0)
    subjects = mail.subjects()
    assert subjects.index("[warning] hot: Nokia") < subjects.index("[resolved] hot: Nokia")
    assert len(subjects) == 3


def test_what_is_critical_passes_quiet_hours(start: Start, mail: MailReceiver) -> None:
    run = start({"mail": email_action(mail.port, quiet_hours=NIGHT)}, now_ms=lambda: ELEVEN_PM, severity="critical")
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: mail.subjects() == ["[critical] hot: Nokia"])


def test_a_retry_does_not_wake_anybody_either(start: Start, mail: MailReceiver, tmp_path: Path) -> None:
    now = [ELEVEN_PM - 2 * HOURS]
    mail.plan.append("451 later")
    patient = RetrySettings(delays=(90 * MINUTE,))
    run = start({"mail": email_action(mail.port, quiet_hours=NIGHT, retry=patient)}, now_ms=lambda: now[0])
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: any(row["failures"] for row in rows(tmp_path / "state")))
    now[0] += 3 * HOURS  # due since half past ten
    run.dispatcher.put([opened(run.settings, "b", "B")])
    wait_until(lambda: run.dispatcher.pending() == 2)
    assert mail.mails == []
    now[0] += 8 * HOURS
    wait_until(lambda: sorted(mail.subjects()) == ["[warning] hot: B", "[warning] hot: Nokia"])


def test_what_was_suppressed_is_counted_by_its_reason(start: Start, mail: MailReceiver) -> None:
    def counted(reason: str) -> float:
        return float(metrics.SUPPRESSED.labels("mail", reason)._value.get())

    before = counted("flood"), counted("cooldown")
    flood = FloodSettings(more_than=2, within=MINUTE)
    run = start({"mail": email_action(mail.port, flood=flood)}, cooldown=cooldown(10 * MINUTE))
    run.dispatcher.put([opened(run.settings, f"{n}", f"P{n}") for n in range(5)])
    run.dispatcher.put([opened(run.settings, "again", "P0", 150_000)])
    assert (counted("flood"), counted("cooldown")) == (before[0] + 3, before[1] + 1)
