"""The kit finds what is wrong with an action: it is run here on a good one, and on bad ones that each do one thing.

Their classes begin with Kit, so that pytest passes them by here. A pytest of its own, without any plugin, runs them.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal
from xml.etree import ElementTree

import pytest

from tua.plugin import (
    Action,
    ActionSettings,
    Answer,
    Context,
    Delivered,
    Delivery,
    HttpAction,
    Outcome,
    Post,
    Refused,
    Retry,
    SecretRef,
    resolved,
    resolved_url,
)
from tua.plugin.kit import ActionKit, HttpTarget, Target

ROOT = Path(__file__).parents[2]
TOKEN = "t0ken-of-the-tests"


class SmsSettings(ActionSettings):
    type: Literal["sms"] = "sms"
    url: str
    token: SecretRef


class Good(HttpAction[SmsSettings]):
    settings_type = SmsSettings

    def __init__(self, name: str, settings: SmsSettings, context: Context) -> None:
        super().__init__(name, settings, context, resolved_url(name, settings.url, allow_insecure=False))
        self._token = resolved(name, "token", settings.token)

    def secrets(self) -> list[str]:
        return [*super().secrets(), self._token, f"tua:{self._token}"]

    def compose(self, delivery: Delivery) -> Post:
        text = f"{delivery.message.title}\n{delivery.message.text}"
        login = base64.b64encode(f"tua:{self._token}".encode()).decode()
        return Post(text.encode(), {"content-type": "text/plain", "authorization": f"Basic {login}"})


class KitOfAGoodOne(ActionKit):
    action_class: ClassVar[type[Action[Any]]] = Good
    outcomes: ClassVar[Mapping[int, type[Delivered | Retry | Refused]]] = {
        200: Delivered,
        500: Retry,
        404: Refused,
    }

    def target(self) -> Target:
        return HttpTarget({"url": "{url}/send", "token": {"env": "SMS_TOKEN"}}, {"SMS_TOKEN": TOKEN})


class LogsItsToken(Good):
    async def deliver(self, delivery: Delivery) -> Outcome:
        outcome = await super().deliver(delivery)
        try:
            assert isinstance(outcome, Delivered), f"not with the token {self._token}"
        except AssertionError:
            logging.getLogger("sms").exception("that did not work")
        return outcome


class KitOfOneThatLogsItsToken(KitOfAGoodOne):
    action_class = LogsItsToken


class TellsItsLogin(Good):
    def secrets(self) -> list[str]:
        return [TOKEN.upper()]


class KitOfOneThatTellsItsLogin(KitOfAGoodOne):
    action_class = TellsItsLogin


class Takes500ForTheEnd(Good):
    def judge(self, answer: Answer) -> Outcome:
        return Refused(answer.detail) if answer.status == 500 else super().judge(answer)


class KitOfOneThatTakes500ForTheEnd(KitOfAGoodOne):
    action_class = Takes500ForTheEnd


class CannotBeCancelled(Good):
    async def deliver(self, delivery: Delivery) -> Outcome:
        try:
            return await super().deliver(delivery)
        except asyncio.CancelledError:
            await asyncio.Event().wait()
            raise


class KitOfOneThatCannotBeCancelled(KitOfAGoodOne):
    action_class = CannotBeCancelled


class BlocksEverybody(Good):
    async def deliver(self, delivery: Delivery) -> Outcome:
        try:
            with urllib.request.urlopen(str(self.url), delivery.message.text.encode()):
                return Delivered()
        except urllib.error.HTTPError as error:
            return Retry("") if error.code == 500 else Refused("")


class KitOfOneThatBlocksEverybody(KitOfAGoodOne):
    action_class = BlocksEverybody


class TrustsNames(Good):
    def compose(self, delivery: Delivery) -> Post:
        name = str(delivery.alert.key["product.name"])
        return Post(name.encode() + super().compose(delivery).body, {})


class KitOfOneThatTrustsNames(KitOfAGoodOne):
    action_class = TrustsNames


class SendsNoNames(Good):
    def compose(self, delivery: Delivery) -> Post:
        return Post(delivery.message.text.encode("ascii", "replace"), {})


class KitOfOneThatSendsNoNames(KitOfAGoodOne):
    action_class = SendsNoNames


class WaitsForItToShrink(Good):
    async def deliver(self, delivery: Delivery) -> Outcome:
        return Retry("too large") if len(delivery.body) > 100_000 else await super().deliver(delivery)


class KitOfOneThatWaitsForItToShrink(KitOfAGoodOne):
    action_class = WaitsForItToShrink


class DoesNotWaitForTheAnswer(Good):
    async def deliver(self, delivery: Delivery) -> Outcome:
        self._sending = asyncio.ensure_future(super().deliver(delivery))
        return Delivered()


class KitOfOneThatDoesNotWaitForTheAnswer(KitOfAGoodOne):
    action_class = DoesNotWaitForTheAnswer


class TellsOnlyTheEnd(Good):
    def compose(self, delivery: Delivery) -> Post:
        return Post(delivery.alert_id.encode(), {})


class KitOfOneThatTellsOnlyTheEnd(KitOfAGoodOne):
    action_class = TellsOnlyTheEnd


class SendsNothing(Good):
    async def deliver(self, delivery: Delivery) -> Outcome:
        return Delivered()


class KitOfOneThatSendsNothing(KitOfAGoodOne):
    action_class = SendsNothing


DELIVERED = "test_an_alert_is_delivered"
CODES = "test_every_code_means_what_the_table_says"
HANGS = "test_a_target_that_hangs_is_cut_and_the_next_delivery_works"
DOWN = "test_where_nobody_is_there_it_is_tried_again"
NAMES = "test_names_in_any_script_and_of_any_characters_arrive"
MEGABYTE = "test_a_message_of_a_megabyte_comes_to_an_end"
ORDER = "test_each_alert_is_told_in_order_though_attempts_fail"
SECRETS = "test_secrets_are_in_nothing_that_is_printed_or_stored"


BAD: list[tuple[type[ActionKit], str, str]] = [
    (KitOfOneThatLogsItsToken, SECRETS, f"the secret {TOKEN} of SMS_TOKEN is in the log (ERROR of the logger 'sms')"),
    (KitOfOneThatTellsItsLogin, SECRETS, f"the secret {TOKEN} of SMS_TOKEN is in base64 in the file outbox.sqlite"),
    (KitOfOneThatTakes500ForTheEnd, CODES, "500 must be Retry, but was Refused(detail="),
    (KitOfOneThatCannotBeCancelled, HANGS, "deliver did not end within 5 s of being cancelled"),
    (KitOfOneThatBlocksEverybody, HANGS, "deliver blocks the event loop"),
    (KitOfOneThatTrustsNames, NAMES, "a name with half of a surrogate pair must be delivered, but: deliver raised"),
    (KitOfOneThatSendsNoNames, NAMES, "of a name with Cyrillic letters arrived"),
    (KitOfOneThatWaitsForItToShrink, MEGABYTE, "it will never get smaller, but: Retry(detail='too large'"),
    (KitOfOneThatDoesNotWaitForTheAnswer, CODES, "404 must be Refused, but was Delivered"),
    (KitOfOneThatDoesNotWaitForTheAnswer, DOWN, "to nobody, who may be back later, must be Retry, but was: Delivered"),
    (KitOfOneThatTellsOnlyTheEnd, ORDER, "what arrived of it was [3, 3, 3]"),
    (KitOfOneThatSendsNothing, DELIVERED, "one alert was delivered, but 0 messages arrived"),
]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """(class, test) to what it says: nothing where it passed."""
    report = tmp_path_factory.mktemp("kit") / "report.xml"
    tests = [KitOfAGoodOne.__name__, *(f"{kit.__name__}::{test}" for kit, test, _ in BAD)]
    options = ["-c", os.devnull, "--rootdir", str(ROOT), "--import-mode=importlib", "-p", "no:cacheprovider"]
    options += ["-o", "python_classes=KitOf", f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", *options, *(f"{__file__}::{test}" for test in tests)]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=report.parent, env=environment, capture_output=True, timeout=200, check=False)
    return {
        (case.attrib["classname"].rpartition(".")[2], case.attrib["name"]): "".join(
            part.attrib.get("message", "") for part in case if part.tag in ("failure", "error", "skipped")
        )
        for case in ElementTree.parse(report).iter("testcase")
    }


@pytest.mark.parametrize("test", [DELIVERED, CODES, HANGS, DOWN, NAMES, MEGABYTE, ORDER, SECRETS])
def test_a_good_action_passes(said: dict[tuple[str, str], str], test: str) -> None:
    assert said[KitOfAGoodOne.__name__, test] == ""


@pytest.mark.parametrize(("kit", "test", "message"), BAD)
def test_what_is_wrong_with_an_action_is_found_and_said(
    said: dict[tuple[str, str], str], kit: type[ActionKit], test: str, message: str
) -> None:
    assert message in said[kit.__name__, test]


def test_an_action_needs_no_pytest_where_it_runs() -> None:
    program = "import sys, tua.plugin; sys.exit('pytest' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
