"""Careless actions, mute name servers, broken rows: each costs its own deliveries, and no others."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog

from actions.base import Delivered, Delivery, Outcome, Retry, Tell
from actions.delivery import sender
from actions.exec import ExecAction
from actions.log import LogAction
from actions.webhook import WebhookAction
from settings.actions import ActionSettings
from tests.actions.conftest import Start
from tests.support.delivering import action, opened, rows
from tests.support.receivers import HttpReceiver, Reply
from tests.support.waiting import wait_until

Careless = Callable[[Delivery], Any]
Patch = Callable[[Careless], dict[str, ActionSettings]]


@pytest.fixture(params=["one by one", "together"])
def careless_action(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Patch:
    """Makes an action do that with each delivery, and gives its settings: one of either kind."""

    def patch(work: Careless) -> dict[str, ActionSettings]:
        async def deliver(self: ExecAction, delivery: Delivery) -> Any:
            return work(delivery)

        async def deliver_all(self: LogAction, deliveries: Sequence[Delivery], tell: Tell) -> None:
            for delivery in deliveries:
                tell(delivery, work(delivery))

        if request.param == "together":
            monkeypatch.setattr(LogAction, "deliver_all", deliver_all)
            return {"careless": action("log")}
        monkeypatch.setattr(ExecAction, "deliver", deliver)
        return {"careless": action("exec", command=(sys.executable,))}

    return patch


@pytest.mark.parametrize(
    "raised", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, MemoryError, ZeroDivisionError]
)
def test_whatever_an_action_raises_costs_no_more_than_the_attempt(
    start: Start, web: HttpReceiver, careless_action: Patch, raised: type[BaseException]
) -> None:
    attempts = []

    def broken(delivery: Delivery) -> Outcome:
        attempts.append(delivery.id)
        if len(attempts) > 2:
            return Delivered()
        raise raised

    run = start({**careless_action(broken), "web": action("webhook", url=web.url)})
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: run.dispatcher.pending() == 0)
    assert (len(attempts), len(web.requests)) == (3, 1)


def test_what_was_told_of_some_counts_though_the_action_fails_then(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    handed: list[list[str]] = []

    async def half(self: LogAction, deliveries: Sequence[Delivery], tell: Tell) -> None:
        handed.append([delivery.alert_id for delivery in deliveries])
        tell(deliveries[0], Delivered("written"))
        if len(deliveries) > 1:
            raise ZeroDivisionError

    monkeypatch.setattr(LogAction, "deliver_all", half)
    run = start({"log": action("log")})
    run.dispatcher.put([opened(run.settings, f"a{n}", f"A{n}") for n in range(3)])
    wait_until(lambda: run.dispatcher.pending() == 0)
    assert handed[0] == ["a0", "a1", "a2"]
    attempts = {row["alert_id"]: row["attempts"] for row in rows(tmp_path / "state") if row["action"] == "log"}
    assert attempts["a0"] == 1
    assert min(attempts["a1"], attempts["a2"]) == 2


def test_one_that_an_action_says_nothing_of_is_tried_again(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    handed: list[str] = []

    async def silent(self: LogAction, deliveries: Sequence[Delivery], tell: Tell) -> None:
        handed.extend(delivery.id for delivery in deliveries)
        if len(handed) > 1:
            tell(deliveries[0], Delivered())

    monkeypatch.setattr(LogAction, "deliver_all", silent)
    run = start({"log": action("log")})
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: run.dispatcher.pending() == 0)
    assert len(handed) == 2


def test_a_name_server_that_does_not_answer_holds_up_nobody_else(
    start: Start, web: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answers, known = [], threading.Event(), socket.getaddrinfo

    def look_up(host: Any, *more: Any, **options: Any) -> Any:
        if "dead.example" in str(host):
            asked.append(host)
            answers.wait(60)
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        return known(host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    good = web.url.replace("127.0.0.1", "localhost")
    mute = {name: action("webhook", url=f"https://dead.example/{name}") for name in ("one", "two", "three")}
    run = start({**mute, "good": action("webhook", url=good)})
    run.dispatcher.put([opened(run.settings, f"a{n}", f"A{n}") for n in range(8)])
    wait_until(lambda: len(asked) == 24, what="every place of the mute ones to be taken")
    run.dispatcher.put([opened(run.settings, "b", "B")])
    wait_until(lambda: len(web.requests) == 9)
    threads = [thread for thread in threading.enumerate() if thread.name == "look-up"]
    assert threads
    assert all(thread.daemon for thread in threads), "or the end of the process would wait for them"
    run.dispatcher.close(0)
    answers.set()


@pytest.mark.parametrize("given", [None, Delivered(200), Retry("later", "soon")], ids=repr)  # type: ignore[arg-type]
def test_an_action_that_gives_back_anything_costs_no_more_than_the_attempt(
    start: Start, careless_action: Patch, given: Any
) -> None:
    given_back = []

    def careless(delivery: Delivery) -> Any:
        given_back.append(delivery.id)
        return given if len(given_back) < 3 else Delivered()

    run = start(careless_action(careless))
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: run.dispatcher.pending() == 0)
    assert len(given_back) == 3


def test_an_answer_is_not_kept_where_the_action_cannot_say_its_secrets(
    start: Start, web: HttpReceiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(WebhookAction, "secrets", lambda self: 1 / 0)
    run = start({"web": action("webhook", url=web.url)})
    run.dispatcher.put([opened(run.settings)])
    wait_until(lambda: run.dispatcher.pending() == 0)
    (said,) = [row["last_answer"] for row in rows(tmp_path / "state") if row["action"] == "web"]
    assert said.startswith("(its answer cannot be kept")


def test_an_action_that_holds_up_the_sender_does_not_hold_up_the_end(
    start: Start, monkeypatch: pytest.MonkeyPatch, careless_action: Patch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def blocking(delivery: Delivery) -> Outcome:
        begun.set()
        ended.wait(60)
        return Delivered()

    monkeypatch.setattr(sender, "CLOSING_S", 0.1)
    run = start(careless_action(blocking))
    run.dispatcher.put([opened(run.settings)])
    assert begun.wait(10)
    with structlog.testing.capture_logs() as logs:
        run.dispatcher.close(0)  # comes back
    assert any("The sender does not end" in line["event"] for line in logs)
    ended.set()


def test_a_row_that_cannot_be_read_stops_nobody_else(start: Start, web: HttpReceiver, tmp_path: Path) -> None:
    web.default = Reply(500)
    run = start({"web": action("webhook", url=web.url)})
    run.dispatcher.put([opened(run.settings, "broken", "A"), opened(run.settings, "whole", "B")])
    run.dispatcher.close(0)
    with closing(sqlite3.connect(tmp_path / "state" / "outbox.sqlite")) as db, db:
        db.execute("UPDATE deliveries SET body = x'ff00' WHERE alert_id = 'broken' AND action = 'web'")
    web.default = Reply(200)
    run.restart()
    wait_until(lambda: run.dispatcher.pending() == 1)
    assert {row["state"] for row in rows(tmp_path / "state") if row["alert_id"] == "whole"} == {"delivered"}
