"""The slack action against a receiver in Slack's place."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from actions.alert import Alert
from actions.base import Delivered, Outcome, Refused, Retry
from actions.slack import SlackAction, SlackSettings
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
    texts_in,
    utf16,
)
from tests.support.delivering import action, context
from tests.support.receivers import HttpReceiver, Reply
from tua.plugin.kit import ActionKit, HttpTarget, Target

KINDS = {
    200: Delivered,
    **dict.fromkeys((408, 425, 429, 500, 502, 503, 504), Retry),
    **dict.fromkeys((301, 302, 307, 400, 401, 403, 404, 410, 413), Refused),
}


class TestSlackKit(ActionKit):
    action_class = SlackAction
    outcomes = MappingProxyType(KINDS)

    def target(self) -> Target:
        return HttpTarget({"url": {"env": "SLACK"}}, {"SLACK": "{url}/services/T00000000/B00000000/s1ackT0ken"})


@pytest.fixture
def slack(web: HttpReceiver, monkeypatch: pytest.MonkeyPatch) -> SlackAction:
    return made(monkeypatch, f"http://127.0.0.1:{web.port}/services/T000/B000/s1ackT0ken")


def made(monkeypatch: pytest.MonkeyPatch, url: str) -> SlackAction:
    monkeypatch.setenv("SLACK", url)
    settings = action("slack", url=Secret(env="SLACK"))
    assert isinstance(settings, SlackSettings)
    return SlackAction("chat", settings, context())


def plain(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text, "emoji": False}


def fields(*facts: tuple[str, str]) -> dict[str, Any]:
    return {"type": "section", "fields": [plain(f"{name}: {value}") for name, value in facts]}


async def test_an_opened_alert_is_a_header_a_section_and_fields(slack: SlackAction, web: HttpReceiver) -> None:
    assert await body_of(slack, web) == {
        "text": "🟠 [warning] hot-product: Nokia",
        "blocks": [
            {"type": "header", "text": plain("🟠 [warning] hot-product: Nokia")},
            {"type": "section", "text": plain("Product 'Nokia' was ordered 20 times\nwithin 5s")},
            fields(*FACTS),
        ],
        "unfurl_links": False,
        "unfurl_media": False,
    }
    assert web.requests[0].path == "/services/T000/B000/s1ackT0ken"


async def test_a_resolved_alert_shows_that_it_is_over(slack: SlackAction, web: HttpReceiver) -> None:
    body = await body_of(slack, web, RESOLVED)
    assert body["text"] == "🟢 [resolved] hot-product: Nokia"
    assert plain("Events: 31") in body["blocks"][2]["fields"]
    assert plain("Resolved: 2026-01-31T10:00:07.480Z") in body["blocks"][2]["fields"]


async def test_a_summary_tells_of_many_alerts(slack: SlackAction, web: HttpReceiver) -> None:
    title = "🔴 [critical] hot-product: 120 more alerts"
    text = "120 more alerts of hot-product within 1 minute, not told one by one"
    assert await body_of(slack, web, SUMMARY) == {
        "text": title,
        "blocks": [
            {"type": "header", "text": plain(title)},
            {"type": "section", "text": plain(text)},
            fields(*FACTS_OF_SUMMARY),
        ],
        "unfurl_links": False,
        "unfurl_media": False,
    }


async def test_what_is_in_a_name_pings_nobody_links_nowhere_and_is_shown(slack: SlackAction, web: HttpReceiver) -> None:
    name = f"{PINGS} {MARKUP}"
    body = await body_of(slack, web, alert_of(name))
    shown = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert body["blocks"][1]["text"] == plain(shown)
    assert body["blocks"][2]["fields"][0] == plain(f"product.name: {shown}")
    assert not any("<" in text or ">" in text for text in texts_in(body))
    assert "mrkdwn" not in texts_in(body)


async def test_marks_that_control_or_turn_the_text_do_not_get_through(slack: SlackAction, web: HttpReceiver) -> None:
    texts = texts_in(await body_of(slack, web, alert_of(f"a{CONTROL}{DIRECTION}b")))
    assert not foreign_marks(texts)


@pytest.mark.parametrize("alert", HUGE.values(), ids=HUGE)
async def test_what_is_too_long_is_cut_to_the_limits(slack: SlackAction, web: HttpReceiver, alert: Alert) -> None:
    body = await body_of(slack, web, alert)
    header, *sections = body["blocks"]
    assert 0 < utf16(header["text"]["text"]) <= 150
    assert len(body["blocks"]) <= 50
    total = utf16(header["text"]["text"])
    for section in sections:
        assert 1 <= len(section.get("fields", [1])) <= 10
        texts = [field["text"] for field in section.get("fields", [])]
        assert all(0 < utf16(text) <= 2_000 for text in texts)
        texts += [section["text"]["text"]] if "text" in section else []
        assert all(0 < utf16(text) <= 3_000 for text in texts)
        total += sum(map(utf16, texts))
    assert total <= 9_000
    assert any("Alert: a1 (message 1)" in text for text in texts_in(body))


async def test_no_escape_is_cut_in_two(slack: SlackAction, web: HttpReceiver) -> None:
    body = await body_of(slack, web, alert_of("x", "&" * 10_000))
    assert set(body["blocks"][1]["text"]["text"].split("&")) == {"", "amp;", "amp;…"}


async def test_of_many_key_paths_the_first_and_all_that_follows_the_key_are_told(
    slack: SlackAction, web: HttpReceiver
) -> None:
    body = await body_of(slack, web, alert_of_many(40, "v" * 1_000))
    told = [field["text"] for section in body["blocks"][2:] for field in section["fields"]]
    assert told[0].startswith("path.number.0: vvv")
    left_out = next(text for text in told if text.startswith("…"))
    assert int(left_out.removeprefix("…: ").removesuffix(" more")) == 40 + 6 - (len(told) - 1)
    assert [text.partition(":")[0] for text in told[-6:]] == [name for name, _ in FACTS[1:]]


async def test_an_alert_without_words_has_no_empty_section(slack: SlackAction, web: HttpReceiver) -> None:
    body = await body_of(slack, web, alert_of(" ", " \n"))
    assert [block["type"] for block in body["blocks"]] == ["header", "section"]
    assert body["blocks"][1]["fields"][0] == plain('product.name: " "')


@pytest.mark.parametrize(
    ("status", "said", "outcome"),
    [
        (200, "ok", Delivered("200 ok")),
        (400, "invalid_payload", Refused("400 invalid_payload")),
        (400, "invalid_blocks", Refused("400 invalid_blocks")),
        (403, "action_prohibited", Refused("403 action_prohibited")),
        (403, "invalid_token", Refused("403 invalid_token", disable=True)),
        (404, "channel_not_found", Refused("404 channel_not_found")),
        (404, "no_service", Refused("404 no_service", disable=True)),
        (403, "no_service", Refused("403 no_service", disable=True)),
        (404, "no_team", Refused("404 no_team", disable=True)),
        (410, "channel_is_archived", Refused("410 channel_is_archived", disable=True)),
        (429, "rate_limited", Retry("429 rate_limited")),
        (500, "rollup_error", Retry("500 rollup_error")),
        (503, "no_service", Retry("503 no_service")),
    ],
)
async def test_the_answer_decides(
    slack: SlackAction, web: HttpReceiver, status: int, said: str, outcome: Outcome
) -> None:
    web.plan.append(Reply(status, body=said.encode()))
    assert await attempt(slack) == outcome


async def test_it_waits_as_long_as_slack_asks(slack: SlackAction, web: HttpReceiver) -> None:
    web.plan.append(Reply(429, {"retry-after": "30"}, b"rate_limited"))
    assert await attempt(slack) == Retry("429 rate_limited", after_ms=30_000)


def test_it_tells_people_who_can_be_spared() -> None:
    settings = action("slack", url=Secret(env="SLACK"), quiet_hours={"from": "22:00", "to": "06:00"})
    assert isinstance(settings, SlackSettings)
    assert settings.flood is not None
    assert OPENED.status in settings.send
