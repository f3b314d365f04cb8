"""The queue by itself: leases, owners, order, delays, the clock. Time is a number that the tests set."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actions.delivery.housekeeping import KEEP_MS
from actions.delivery.outbox import KEEP_ATTEMPTS, STEPPED_MS, Outbox
from actions.delivery.records import Address, Compose, Composed, Leased, Mark, Places
from actions.delivery.store import OutboxError, Store
from actions.delivery.topic import DEAD_LETTERS
from detection.transitions import Transition
from tests.support import delivering

NOW = 1_000_000_000
HOUR = 3_600_000
FIRST_FORMAT = Path(__file__).with_name("outbox-format-1.sql")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "outbox.sqlite"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    store = Store(path)
    yield Outbox(store, "first")
    store.close()


@pytest.fixture
def other(path: Path, outbox: Outbox) -> Iterator[Outbox]:
    store = Store(path)
    yield Outbox(store, "second")
    store.close()


def alert(name: str, sequence: int = 1) -> Transition:
    opening = delivering.opened(delivering.settings(Path(), {}), name, name)
    return opening if sequence == 1 else delivering.resolved(opening)


def to(*pairs: tuple[str, str]) -> Compose:
    addresses = tuple(Address(action, (recipient,)) for action, recipient in pairs)
    return lambda news: Composed(news.transition.alert_id.encode(), "warning", None, addresses)


WEB = to(("web", "w"))


def places(**free: int) -> tuple[Places, ...]:
    return tuple(Places(action, number) for action, number in free.items())


def take(outbox: Outbox, now_ms: int = NOW, marks: tuple[Mark, ...] = (), **free: int) -> list[Leased]:
    return outbox.exchange(marks, places(**free or {"web": 8}), now_ms)[0]


def ids(leases: list[Leased]) -> list[tuple[str, int]]:
    return [(leased.delivery.alert_id, leased.delivery.sequence) for leased in leases]


def waits(leased: Leased, delay_ms: int, **more: Any) -> Mark:
    return Mark(leased, "waits", "no", delay_ms=delay_ms, **more)


def delivered(leased: Leased) -> Mark:
    return Mark(leased, "delivered", "yes")


def attempts(outbox: Outbox) -> list[tuple[Any, ...]]:
    with outbox.store.reading() as db:
        found = db.execute("SELECT attempt, at_ms, took_ms, outcome, answer FROM attempts ORDER BY attempt")
        return found.fetchall()


def schema(db: sqlite3.Connection) -> dict[str, object]:
    """Every table's columns, and the text of every index."""
    named = db.execute("SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {
        name: sql if type_ == "index" else db.execute(f"PRAGMA table_xinfo({name})").fetchall()
        for name, type_, sql in named
    }


def row(outbox: Outbox, number: int = 1) -> dict[str, Any]:
    path = outbox.store.path
    assert path is not None
    return delivering.rows(path.parent)[number - 1]


def test_a_delivery_is_leased_once_and_ends(outbox: Outbox) -> None:
    outbox.put([alert("a")], WEB, NOW)
    (leased,) = take(outbox)
    assert (leased.delivery.body, leased.delivery.recipient, leased.delivery.attempt) == (b"a", "w", 1)
    assert take(outbox) == []
    take(outbox, NOW + 5, (delivered(leased),))
    assert {**row(outbox), "number": 1}.items() >= {
        "state": "delivered", "attempts": 1, "last_answer": "yes", "made_at_ms": NOW, "ended_ms": NOW + 5,
    }.items()  # fmt: skip
    assert outbox.pending() == 0


def test_every_recipient_has_its_own_delivery_and_putting_again_adds_none(outbox: Outbox) -> None:
    compose = to(("mail", "a@x"), ("mail", "b@x"), ("web", "w"))
    assert outbox.put([alert("a")], compose, NOW) == 0
    assert outbox.put([alert("a")], compose, NOW) == 1
    assert outbox.pending() == 3
    assert len(take(outbox, mail=8, web=8)) == 3


def test_no_more_is_leased_than_there_are_places_and_the_oldest_first(outbox: Outbox) -> None:
    for second, name in enumerate("abc"):
        outbox.put([alert(name)], WEB, NOW + second)
    assert ids(take(outbox, NOW + 9, web=2)) == [("a", 1), ("b", 1)]
    assert take(outbox, NOW + 9, web=0) == []
    assert ids(take(outbox, NOW + 9, web=1)) == [("c", 1)]


