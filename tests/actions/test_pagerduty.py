"""The pagerduty action against a receiver in PagerDuty's place."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from actions.alert import Alert
from actions.base import ActionError, Delivered, Outcome, Refused, Retry
from actions.pagerduty import PagerDutyAction, PagerDutySettings
from settings import Secret
from tests.support.channels import (
    CONTROL,
    DIRECTION,
    FACTS,
    FACTS_OF_SUMMARY,
    HUGE,
    MARKUP,
    OPENED,
    PINGS,
    RESOLVED,
    SUMMARY,
    alert_of,
    alert_of_many,
    attempt,
    body_of,
    foreign_marks,
    loaded,
    mistake_in,
    texts_in,
    utf16,
)
from tests.support.delivering import action, context
from tests.support.receivers import HttpReceiver, Reply
from tua.plugin.kit import ActionKit, HttpTarget, Target

KEY = "p4gerdutyR0utingKey0123456789abcd"
ACCEPTED = b'{"status":"success","message":"Event processed","dedup_key":"a1"}'
KINDS = {
    **dict.fromkeys((200, 202), Delivered),
    **dict.fromkeys((408, 425, 429, 500, 502, 503, 504), Retry),
    **dict.fromkeys((301, 302, 307, 400, 401, 403, 404, 410, 413), Refused),
}


class TestPagerDutyKit(ActionKit):
    action_class = PagerDutyAction
    outcomes = MappingProxyType(KINDS)

    def target(self) -> Target:
        settings = {"routing_key": {"env": "PAGERDUTY"}, "api_url": "{url}/v2/enqueue"}
        return HttpTarget(settings, {"PAGERDUTY": KEY}, Reply(202, body=ACCEPTED))


@pytest.fixture
def pagerduty(web: HttpReceiver, monkeypatch: pytest.MonkeyPatch) -> PagerDutyAction:
    return made(monkeypatch, api_url=f"http://127.0.0.1:{web.port}/v2/enqueue")


def made(monkeypatch: pytest.MonkeyPatch, key: str = KEY, **more: Any) -> PagerDutyAction:
    monkeypatch.setenv("PAGERDUTY", key)
    settings = action("pagerduty", routing_key=Secret(env="PAGERDUTY"), **more)
    assert isinstance(settings, PagerDutySettings)
    return PagerDutyAction("chat", settings, context())


async def test_an_opened_alert_triggers_an_incident(pagerduty: PagerDutyAction, web: HttpReceiver) -> None:
    assert await body_of(pagerduty, web) == {
        "routing_key": KEY,
        "dedup_key": "a1",
        "event_action": "trigger",
        "client": "tua",
        "payload": {
            "summary": "[warning] hot-product: Nokia - Product 'Nokia' was ordered 20 times within 5s",
            "severity": "warning",
            "source": "tua",
            "component": "hot-product",
            "custom_details": {"Message": "Product 'Nokia' was ordered 20 times\nwithin 5s", **dict(FACTS)},
            "timestamp": "2026-01-31T10:00:03.120Z",
            "group": "products",
        },
    }
    assert web.requests[0].path == "/v2/enqueue"


async def test_an_update_goes_to_the_same_incident(pagerduty: PagerDutyAction, web: HttpReceiver) -> None:
    body = await body_of(pagerduty, web, OPENED.model_copy(update={"status": "updated", "sequence": 2, "peak": 26}))
    assert (body["event_action"], body["dedup_key"]) == ("trigger", "a1")
    assert body["payload"]["custom_details"]["Peak"] == "26 within 5 seconds (threshold 20)"


async def test_a_resolved_alert_resolves_its_incident(pagerduty: PagerDutyAction, web: HttpReceiver) -> None:
    assert await body_of(pagerduty, web, RESOLVED) == {
        "routing_key": KEY,
        "dedup_key": "a1",
        "event_action": "resolve",
    }


async def test_a_summary_triggers_the_one_incident_of_its_rule(pagerduty: PagerDutyAction, web: HttpReceiver) -> None:
    text = "120 more alerts of hot-product within 1 minute, not told one by one"
    assert await body_of(pagerduty, web, SUMMARY) == {
        "routing_key": KEY,
        "dedup_key": "flood: hot-product",
        "event_action": "trigger",
        "client": "tua",
        "payload": {
            "summary": f"[critical] hot-product: 120 more alerts - {text}",
            "severity": "critical",
            "source": "tua",
            "component": "hot-product",
            "custom_details": {"Message": text, **dict(FACTS_OF_SUMMARY)},
        },
    }


@pytest.mark.parametrize(
    ("severity", "test", "sent"),
    [
        ("info", False, "info"),
        ("warning", False, "warning"),
        ("critical", False, "critical"),
        ("critical", True, "info"),
        ("of its own", False, "error"),
    ],
)
async def test_the_severity_is_one_that_pagerduty_knows(
    pagerduty: PagerDutyAction, web: HttpReceiver, severity: str, test: bool, sent: str
) -> None:
    body = await body_of(pagerduty, web, OPENED.model_copy(update={"severity": severity, "test": test}))
    assert body["payload"]["severity"] == sent


async def test_two_facts_of_one_name_are_both_told(pagerduty: PagerDutyAction, web: HttpReceiver) -> None:
    alert = OPENED.model_copy(update={"reopened": True, "test": True, "key": {"Peak": "Nokia"}})
    details = (await body_of(pagerduty, web, alert))["payload"]["custom_details"]
    assert details["Note"] == "this alert was over and has begun again; this is a test; nothing happened"
    assert details["Peak"] == "Nokia; 20 within 5 seconds (threshold 20)"


async def test_what_is_in_a_name_is_shown_as_it_is(pagerduty: PagerDutyAction, web: HttpReceiver) -> None:
    name = f"{PINGS} {MARKUP}"
    payload = (await body_of(pagerduty, web, alert_of(name)))["payload"]
    assert payload["custom_details"]["product.name"] == payload["custom_details"]["Message"] == name
    assert payload["summary"].endswith(f" - {name}")


async def test_marks_that_control_or_turn_the_text_do_not_get_through(
    pagerduty: PagerDutyAction, web: HttpReceiver
) -> None:
    assert not foreign_marks(texts_in(await body_of(pagerduty, web, alert_of(f"a{CONTROL}{DIRECTION}b"))))


@pytest.mark.parametrize("alert", HUGE.values(), ids=HUGE)
async def test_what_is_too_long_is_cut_to_the_limits(
    pagerduty: PagerDutyAction, web: HttpReceiver, alert: Alert
) -> None:
    body = await body_of(pagerduty, web, alert)
    assert len(web.requests[0].body) < 512_000
    assert 0 < utf16(body["payload"]["summary"]) <= 1_024
    assert body["payload"]["custom_details"]["Alert"] == "a1 (message 1)"


async def test_forty_key_paths_are_all_told(pagerduty: PagerDutyAction, web: HttpReceiver) -> None:
    details = (await body_of(pagerduty, web, alert_of_many(40, "v" * 1_000)))["payload"]["custom_details"]
    assert [name for name in details if name.startswith("path.")] == [f"path.number.{n}" for n in range(40)]
    assert details["path.number.39"] == "v" * 299 + "…"


async def test_the_key_of_an_incident_is_cut_to_its_limit(pagerduty: PagerDutyAction, web: HttpReceiver) -> None:
    body = await body_of(pagerduty, web, SUMMARY.model_copy(update={"rule": "r" * 1_000}))
    assert len(body["dedup_key"]) == 255


@pytest.mark.parametrize(
    ("status", "said", "outcome"),
    [
        (202, ACCEPTED, Delivered(f"202 {ACCEPTED.decode()}")),
        (400, b'{"status":"invalid event"}', Refused('400 {"status":"invalid event"}')),
        (403, b"", Refused("403")),
        (404, b"", Refused("404")),
        (413, b"", Refused("413")),
        (429, b"", Retry("429")),
        (500, b"", Retry("500")),
        (503, b"", Retry("503")),
    ],
)
async def test_the_answer_decides(
    pagerduty: PagerDutyAction, web: HttpReceiver, status: int, said: bytes, outcome: Outcome
) -> None:
    web.plan.append(Reply(status, body=said))
    assert await attempt(pagerduty) == outcome


async def test_it_waits_as_long_as_pagerduty_asks(pagerduty: PagerDutyAction, web: HttpReceiver) -> None:
    web.plan.append(Reply(429, {"retry-after": "120"}, b""))
    assert await attempt(pagerduty) == Retry("429", after_ms=120_000)


def test_the_recipient_is_the_host_and_the_key_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    pager = made(monkeypatch)
    assert str(pager.url) == "https://events.pagerduty.com/v2/enqueue"
    assert pager.recipients() == ("https://events.pagerduty.com",)
    assert KEY in pager.secrets()
    assert made(monkeypatch, api_url="https://events.eu.pagerduty.com/v2/enqueue").recipients() == (
        "https://events.eu.pagerduty.com",
    )


def test_a_routing_key_in_the_file_is_a_mistake_that_does_not_quote_it(tmp_path: Path) -> None:
    problem = mistake_in(tmp_path, "pagerduty", f"routing_key: {KEY}")
    assert "a secret must not stand in the configuration (write {env: NAME}" in problem
    assert KEY not in problem
    assert loaded(tmp_path, "pagerduty", f"routing_key: {{env: K, default: {KEY}}}").notes() == (
        "the default of 'routing_key' is a secret that stands in the file",
    )
    assert KEY not in json.dumps(loaded(tmp_path, "pagerduty", "routing_key: {env: K}").model_dump(mode="json"))


def test_a_routing_key_that_is_not_set_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ActionError, match="the routing_key comes from the environment variable PAGERDUTY, which is"):
        made(monkeypatch, "")


def test_an_api_url_that_is_not_safe_is_a_mistake(tmp_path: Path) -> None:
    lines = ("routing_key: {env: K}", "api_url: http://events.example.com/v2/enqueue")
    assert "a url must be https" in mistake_in(tmp_path, "pagerduty", *lines)
    loaded(tmp_path, "pagerduty", *lines, "allow_insecure: true")
