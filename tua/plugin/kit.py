"""What every action must pass, ours or that of another package, as tests for pytest. docs/actions.md has an example.

    class TestSms(ActionKit):
        action_class = SmsAction
        outcomes = {200: Delivered, 429: Retry, 500: Retry, 401: Refused}

        def target(self) -> Target:
            settings = {"url": "{url}/send", "token": {"env": "SMS_TOKEN"}}
            return HttpTarget(settings, {"SMS_TOKEN": "t0ken-of-the-tests"})

Needs nothing but pytest. The tests go through the real sender and outbox wherever these have a part in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import prometheus_client
import pytest

from actions.base import Action, Delivered, Outcome, Refused, Retry
from tua.plugin.leaks import Leaks
from tua.plugin.receiver import Reply
from tua.plugin.rig import Rig
from tua.plugin.target import HttpTarget, Target

__all__ = ["ActionKit", "HttpTarget", "Reply", "Rig", "Target"]

HANGING_S = 1.0
CUT_S = 5.0
RECOVERED_S = 15.0
UNICODE: tuple[tuple[str, str, str], ...] = (
    ("emoji", "📱 👩‍👩‍👧 🇺🇦", "📱"),
    ("Cyrillic letters", "Жук Їжак", "Жук Їжак"),
    ("Chinese letters", "手机", "手机"),
    ("Arabic letters and marks that turn the direction", "\u202eهاتف\u200f\u2067", "هاتف"),
    ("half of a surrogate pair", "a\ud83db", ""),
    ("control characters", "\x00\x07\x1b[2J\x1b]0;owned\x07\x7f\x9b31m", ""),
    ("line ends of every kind", "a\r\nb\nc\rd\u2028e\x85f\n\n.\n", ""),
    ("markup of every kind", "</b><script>&amp; *_`~|[x](y) \\ {{ 7 * 7 }} %s ${x} @everyone <!channel>", ""),
)
"""What it is, the name of a product, and what of it every channel can show."""


class ActionKit:
    """The tests. A subclass says which action, what it takes each code of the target for, and makes targets.

    `outcomes` maps HTTP status codes, SMTP reply codes, exit codes: whatever the target's `answer` takes.
    """

    action_class: ClassVar[type[Action[Any]]]
    outcomes: ClassVar[Mapping[int, type[Delivered | Retry | Refused]]] = MappingProxyType({})

    def target(self) -> Target:
        """A new target, which is not entered yet."""
        raise pytest.UsageError(f"{type(self).__name__} must say how its target is made")

    @pytest.fixture
    def rig(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
        return Rig(self.action_class, tmp_path, monkeypatch)

    def test_an_alert_is_delivered(self, rig: Rig) -> None:
        with rig.using(self.target()) as target:
            (result,) = rig.attempts(rig.alert("kitname"))
            _expect(result, Delivered, "an alert to a target that accepts everything")
            received = target.received()
        assert len(received) == 1, f"one alert was delivered, but {len(received)} messages arrived"
        assert "kitname" in received[0], f"what arrived does not name the product of the alert: {received[0]!r}"

    def test_every_code_means_what_the_table_says(self, rig: Rig) -> None:
        if not self.outcomes:
            pytest.skip("this action's target answers with no codes")
        wrong = []
        for code, expected in self.outcomes.items():
            with rig.using(self.target()) as target:
                target.answer(code)
                (result,) = rig.attempts(rig.alert("kitname"))
            if _meaning(result) is not expected:
                wrong.append(f"{code} must be {expected.__name__}, but was {_said(result)}")
        assert not wrong, "\n".join(["not as in `outcomes`:", *wrong])

    def test_a_target_that_hangs_is_cut_and_the_next_delivery_works(self, rig: Rig) -> None:
        with rig.using(self.target()) as target:
            target.hang()
            _hang_then_deliver(rig, target)
            arrived = target.received()
        assert any("kitsecond" in text for text in arrived), "the delivery after one that was cut did not arrive"

    def test_where_nobody_is_there_it_is_tried_again(self, rig: Rig) -> None:
        with rig.using(self.target()) as target:
            _skip_unless_it_can_be_down(target)
            target.down()
            (result,) = rig.attempts(rig.alert("kitname"))
        _expect(result, Retry, "an alert to nobody, who may be back later,")

    def test_names_in_any_script_and_of_any_characters_arrive(self, rig: Rig) -> None:
        names = [(what, f"kitname{n:02} {name}", seen) for n, (what, name, seen) in enumerate(UNICODE)]
        with rig.using(self.target()) as target:
            results = rig.attempts(*(rig.alert(name) for _, name, _ in names))
            received = target.received()
        wrong = []
        for (what, name, seen), result in zip(names, results, strict=True):
            texts = [text for text in received if name[:9] in text]
            if _meaning(result) is not Delivered or isinstance(result, BaseException):
                wrong.append(f"a name with {what} must be delivered, but: {_said(result)}")
            elif not texts:
                wrong.append(f"a name with {what} did not arrive")
            elif seen not in texts[0]:
                wrong.append(f"of a name with {what} arrived {texts[0]!r}")
        assert not wrong, "\n".join(wrong)

    def test_a_message_of_a_megabyte_comes_to_an_end(self, rig: Rig) -> None:
        megabyte = "Жук 手机 📱 " * 50_000
        alerts = (rig.alert(f"kitname {megabyte}"), rig.alert("kitname", message=megabyte))
        with rig.using(self.target()):
            results = rig.attempts(*alerts)
        for result, where in zip(results, ("name", "message"), strict=True):
            ended = _meaning(result) is not Retry and not isinstance(result, BaseException)
            assert ended, (
                f"an alert whose {where} has a megabyte must be Delivered (cut, if need be) or Refused, since it will"
                f" never get smaller, but: {_said(result)}"
            )

    def test_each_alert_is_told_in_order_though_attempts_fail(self, rig: Rig) -> None:
        again = next((code for code, kind in self.outcomes.items() if kind is Retry), None)
        with rig.using(self.target()) as target:
            if again is not None:
                for _ in range(5):
                    target.answer(again)
            rig.dispatch(target, rig.lives(4), give_up="1h")
            received = target.received()
        for name in rig.names(4):
            steps = [rig.step(text) for text in received if name in text]
            assert steps == [1, 2, 3], (
                f"an alert was opened (1), updated (2) and resolved (3); what arrived of it was {steps}."
                " Each message must have the alert's message in it, or (the end) its id"
            )

    def test_secrets_are_in_nothing_that_is_printed_or_stored(
        self, rig: Rig, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        secrets: set[tuple[str, str]] = set()
        leaks = Leaks()
        for code in (None, *self.outcomes):
            with rig.using(self.target()) as target:
                secrets |= set(target.secrets())
                if not secrets:
                    pytest.skip("this action has no secrets")
                for _ in range(6 if code is not None else 0):
                    target.answer(code or 0)
                rig.dispatch(target, rig.lives(3), give_up="1ms")
                leaks.add("the repr of the action's settings", repr(rig.settings))
                leaks.add("the action's settings as JSON", rig.settings.model_dump_json())
                action = rig.action()
                leaks.add("the repr of the action", repr(action))
                leaks.add("recipients()", repr(action.recipients()))
        for trouble in ("hang", "down"):
            with rig.using(self.target()) as target:
                secrets |= set(target.secrets())
                if trouble == "hang":
                    target.hang()
                    _hang_then_deliver(rig, target)
                elif _can_be_down(target):
                    target.down()
                    rig.attempts(rig.alert("kitname"))
        for record in caplog.records:
            text = caplog.handler.format(record)
            leaks.add(f"the log ({record.levelname} of the logger '{record.name}')", text)
        out, err = capfd.readouterr()
        leaks.add("standard output", out)
        leaks.add("standard error", err)
        for file in rig.stored():
            leaks.add(f"the file {file.name} of state.directory", file.read_bytes())
        for topic, key, value in rig.published:
            leaks.add(f"a message to the topic {topic}", key + b" " + value)
        leaks.add("the metrics", prometheus_client.generate_latest())
        found = leaks.of(secrets)
        assert not found, "\n".join(found)


def _hang_then_deliver(rig: Rig, target: Target) -> None:
    """One delivery to a target that hangs, cut as the sender does it, and another, until that one is delivered."""

    async def work(action: Action[Any]) -> None:
        hanging = asyncio.ensure_future(action.deliver(rig.delivery(action, rig.alert("kitfirst"))))
        done, _ = await asyncio.wait({hanging}, timeout=HANGING_S)
        if not done:
            hanging.cancel()
            done, _ = await asyncio.wait({hanging}, timeout=CUT_S)
        if not done:
            pytest.fail(
                f"deliver did not end within {CUT_S:g} s of being cancelled: the sender ends an attempt whose time is"
                " over by asyncio.CancelledError, which must not be caught, or be raised again"
            )
        if not hanging.cancelled():
            result = hanging.exception() or hanging.result()
            _expect(result, Retry, "an alert to a target that does not answer")
        target.up()
        loop = asyncio.get_running_loop()
        until = loop.time() + RECOVERED_S
        second = rig.delivery(action, rig.alert("kitsecond"))
        while not isinstance(result := await rig.attempt(action, second), Delivered):
            if loop.time() > until:
                pytest.fail(f"after one delivery was cut, another must work, but: {_said(result)}")
            await asyncio.sleep(0.05)

    rig.run(work)


def _can_be_down(target: Target) -> bool:
    return type(target).down is not Target.down


def _skip_unless_it_can_be_down(target: Target) -> None:
    if not _can_be_down(target):
        pytest.skip("this action's target is always there")


def _meaning(result: Outcome | BaseException) -> type[Outcome]:
    """What the sender takes it for."""
    return Retry if isinstance(result, BaseException) else type(result)


def _said(result: Outcome | BaseException) -> str:
    text = repr(result)
    raised = "deliver raised " if isinstance(result, BaseException) else ""
    return raised + (text if len(text) <= 500 else text[:500] + "…")


def _expect(result: Outcome | BaseException, kind: type[Outcome], what: str) -> None:
    if _meaning(result) is not kind:
        cause = result if isinstance(result, BaseException) else None
        raise AssertionError(f"{what} must be {kind.__name__}, but was: {_said(result)}") from cause