def test_a_later_transition_of_an_alert_waits_for_the_earlier_one_to_end(outbox: Outbox) -> None:
    outbox.put([alert("a"), alert("a", 2), alert("b")], WEB, NOW)
    first, other = take(outbox)
    assert ids([first, other]) == [("a", 1), ("b", 1)]
    take(outbox, NOW, (delivered(other),))
    take(outbox, NOW, (waits(first, 500),))
    assert take(outbox, NOW + 499) == []
    (again,) = take(outbox, NOW + 500)
    assert ids([again]) == [("a", 1)]
    assert ids(take(outbox, NOW + 501, (delivered(again),))) == [("a", 2)]


def test_a_later_transition_put_after_the_earlier_one_was_leased_waits_too(outbox: Outbox) -> None:
    outbox.put([alert("a")], WEB, NOW)
    (first,) = take(outbox)
    outbox.put([alert("a", 2)], WEB, NOW)
    assert take(outbox) == []
    assert ids(take(outbox, NOW, (Mark(first, "dead", "no", "refused"),))) == [("a", 2)]


def test_recipients_do_not_wait_for_each_other(outbox: Outbox) -> None:
    outbox.put([alert("a"), alert("a", 2)], to(("mail", "a@x"), ("mail", "b@x")), NOW)
    one, _ = take(outbox, mail=8)
    assert ids(take(outbox, NOW, (delivered(one),), mail=8)) == [("a", 2)]


def test_a_row_is_its_owners_alone_for_as_long_as_that_lives(outbox: Outbox, other: Outbox) -> None:
    outbox.put([alert("a"), alert("b")], WEB, NOW)
    take(outbox, web=1)
    other.adopt(lambda name: name != "first", NOW)
    assert take(other, NOW + HOUR) == []
    assert ids(take(outbox, NOW + HOUR)) == [("b", 1)]


def test_what_a_dead_owner_left_is_adopted_and_what_it_had_in_hand_is_due_at_once(
    outbox: Outbox, other: Outbox
) -> None:
    outbox.put([alert("waiting"), alert("leased"), alert("leased", 2)], WEB, NOW)
    waiting, _ = take(outbox)
    take(outbox, NOW, (waits(waiting, 5_000),))
    other.adopt(lambda name: name == "first", NOW + 1)
    (leased,) = take(other, NOW + 1)
    assert (leased.delivery.alert_id, leased.delivery.attempt) == ("leased", 2)
    assert ids(take(other, NOW + 5_000, (delivered(leased),))) == [("waiting", 1), ("leased", 2)]


def test_a_later_transition_in_other_hands_waits_for_the_earlier_one(outbox: Outbox, other: Outbox) -> None:
    outbox.put([alert("a")], WEB, NOW)
    (first,) = take(outbox)
    other.put([alert("a", 2)], WEB, NOW)
    assert take(other) == []
    take(outbox, NOW, (delivered(first),))
    assert ids(take(other)) == [("a", 2)]


def test_a_process_never_takes_its_own_row_twice_however_late_it_is(outbox: Outbox) -> None:
    outbox.put([alert("a")], WEB, NOW)
    take(outbox)
    assert take(outbox, NOW + HOUR) == []


def test_a_wait_survives_a_restart(path: Path) -> None:
    store = Store(path)
    outbox = Outbox(store, "first")
    outbox.put([alert("a")], WEB, NOW)
    take(outbox, NOW, (waits(take(outbox)[0], 60_000),))
    store.close()
    store = Store(path)
    again = Outbox(store, "second")
    again.adopt(lambda _: True, NOW)
    assert take(again, NOW + 59_999) == []
    (leased,) = take(again, NOW + 60_000)
    assert (leased.failures, leased.first_attempt_ms, leased.delivery.attempt) == (1, NOW, 2)
    store.close()


def test_a_clock_that_steps_back_an_hour_holds_nothing_back(outbox: Outbox) -> None:
    outbox.put([alert("new"), alert("waiting"), alert("in hand")], WEB, NOW)
    new, waiting, _ = take(outbox)
    take(outbox, NOW, (waits(waiting, 5_000), waits(new, 0)), web=0)
    assert sorted(ids(take(outbox, NOW - HOUR))) == [("new", 1), ("waiting", 1)]


def test_a_clock_that_steps_back_a_little_cuts_no_delay_short(outbox: Outbox) -> None:
    outbox.put([alert("a")], WEB, NOW)
    take(outbox, NOW, (waits(take(outbox)[0], 5_000),), web=0)
    assert take(outbox, NOW - STEPPED_MS) == []


