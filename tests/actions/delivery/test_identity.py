"""What is news and what is a replay, as tables: what detection said, and what of it may be told.

A step is written `status id [start,end)`, with what else matters behind it. After a `kill -9` detection starts
from its last snapshot and says things again; `--- kill -9 ---` is drawn where that happens, but the outbox is
told nothing of it: it must see it from the facts.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from actions.delivery.identity import SCHEMA, News, record, remember
from detection.transitions import Source, Transition

STEP = re.compile(
    r"(?P<status>opened|updated|resolved|reopened|cancelled|merged) (?P<id>\w+)(?:->(?P<into>\w+))?"
    r" \[(?P<start>\d+),(?P<end>\d+)\)(?: peak (?P<peak>\d+))?(?: #(?P<sequence>\d+))?(?P<quiet> topic only)?"
)
KILL = "--- kill -9 ---"


def transition(text: str, **more: object) -> Transition:
    match = STEP.fullmatch(text)
    assert match, text
    status = match["status"]
    base = Transition(
        alert_id=match["id"],
        sequence=int(match["sequence"] or 1),
        rule="hot",
        rule_version="v1",
        status={"reopened": "opened", "cancelled": "resolved", "merged": "resolved"}.get(status, status),
        key=("Nokia",),
        peak=int(match["peak"] or 20),
        peak_exact=True,
        events=20,
        opened_at_ms=int(match["start"]),
        resolves_at_ms=int(match["end"]),
        source=Source("products", 0, 7, int(match["start"])),
        merged_into=match["into"],
        cancelled=status == "cancelled",
        reopened=status == "reopened",
        told=match["quiet"] is None,
    )
    return replace(base, **more)  # type: ignore[arg-type]


def spoken(news: News) -> str:
    t = news.transition
    status = "cancelled" if t.cancelled else "merged" if t.merged_into else "reopened" if t.reopened else t.status
    into = f"->{t.merged_into}" if t.merged_into else ""
    peak = f" peak {t.peak}" if t.peak != 20 else ""
    quiet = "" if t.told else " topic only"
    return f"{status} {t.alert_id}{into} [{t.opened_at_ms},{t.resolves_at_ms}){peak} #{t.sequence}{quiet}"


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA)
    yield connection
    connection.close()


def told(db: sqlite3.Connection, *steps: str | Transition) -> list[str]:
    said = []
    for step in steps:
        if step == KILL:
            continue
        for news in record(db, transition(step) if isinstance(step, str) else step, 1_000):
            remember(db, news.transition.alert_id, spoken(news).encode())
            said.append(spoken(news))
    return said


CASES = [
    pytest.param(
        ["opened a [20,50) #1", "updated a [20,60) peak 40 #2", "resolved a [20,90) peak 44 #3"],
        ["opened a [20,50) #1", "updated a [20,60) peak 40 #2", "resolved a [20,90) peak 44 #3"],
        id="without a replay everything is told as detection says it",
    ),
    pytest.param(
        ["opened a [20,50)", KILL, "opened a [20,50)", "resolved a [20,90) #2"],
        ["opened a [20,50) #1", "resolved a [20,90) #2"],
        id="the same opening again is no news",
    ),
    pytest.param(
        ["opened a [20,50)", KILL, "opened x [30,60)", "resolved x [20,90) #2"],
        ["opened a [20,50) #1", "resolved a [20,90) #2"],
        id="killed between delivery and the end of the epoch, replayed in the other order, it keeps the first id",
    ),
    pytest.param(
        ["opened a [20,50)", KILL, "opened x [50,80)", "resolved x [20,90) #2"],
        ["opened a [20,50) #1", "resolved a [20,90) #2"],
        id="an episode that only touches the recorded one is the same",
    ),
    pytest.param(
        ["opened a [20,50)", KILL, "opened x [51,80)", "resolved x [51,80) #2"],
        ["opened a [20,50) #1", "opened x [51,80) #1", "resolved x [51,80) #2"],
        id="an episode a millisecond after the recorded one is another",
    ),
    pytest.param(
        ["opened a [20,50)", KILL, "opened x [5,19)"],
        ["opened a [20,50) #1", "opened x [5,19) #1"],
        id="an episode a millisecond before the recorded one is another",
    ),
    pytest.param(
        ["opened a [20,50)", KILL, "opened x [30,60)", KILL, "opened y [25,55)", KILL, "opened a [20,50)",
         "opened x [30,60)", "resolved y [20,90)"],
        ["opened a [20,50) #1", "resolved a [20,90) #2"],
        id="several replays in a row, each with another id, are one alert",
    ),
    pytest.param(
        ["opened a [20,50)", "resolved a [20,50)", KILL, "opened a [20,50)", "resolved a [20,50)"],
        ["opened a [20,50) #1", "resolved a [20,50) #2"],
        id="a whole life replayed is no news",
    ),
    pytest.param(
        ["opened a [20,50)", "resolved a [20,50)", KILL, "opened x [30,45)", "resolved x [20,50)"],
        ["opened a [20,50) #1", "resolved a [20,50) #2"],
        id="a whole life replayed in the other order is no news",
    ),
    pytest.param(
        ["opened a [20,50)", "resolved a [20,50)", "reopened a [20,70)", "resolved a [20,70)"],
        ["opened a [20,50) #1", "resolved a [20,50) #2", "reopened a [20,70) #3", "resolved a [20,70) #4"],
        id="an alert that goes on after it was told to be over is told as reopened",
    ),
    pytest.param(
        ["opened a [20,50)", "resolved a [20,50)", "reopened a [20,70)", KILL,
         "opened a [20,50)", "resolved a [20,50)", "reopened a [20,70)", "resolved a [20,80)"],
        ["opened a [20,50) #1", "resolved a [20,50) #2", "reopened a [20,70) #3", "resolved a [20,80) #4"],
        id="a reopening replayed is no news, nor is the end before it",
    ),
    pytest.param(
        ["opened a [20,50)", "resolved a [20,50)", "reopened a [20,70)", KILL,
         "opened a [20,50)", "resolved a [20,70)"],
        ["opened a [20,50) #1", "resolved a [20,50) #2", "reopened a [20,70) #3", "resolved a [20,70) #4"],
        id="reopened, then replayed without the idle gap, it resolves once",
    ),
    pytest.param(
        ["opened a [20,50)", "resolved a [20,50)", KILL, "opened x [40,70)", "resolved x [20,70)"],
        ["opened a [20,50) #1", "resolved a [20,50) #2", "reopened a [20,70) #3", "resolved a [20,70) #4"],
        id="a replay that finds the breach going on beyond the told end tells it as reopened",
    ),
    pytest.param(
        ["opened a [20,50)", "resolved a [20,50)", KILL, "opened x [30,50)", "updated x [20,70) peak 40"],
        ["opened a [20,50) #1", "resolved a [20,50) #2", "reopened a [20,70) peak 40 #3"],
        id="an update of an alert that was told to be over tells it as reopened",
    ),
    pytest.param(
        ["opened a [20,50)", "resolved a [20,50)", KILL, "opened x [30,50)", "resolved x [20,70)",
         "resolved x [20,70)"],
        ["opened a [20,50) #1", "resolved a [20,50) #2", "resolved a [20,70) #3 topic only"],
        id="an episode that grew after people heard of its end is corrected on the alerts topic alone",
    ),
    pytest.param(
        ["opened a [20,50)", "updated a [20,60) peak 40", "updated a [20,70) peak 80", KILL,
         "opened a [20,50)", "updated a [20,60) peak 40", "updated a [20,70) peak 80",
         "updated a [20,80) peak 160"],
        ["opened a [20,50) #1", "updated a [20,60) peak 40 #2", "updated a [20,70) peak 80 #3",
         "updated a [20,80) peak 160 #4"],
        id="an update is news when its peak is",
    ),
    pytest.param(
        ["opened a [20,50)", "updated a [10,90) peak 40", KILL, "opened x [30,60)", "resolved x [30,60)",
         "reopened x [10,90)", "resolved x [10,90)"],
        ["opened a [20,50) #1", "updated a [10,90) peak 40 #2", "resolved a [10,90) peak 40 #3"],
        id="an end that comes earlier than the known one is a replay's, and what is told never shrinks",
    ),
    pytest.param(
        ["opened a [20,50)", "opened b [80,110)", "merged b->a [80,110)", "resolved a [20,110)"],
        ["opened a [20,50) #1", "opened b [80,110) #1", "merged b->a [80,110) #2", "resolved a [20,110) #2"],
        id="two alerts that join end as one",
    ),
    pytest.param(
        ["opened a [20,50)", "opened b [80,110)", "resolved b [80,110)", "merged b->a [80,110) topic only"],
        ["opened a [20,50) #1", "opened b [80,110) #1", "resolved b [80,110) #2",
         "merged b->a [80,110) #3 topic only"],
        id="an alert that had resolved before it was joined is merged on the alerts topic alone",
    ),
    pytest.param(
        ["opened a [20,50)", "resolved a [20,50)", "resolved a [18,50) topic only", KILL,
         "resolved a [20,50)", "resolved a [18,50) topic only", "resolved a [18,50) peak 21 topic only"],
        ["opened a [20,50) #1", "resolved a [20,50) #2", "resolved a [18,50) #3 topic only",
         "resolved a [18,50) peak 21 #4 topic only"],
        id="what an alert turned out to be after its end is for the alerts topic alone, and once",
    ),
    pytest.param(
        ["opened a [20,50)", "opened b [80,110)", "merged b->a [80,110)", KILL,
         "opened b [80,110)", "opened a [20,50)", "merged a->b [20,50)", "resolved b [20,110)"],
        ["opened a [20,50) #1", "opened b [80,110) #1", "merged b->a [80,110) #2", "resolved a [20,110) #2"],
        id="a join replayed with the other survivor stays as it was told",
    ),
    pytest.param(
        ["opened a [20,50)", "opened b [80,110)", "merged b->a [80,110)", KILL,
         "opened b [80,110)", "resolved b [80,110)", "opened a [20,50)", "merged a->b [20,50)",
         "resolved b [20,110)"],
        ["opened a [20,50) #1", "opened b [80,110) #1", "merged b->a [80,110) #2", "resolved a [20,110) #2"],
        id="of a join replayed with an end of one part in between nothing false is told",
    ),
    pytest.param(
        ["opened a [20,50)", "opened b [80,110)", KILL, "opened x [30,60)", "resolved x [20,110)"],
        ["opened a [20,50) #1", "opened b [80,110) #1", "merged b->a [80,110) #2", "resolved a [20,110) #2"],
        id="two recorded alerts of which the replay finds one episode: the first goes on, the other is merged",
    ),
    pytest.param(
        ["opened a [20,50)", "opened b [80,110)", "resolved b [80,110)", KILL, "opened x [20,110)"],
        ["opened a [20,50) #1", "opened b [80,110) #1", "resolved b [80,110) #2",
         "merged b->a [80,110) #3 topic only"],
        id="of the two, the one that had resolved is merged on the alerts topic alone",
    ),
    pytest.param(
        ["opened a [20,50)", "opened b [80,110)", "opened c [140,170)", KILL, "opened x [50,170)", KILL,
         "opened c [140,170)", "opened b [80,110)", "resolved c [20,170)"],
        ["opened a [20,50) #1", "opened b [80,110) #1", "opened c [140,170) #1", "merged b->a [80,110) #2",
         "merged c->a [140,170) #2", "resolved a [20,170) #2"],
        id="three recorded alerts become one, also under each other's names",
    ),
    pytest.param(
        ["opened a [20,50)", "updated a [20,110) peak 40", KILL, "opened x [80,110)", "opened a [20,50)",
         "merged x->a [80,110)", "resolved a [20,110) peak 40"],
        ["opened a [20,50) #1", "updated a [20,110) peak 40 #2", "resolved a [20,110) peak 40 #3"],
        id="a part of the recorded episode that the replay opens apart is the same alert",
    ),
    pytest.param(
        ["resolved a [20,50) #2"],
        ["resolved a [20,50) #2"],
        id="the end of an alert that is not recorded (the outbox was deleted) is told",
    ),
    pytest.param(
        ["opened a [20,50)", "cancelled a [20,50)", "cancelled a [20,50)"],
        ["opened a [20,50) #1", "cancelled a [20,50) #2"],
        id="a cancellation is told once",
    ),
    pytest.param(
        ["opened a [20,50)", "resolved a [20,50)", "cancelled a [20,90)"],
        ["opened a [20,50) #1", "resolved a [20,50) #2"],
        id="what is over is not cancelled",
    ),
    pytest.param(
        ["opened a [20,80)", KILL, "opened x [30,60)", "cancelled x [30,60)"],
        ["opened a [20,80) #1", "cancelled a [20,80) #2"],
        id="a cancellation under another id ends the recorded alert",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("said", "expected"), CASES)
def test_told_is_what_is_news(db: sqlite3.Connection, said: list[str], expected: list[str]) -> None:
    assert told(db, *said) == expected


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"rule": "other"}, id="rule"),
        pytest.param({"rule_version": "v2"}, id="version of the rule"),
        pytest.param({"key": ("nokia",)}, id="key"),
        pytest.param({"key": ("Nokia", 1)}, id="key of two parts"),
    ],
)
def test_alerts_of_another_rule_or_key_never_meet(db: sqlite3.Connection, other: dict[str, object]) -> None:
    assert told(db, "opened a [20,50)", transition("opened x [20,50)", **other)) == [
        "opened a [20,50) #1",
        "opened x [20,50) #1",
    ]


def test_keys_keep_their_json_type(db: sqlite3.Connection) -> None:
    keys = [("1",), (1,), (1.5,), (True,), (None,)]
    steps = [transition(f"opened x{n} [20,50)", key=key) for n, key in enumerate(keys)]
    assert len(told(db, *steps)) == len(keys)


def test_the_facts_that_are_told_are_the_union_of_the_record_and_the_transition(db: sqlite3.Connection) -> None:
    first = transition("opened a [20,80) peak 44", peak_exact=False, events=60)
    last = transition("resolved x [30,90) peak 31", events=55)
    told(db, first)
    (news,) = record(db, last, 1_000)
    t = news.transition
    assert (t.alert_id, t.opened_at_ms, t.resolves_at_ms, t.peak, t.peak_exact, t.events) == (
        "a",
        20,
        90,
        44,
        False,
        60,
    )


def test_news_of_a_known_alert_carry_what_was_told_last(db: sqlite3.Connection) -> None:
    told(db, "opened a [20,50)", "updated a [20,60) peak 40")
    (news,) = record(db, transition("resolved a [20,60)"), 1_000)
    assert news.previous == b"updated a [20,60) peak 40 #2"
