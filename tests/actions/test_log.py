"""The log action: one line for a person or for a program, whatever is in the alert and whoever reads."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest

from actions.alert import Alert
from actions.base import Delivered, Delivery, Retry
from actions.log import LogAction, LogSettings
from tests.actions.test_alert import ALERT
from tests.support.delivering import context
from tua.plugin.kit import ActionKit, Target

NASTY = ALERT.model_copy(update={"message": "\x1b[2J\x1b]0;owned\x07Nokia\nALERT! forged\r\u202eend\x9b31m"})
ROOT = Path(__file__).parents[2]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def delivery(alert: Alert = ALERT) -> Delivery:
    return Delivery("d1", "a1", 1, "log", "log", alert.to_json(), 0)


def log() -> LogAction:
    return LogAction("log", LogSettings(), context())


class StandardOutput(Target):
    """Standard output of this process, while it is entered. A write that hangs goes on at `up`."""

    def __init__(self, stream: type[io.StringIO]) -> None:
        class Stream(stream):  # type: ignore[misc, valid-type]
            def write(_, text: str) -> int:
                self._flows.wait()
                return super().write(text)  # type: ignore[no-any-return]

        self._stream = Stream()
        self._flows = threading.Event()
        self._flows.set()

    def __enter__(self) -> Self:
        self._before, sys.stdout = sys.stdout, self._stream
        return self

    def __exit__(self, *_: object) -> None:
        self.up()
        sys.stdout = self._before

    def settings(self) -> Mapping[str, object]:
        return {}

    def received(self) -> list[str]:
        return self._stream.getvalue().splitlines()

    def answer(self, code: int) -> None:
        raise AssertionError("standard output answers with no codes")

    def hang(self) -> None:
        self._flows.clear()

    def up(self) -> None:
        self._flows.set()


class TestLogKit(ActionKit):
    action_class = LogAction

    def target(self) -> Target:
        return StandardOutput(io.StringIO)


class TestLogOnATerminalKit(ActionKit):
    action_class = LogAction

    def target(self) -> Target:
        return StandardOutput(Terminal)


async def test_on_a_terminal_it_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    alert = ALERT.model_copy(update={"message": "Product 'Nokia' was ordered 20 times within 5 seconds"})
    assert await log().deliver(delivery(alert)) == Delivered("written")
    assert sys.stdout.getvalue() == "ALERT! Product 'Nokia' was ordered 20 times within 5 seconds\n"  # type: ignore[union-attr]


async def test_elsewhere_it_is_the_alert_as_one_line_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    await log().deliver(delivery())
    text = sys.stdout.getvalue()  # type: ignore[union-attr]
    assert text.count("\n") == 1
    assert json.loads(text) == json.loads(ALERT.to_json())


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
async def test_control_characters_reach_no_terminal(monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]) -> None:
    monkeypatch.setattr(sys, "stdout", stream())
    await log().deliver(delivery(NASTY))
    text = sys.stdout.getvalue()  # type: ignore[union-attr]
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert "forged" in text
    if stream is io.StringIO:
        assert json.loads(text)["message"] == NASTY.message


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gb2312", "utf-8"])
async def test_a_stream_of_any_encoding_gets_json_that_says_the_same(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    alert = ALERT.model_copy(update={"message": "M\u00f6bel \u624b\u673a \U0001f600"})
    assert await log().deliver(delivery(alert)) == Delivered("written")
    assert json.loads(written.getvalue().decode(encoding))["message"] == alert.message


async def test_lines_come_whole_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    action = log()
    alerts = [ALERT.model_copy(update={"sequence": n}) for n in range(1, 30)]
    await asyncio.gather(*(action.deliver(delivery(alert)) for alert in alerts))
    lines = sys.stdout.getvalue().splitlines()  # type: ignore[union-attr]
    assert [json.loads(line)["sequence"] for line in lines] == list(range(1, 30))


async def test_a_reader_that_stopped_reading_stops_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as read, os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        action = log()
        huge = delivery(ALERT.model_copy(update={"message": "x" * 1_000_000}))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await action.deliver(huge)
        outcome = await action.deliver(delivery())
        assert outcome == Retry("standard output takes nothing at the moment")
        draining = asyncio.create_task(asyncio.to_thread(read.read, 1_000_400))
        while isinstance(await action.deliver(delivery()), Retry):
            await asyncio.sleep(0)
        stdout.write("x" * 1_000)
        stdout.flush()
        await draining


async def test_what_was_written_after_its_time_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with StandardOutput(io.StringIO) as stdout:
        action = log()
        late = [delivery(), dataclasses.replace(delivery(), id="d2")]
        stdout.hang()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await action.deliver_all(late, lambda *_: None)
        stdout.up()
        third = dataclasses.replace(delivery(), id="d3")
        while isinstance(await action.deliver(third), Retry):
            await asyncio.sleep(0)
        assert [await action.deliver(one) for one in late] == [Delivered("written")] * 2
        assert len(stdout.received()) == 3


async def test_one_that_is_no_alert_keeps_no_other_from_being_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    broken, told = dataclasses.replace(delivery(), id="broken", body=b"\xff"), []
    with pytest.raises(UnicodeDecodeError):
        await log().deliver_all([broken, delivery()], lambda one, outcome: told.append((one.id, outcome)))
    assert told == [("d1", Delivered("written"))]
    assert sys.stdout.getvalue().count("\n") == 1  # type: ignore[union-attr]


async def test_lines_are_written_one_by_one_and_only_those_that_were_not_are_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            assert text.count("\n") == 1
            if self.getvalue().count("\n") == 2:
                raise OSError(28, "no space")
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Full())
    told = []
    four = [dataclasses.replace(delivery(), id=f"d{number}") for number in range(4)]
    await log().deliver_all(four, lambda one, outcome: told.append((one.id, type(outcome))))
    assert told == [("d0", Delivered), ("d1", Delivered), ("d2", Retry), ("d3", Retry)]


def test_a_reader_that_went_away_leaves_a_clean_exit() -> None:
    program = """
import asyncio, sys
from tests.actions.test_log import delivery, log
async def main():
    action = log()
    outcomes = [await action.deliver(delivery()) for _ in range(3)]
    print([outcome.detail for outcome in outcomes], file=sys.stderr)
sys.stdin.readline()
asyncio.run(main())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate("go\n", timeout=60)
    assert process.returncode == 0
    assert errors.strip() == str(["nobody reads standard output any more"] * 3)