def test_a_success_makes_due_what_waits_for_the_same_action(outbox: Outbox) -> None:
    outbox.put([alert("a"), alert("b")], to(("web", "w"), ("mail", "m")), NOW)
    leases = take(outbox, web=8, mail=8)
    take(outbox, NOW + 1, tuple(waits(leased, HOUR) for leased in leases), web=0)
    outbox.put([alert("c")], WEB, NOW + 2)
    (fresh,) = take(outbox, NOW + 2, web=8, mail=8)
    released = take(outbox, NOW + 3, (delivered(fresh),), web=8, mail=8)
    assert ids(released) == [("a", 1), ("b", 1)]
    assert {leased.delivery.action for leased in released} == {"web"}
    assert {leased.failures for leased in released} == {0}


def test_a_success_long_after_a_restart_releases_too(path: Path) -> None:
    store = Store(path)
    outbox = Outbox(store, "first")
    outbox.put([alert("a"), alert("b")], WEB, NOW)
    a, b = take(outbox)
    take(outbox, NOW + 1, (waits(a, 500), waits(b, HOUR)), web=0)
    store.close()
    store = Store(path)
    outbox = Outbox(store, "second")
    outbox.adopt(lambda _: True, NOW + 2)
    (a,) = take(outbox, NOW + 600)
    assert ids(take(outbox, NOW + 700, (delivered(a),))) == [("b", 1)]
    store.close()


def test_a_wait_that_the_target_asked_for_is_not_cut_short_by_a_success(outbox: Outbox) -> None:
    outbox.put([alert("a"), alert("b")], WEB, NOW)
    a, b = take(outbox)
    take(outbox, NOW + 1, (waits(a, 60_000, asked=True),), web=0)
    assert take(outbox, NOW + 2, (delivered(b),)) == []


def test_a_row_that_fails_among_successes_is_not_hammered(outbox: Outbox) -> None:
    outbox.put([alert("poison")], WEB, NOW)
    attempts = 0
    for n in range(200):
        now = NOW + n * 10
        outbox.put([alert(f"good{n}")], WEB, now)
        leases = take(outbox, now)
        attempts += sum(leased.delivery.alert_id == "poison" for leased in leases)
        marks = tuple(waits(one, HOUR) if one.delivery.alert_id == "poison" else delivered(one) for one in leases)
        take(outbox, now + 5, marks, web=0)
    assert attempts == 2  # its own, and one when the target was first seen to work


def test_a_dead_letter_is_a_delivery_made_in_the_same_transaction(outbox: Outbox) -> None:
    outbox.put([alert("a")], WEB, NOW)
    (leased,) = take(outbox)
    mark = Mark(leased, "dead", "404", "refused", dead_letter=b"{}")
    assert outbox.exchange([mark, mark], places(web=8), NOW + 1)[0] == []
    assert row(outbox).items() >= {"state": "dead", "reason": "refused", "last_answer": "404"}.items()
    (letter,) = outbox.exchange([], [Places(DEAD_LETTERS, 8)], NOW + 2)[0]
    assert (letter.delivery.body, letter.delivery.alert_id, letter.delivery.recipient) == (
        b"{}",
        "a",
        f"{leased.delivery.id}/1",
    )


def test_deliveries_of_unknown_actions_are_found(outbox: Outbox) -> None:
    outbox.put([alert("a")], to(("gone", "g"), ("web", "w")), NOW)
    assert [leased.delivery.action for leased in outbox.strangers(["web"])] == ["gone"]


def test_the_next_due_time_is_that_of_what_may_be_taken(outbox: Outbox) -> None:
    assert outbox.exchange([], places(web=8), NOW)[1] is None
    outbox.put([alert("a")], WEB, NOW)
    leases, due = outbox.exchange([], places(web=8), NOW)
    assert due is None
    outbox.put([alert("b")], WEB, NOW)
    assert outbox.exchange([], places(web=0), NOW)[1] is None, "no place is free, so nothing can begin"
    leases += take(outbox)
    assert outbox.exchange([waits(leases[0], 700)], places(web=7), NOW)[1] == NOW + 700


def test_the_past_is_forgotten_after_a_month_but_nothing_that_goes_on(outbox: Outbox) -> None:
    outbox.put([alert("over"), alert("over", 2), alert("open"), alert("stuck")], WEB, NOW)
    while leases := [leased for leased in take(outbox) if leased.delivery.alert_id != "stuck"]:
        take(outbox, NOW, tuple(delivered(leased) for leased in leases), web=0)
    outbox.purge(KEEP_MS, NOW + KEEP_MS)
    assert len(delivering.rows(outbox.store.path.parent)) == 4  # type: ignore[union-attr]
    outbox.purge(KEEP_MS, NOW + KEEP_MS + 1)
    kept = [one["alert_id"] for one in delivering.rows(outbox.store.path.parent)]  # type: ignore[union-attr]
    assert kept == ["open", "stuck"]
    assert outbox.put([alert("open"), alert("over")], WEB, NOW) == 1


