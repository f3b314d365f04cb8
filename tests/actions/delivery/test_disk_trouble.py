"""The disk under the outbox fails: deliveries go on, the flow does not die, nothing is lost when it is mended.

Three ways to break it: another program holds a lock on the file, the disk is full (SQLite's own page limit
stands in for it), the file may not be written any more.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path

import pytest
import structlog

from actions.delivery import spare
from actions.delivery.dispatcher import Dispatcher
from settings import FloodSettings, RetrySettings
from tests.actions.conftest import Start
from tests.support.delivering import Broker, action, email_action, opened, resolved, rows
from tests.support.receivers import HttpReceiver, MailReceiver, Reply
from tests.support.waiting import wait_until

Break = Callable[[Dispatcher, Path], AbstractContextManager[None]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "MEND_EVERY_MS", 50)
    monkeypatch.setattr(spare, "BUSY_MS", 50)


@contextmanager
def locked(_: Dispatcher, directory: Path) -> Iterator[None]:
    holder = sqlite3.connect(directory / "outbox.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    yield
    holder.execute("ROLLBACK")
    holder.close()


@contextmanager
def full_disk(dispatcher: Dispatcher, _: Path) -> Iterator[None]:
    db = dispatcher._outbox._file.store.db
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")
    with suppress(sqlite3.OperationalError):
        for n in range(10_000):  # until what is free in the last pages is filled
            db.execute("INSERT INTO aliases VALUES (?, ?)", (f"filler {n}", "x" * 1000))
    yield
    db.execute("PRAGMA max_page_count = 1000000")


@contextmanager
def read_only(dispatcher: Dispatcher, _: Path) -> Iterator[None]:
    dispatcher._outbox._file.store.db.execute("PRAGMA query_only = ON")
    yield
    with suppress(sqlite3.ProgrammingError):  # closed
        dispatcher._outbox._file.store.db.execute("PRAGMA query_only = OFF")


LONG = "B" * 20_000  # needs pages of its own, which a full disk has not
WAYS = [pytest.param(way, id=way.__name__) for way in (locked, full_disk, read_only)]


def floods(directory: Path) -> int:
    """How many are open."""
    with closing(sqlite3.connect(directory / "outbox.sqlite")) as db:
        return int(db.execute("SELECT COUNT(*) FROM floods").fetchone()[0])


def told(web: HttpReceiver) -> list[tuple[str, int]]:
    alerts = [json.loads(request.body)["data"] for request in web.requests]
    return [(alert["id"], alert["sequence"]) for alert in alerts]


@pytest.mark.parametrize("broken", WAYS)
def test_deliveries_go_on_and_the_file_has_them_in_the_end(
    start: Start, web: HttpReceiver, broker: Broker, tmp_path: Path, broken: Break
) -> None:
    state = tmp_path / "state"
    run = start({"web": action("webhook", url=web.url)})
    before = opened(run.settings, "before", "A")
    run.dispatcher.put([before])
    wait_until(lambda: run.dispatcher.pending() == 0)
    with structlog.testing.capture_logs() as logs, broken(run.dispatcher, state):
        during = opened(run.settings, "during", LONG)
        run.dispatcher.put([resolved(before), during])
        run.dispatcher.put([during])
        wait_until(lambda: len(web.requests) == 3 and run.dispatcher.pending() == 0)
    assert told(web)[0] == ("before", 1)
    assert sorted(told(web)[1:]) == [("before", 2), ("during", 1)]
    assert any(
        line["event"].startswith("The outbox cannot be written") and line["log_level"] == "error" for line in logs
    )
    wait_until(lambda: not run.dispatcher._outbox.in_trouble and run.dispatcher.pending() == 0)
    assert [(row["alert_id"], row["sequence"], row["state"]) for row in rows(state) if row["action"] == "web"] == [
        ("before", 1, "delivered"),
        ("before", 2, "delivered"),
        ("during", 1, "delivered"),
    ]
    with closing(sqlite3.connect(state / "outbox.sqlite")) as db:
        written = "SELECT COUNT(*) FROM attempts JOIN deliveries ON id = delivery WHERE action = 'web'"
        assert db.execute(written).fetchone()[0] == 3, "every attempt, also those made from memory"
    # What was told in the meantime is known afterwards.
    run.dispatcher.put([during, resolved(during)])
    wait_until(lambda: run.dispatcher.pending() == 0)
    assert told(web)[3:] == [("during", 2)]
    assert len(broker.on("tua.alerts")) == 4


@pytest.mark.parametrize("broken", WAYS)
def test_what_waited_in_the_file_is_retried_and_not_again_and_again(
    start: Start, web: HttpReceiver, tmp_path: Path, broken: Break
) -> None:
    web.default = Reply(500)
    run = start({"web": action("webhook", url=web.url)})
    life = opened(run.settings)
    run.dispatcher.put([life])
    wait_until(lambda: len(web.requests) >= 2)
    with broken(run.dispatcher, tmp_path / "state"):
        run.dispatcher.put([resolved(life)])
        failed = len(web.requests)
        wait_until(lambda: len(web.requests) > failed + 1)
        web.default = Reply(200)
        wait_until(lambda: run.dispatcher.pending() == 0)
        tried = len(web.requests)
        run.dispatcher.put([opened(run.settings, "b", LONG)])
        wait_until(lambda: told(web)[-1] == ("b", 1))
        assert len(web.requests) == tried + 1
    assert told(web)[-3:] == [("a1", 1), ("a1", 2), ("b", 1)]
    wait_until(lambda: not run.dispatcher._outbox.in_trouble and run.dispatcher.pending() == 0)
    assert {row["state"] for row in rows(tmp_path / "state")} == {"delivered"}


def test_what_an_earlier_run_left_goes_on_from_memory_too_and_in_order(
    start: Start, web: HttpReceiver, tmp_path: Path
) -> None:
    web.default = Reply(500)
    run = start({"web": action("webhook", url=web.url)})
    life = opened(run.settings)
    run.dispatcher.put([life])
    wait_until(lambda: web.requests)
    run.restart()
    with read_only(run.dispatcher, tmp_path / "state"):
        run.dispatcher.put([resolved(life)])
        web.requests.clear()
        web.default = Reply(200)
        wait_until(lambda: len({id_ for id_, _ in told(web)}) and run.dispatcher.pending() == 0)
    assert list(dict.fromkeys(told(web))) == [("a1", 1), ("a1", 2)]


def test_while_one_process_cannot_write_no_other_sends_what_is_its_own(
    start: Start, web: HttpReceiver, tmp_path: Path
) -> None:
    web.default = Reply(500)
    slow = RetrySettings(delays=(300,))
    one = start({"web": action("webhook", url=web.url, retry=slow)})
    other = start({"web": action("webhook", url=web.url, retry=slow)})
    one.dispatcher.put([opened(one.settings, f"a{n}", f"A{n}") for n in range(8)])
    wait_until(lambda: sum(row["failures"] for row in rows(tmp_path / "state")) == 8)
    with read_only(one.dispatcher, tmp_path / "state"):
        one.dispatcher.put([opened(one.settings, "during", "B")])
        assert one.dispatcher._outbox.in_trouble
        web.requests.clear()
        web.default = Reply(200)
        wait_until(lambda: one.dispatcher.pending() == 0)
    wait_until(lambda: other.dispatcher.pending() == 0)
    assert sorted(told(web)) == [*((f"a{n}", 1) for n in range(8)), ("during", 1)]


def test_what_another_process_has_not_told_yet_holds_back_what_comes_later(
    start: Start, web: HttpReceiver, tmp_path: Path
) -> None:
    web.default = Reply(500)
    one = start({"web": action("webhook", url=web.url)})
    other = start({"web": action("webhook", url=web.url)})
    life = opened(one.settings)
    one.dispatcher.put([life])
    wait_until(lambda: web.requests)
    with read_only(other.dispatcher, tmp_path / "state"):
        later = opened(one.settings, "b", "B")
        other.dispatcher.put([resolved(life), later])
        wait_until(lambda: ("b", 1) in told(web))
        assert ("a1", 2) not in told(web)
    web.default = Reply(200)
    wait_until(lambda: ("a1", 2) in told(web))
    assert [one for one in dict.fromkeys(told(web)) if one[0] == "a1"] == [("a1", 1), ("a1", 2)]


def test_an_outcome_that_the_file_cannot_take_is_not_forgotten(start: Start, web: HttpReceiver, tmp_path: Path) -> None:
    web.default = Reply(delay_s=0.5)
    run = start({"web": action("webhook", url=web.url)})
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: web.requests)
    with read_only(run.dispatcher, tmp_path / "state"):
        wait_until(lambda: run.dispatcher.pending() == 0)
    wait_until(lambda: not run.dispatcher._outbox.in_trouble and run.dispatcher.pending() == 0)
    assert [row["state"] for row in rows(tmp_path / "state") if row["action"] == "web"] == ["delivered"]
    assert len(web.requests) == 1


def test_memory_has_a_bound_at_which_the_source_must_pause(start: Start, tmp_path: Path) -> None:
    # No attempt ends meanwhile: what is to be noted of it would lie in memory too.
    with HttpReceiver(default=Reply(hang=True)) as web:
        run = start({"web": action("webhook", url=web.url)})
        run.dispatcher._outbox._bound = 10
        run.dispatcher.put([opened(run.settings, f"a{n}", f"A{n}") for n in range(20)])
        with read_only(run.dispatcher, tmp_path / "state"):
            run.dispatcher.put([opened(run.settings, f"b{n}", f"B{n}") for n in range(5)])
            assert not run.dispatcher.full
            run.dispatcher.put([opened(run.settings, f"c{n}", f"C{n}") for n in range(10)])
            wait_until(lambda: run.dispatcher.full)
        wait_until(lambda: not run.dispatcher.full)


def test_what_was_delivered_from_memory_counts_against_the_bound(
    start: Start, web: HttpReceiver, tmp_path: Path
) -> None:
    run = start({"web": action("webhook", url=web.url)})
    run.dispatcher._outbox._bound = 10
    with read_only(run.dispatcher, tmp_path / "state"):
        run.dispatcher.put([opened(run.settings, f"a{n}", f"A{n}") for n in range(6)])
        wait_until(lambda: run.dispatcher.pending() == 0)
        assert run.dispatcher.full
    wait_until(lambda: not run.dispatcher.full)


@pytest.mark.parametrize("broken", WAYS)
def test_a_flood_while_the_disk_is_in_trouble_is_summed_up_too(
    start: Start, mail: MailReceiver, tmp_path: Path, broken: Break
) -> None:
    now = [1_800_000_000_000]
    flood = FloodSettings(more_than=3, within=60_000)
    run = start({"mail": email_action(mail.port, flood=flood)}, now_ms=lambda: now[0])
    with broken(run.dispatcher, tmp_path / "state"):
        run.dispatcher.put([opened(run.settings, "first", LONG)])
        run.dispatcher.put([opened(run.settings, f"a{n}", f"P{n}") for n in range(10)])
        wait_until(lambda: len(mail.mails) == 3)
    now[0] += 60_000
    run.dispatcher.put([opened(run.settings, "last", "L")])
    assert not run.dispatcher._outbox.in_trouble
    wait_until(lambda: "[warning] hot: 9 more alerts" in mail.subjects())
    wait_until(lambda: run.dispatcher.pending() == 0)


def test_floods_and_what_was_told_go_on_over_the_trouble_and_back(
    start: Start, mail: MailReceiver, tmp_path: Path
) -> None:
    now = [1_800_000_000_000]
    flood = FloodSettings(more_than=3, within=60_000)
    run = start({"mail": email_action(mail.port, flood=flood)}, now_ms=lambda: now[0])

    def burst(name: str, count: int) -> None:
        run.dispatcher.put([opened(run.settings, f"{name}{n}", f"{name}{n}") for n in range(count)])

    told = opened(run.settings, "told", "told")
    run.dispatcher.put([told])
    burst("file", 6)  # two are told, and a flood of four is open in the file
    wait_until(lambda: len(mail.mails) == 3)
    with read_only(run.dispatcher, tmp_path / "state"):
        burst("spare", 5)
        run.dispatcher.put([resolved(told), resolved(opened(run.settings, "file5", "file5"))])
        wait_until(lambda: "[resolved] hot: told" in mail.subjects())
        now[0] += 60_000
        wait_until(lambda: "[warning] hot: 9 more alerts" in mail.subjects())
    now[0] += 60_000
    wait_until(lambda: not run.dispatcher._outbox.in_trouble and floods(tmp_path / "state") == 0)
    burst("after", 1)
    wait_until(lambda: "[warning] hot: after0" in mail.subjects() and run.dispatcher.pending() == 0)
    assert len(mail.mails) == 6, "none again, none of those that the flood swallowed, and no second summary"


def test_a_process_that_waits_for_another_does_not_lean_on_memory(
    start: Start, web: HttpReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare, "PATIENCE", 1_000)
    run = start({"web": action("webhook", url=web.url)})
    with structlog.testing.capture_logs() as logs:
        holder = sqlite3.connect(tmp_path / "state" / "outbox.sqlite", isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        putting = threading.Thread(target=lambda: run.dispatcher.put([opened(run.settings)]))
        putting.start()
        wait_until(lambda: any("Another process holds the outbox" in line["event"] for line in logs))
        holder.execute("ROLLBACK")
        holder.close()
        putting.join(10)
    assert not run.dispatcher._outbox.in_trouble
    wait_until(lambda: web.requests)


def test_what_is_still_in_memory_at_the_end_is_said(start: Start, tmp_path: Path) -> None:
    with HttpReceiver(default=Reply(500)) as web:
        run = start({"web": action("webhook", url=web.url)})
        with read_only(run.dispatcher, tmp_path / "state"), structlog.testing.capture_logs() as logs:
            run.dispatcher.put([opened(run.settings)])
            run.dispatcher.close(0)
            assert any("are lost" in line["event"] for line in logs)