def test_the_housekeeping_is_done_in_bites_between_which_others_get_their_turn(
    outbox: Outbox, other: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actions.delivery.housekeeping.SLICE", 10)
    outbox.put([one for n in range(25) for one in (alert(str(n)), alert(str(n), 2))], WEB, NOW)
    bites = 0
    while other.adopt(lambda _: True, NOW):
        bites += 1
    assert bites == 5
    while leases := take(other, web=100):
        take(other, NOW, tuple(delivered(leased) for leased in leases), web=0)
    bites = 0
    while other.purge(1, NOW + HOUR):
        bites += 1
    assert bites == 5
    assert len(other.strangers(["web"])) == 0


def test_a_failure_after_the_leases_leaves_none_behind(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    outbox.put([alert("a")], WEB, NOW)
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "_next_due", failing)
        with pytest.raises(sqlite3.OperationalError):
            take(outbox)
    assert ids(take(outbox)) == [("a", 1)]


def test_what_was_redriven_meanwhile_goes_first(outbox: Outbox) -> None:
    outbox.put([alert("a"), alert("a", 2)], WEB, NOW)
    (first,) = take(outbox)
    (second,) = take(outbox, NOW, (Mark(first, "dead", "404", "refused"),))
    with outbox.store.writing() as db:
        db.execute("UPDATE deliveries SET state = 'pending', due_ms = ? WHERE sequence = 1", (NOW + HOUR,))
    _, due = outbox.exchange([waits(second, 10)], places(web=8), NOW)
    assert due == NOW + HOUR, "the second waits behind the first, and nobody looks for it every ten milliseconds"


def test_the_file_is_for_its_owner_alone(outbox: Outbox, path: Path) -> None:
    outbox.put([alert("a")], WEB, NOW)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_every_attempt_is_written_down_with_its_time_and_answer(outbox: Outbox) -> None:
    outbox.put([alert("a")], WEB, NOW)
    (first,) = take(outbox, NOW + 10)
    take(outbox, NOW + 250, (waits(first, 1_000),), web=0)
    (second,) = take(outbox, NOW + 1_250)
    take(outbox, NOW + 1_300, (delivered(second),), web=0)
    assert attempts(outbox) == [(1, NOW + 10, 240, "retry", "no"), (2, NOW + 1_250, 50, "delivered", "yes")]


def test_an_attempt_that_its_process_did_not_survive_is_written_down_too(outbox: Outbox, other: Outbox) -> None:
    outbox.put([alert("a")], WEB, NOW)
    take(outbox, NOW)
    other.adopt(lambda name: name == "first", NOW + 500)
    assert attempts(outbox) == [(1, NOW + 500, 0, "cut short", "its process died")]


def test_of_attempts_without_end_the_last_ones_are_kept(outbox: Outbox) -> None:
    outbox.put([alert("a")], WEB, NOW)
    for n in range(KEEP_ATTEMPTS + 5):
        (leased,) = take(outbox, NOW + n * HOUR)
        take(outbox, NOW + n * HOUR, (waits(leased, HOUR),), web=0)
    kept = [number for number, *_ in attempts(outbox)]
    assert kept == list(range(6, KEEP_ATTEMPTS + 6))


def test_while_it_is_quiet_only_what_is_urgent_goes_out(outbox: Outbox) -> None:
    outbox.put([alert("a")], WEB, NOW)
    outbox.put([alert("b")], lambda news: replace(WEB(news), severity="critical"), NOW)  # type: ignore[type-var]
    leases, due = outbox.exchange([], [Places("web", 8, quiet=True)], NOW)
    assert ids(leases) == [("b", 1)]
    assert due is None, "or the sender would not rest until the morning"
    assert ids(take(outbox, NOW + HOUR)) == [("a", 1)]


def test_a_file_of_the_first_format_is_brought_up_to_date_with_all_that_waits_in_it(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.executescript(FIRST_FORMAT.read_text(encoding="utf-8"))
    with closing(Store(path).db) as db:
        upgraded = schema(db)
        assert Outbox(Store(path), "second").pending() == 1
    with closing(Store(None).db) as db:
        assert upgraded == schema(db)


def test_a_file_of_a_newer_version_is_refused_with_what_to_do(path: Path) -> None:
    Store(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(OutboxError, match=r"newer version of tua \(format 7, this one knows 2\): update tua"):
        Store(path)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(OutboxError, match="cannot be opened"):
        Store(path)
