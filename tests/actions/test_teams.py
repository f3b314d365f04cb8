"""The teams action against a receiver in the place of a workflow of Teams."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

import pytest
import structlog

from actions.alert import Alert
from actions.base import Delivered, Outcome, Refused, Retry
from actions.teams import TeamsAction, TeamsSettings
from settings import Secret
from tests.support.channels import (
    CONTROL,
    DIRECTION,
    FACTS,
    FACTS_OF_SUMMARY,
    HUGE,
    MARKUP,
    PINGS,
    RESOLVED,
    SUMMARY,
    alert_of,
    alert_of_many,
    attempt,
    body_of,
    foreign_marks,
    texts_in,
)
from tests.support.delivering import action, context
from tests.support.receivers import HttpReceiver, Reply
from tua.plugin.kit import ActionKit, HttpTarget, Target

KINDS = {
    **dict.fromkeys((200, 202), Delivered),
    **dict.fromkeys((408, 425, 429, 500, 502, 503, 504), Retry),
    **dict.fromkeys((301, 302, 307, 400, 401, 403, 404, 410, 413), Refused),
}
FAILED = "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error {} with ContextId x"
OFF = '{"error":{"code":"WorkflowTriggerIsNotEnabled","message":"trigger is not enabled."}}'


class TestTeamsKit(ActionKit):
    action_class = TeamsAction
    outcomes = MappingProxyType(KINDS)

    def target(self) -> Target:
        url = "{url}/workflows/w0rkf10w/triggers/manual/paths/invoke?sp=%2Ftriggers%2Fmanual%2Frun&sig=t3amsT0ken"
        return HttpTarget({"url": {"env": "TEAMS"}}, {"TEAMS": url}, Reply(202, body=b""))


@pytest.fixture
def teams(web: HttpReceiver, monkeypatch: pytest.MonkeyPatch) -> TeamsAction:
    return made(monkeypatch, f"http://127.0.0.1:{web.port}/workflows/1/triggers/manual/paths/invoke?sig=t3amsT0ken")


def made(monkeypatch: pytest.MonkeyPatch, url: str) -> TeamsAction:
    monkeypatch.setenv("TEAMS", url)
    settings = action("teams", url=Secret(env="TEAMS"))
    assert isinstance(settings, TeamsSettings)
    return TeamsAction("chat", settings, context())


def paragraph(*runs: dict[str, Any]) -> dict[str, Any]:
    return {"type": "RichTextBlock", "spacing": "Small", "inlines": [{"type": "TextRun", **run} for run in runs]}


def title(text: str, colour: str) -> dict[str, Any]:
    run = {"type": "TextRun", "text": text, "size": "Large", "weight": "Bolder", "color": colour}
    return {"type": "RichTextBlock", "inlines": [run]}


def shown(facts: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [paragraph({"text": f"{name}: ", "weight": "Bolder"}, {"text": value}) for name, value in facts]


def card_in(body: Any) -> list[dict[str, Any]]:
    (attachment,) = body["attachments"]
    card = attachment["content"]["body"]
    assert isinstance(card, list)
    return card


async def test_an_opened_alert_is_a_card(teams: TeamsAction, web: HttpReceiver) -> None:
    assert await body_of(teams, web) == {
        "type": "message",
        "attachments": [
            {
                "contentType": "application/vnd.microsoft.card.adaptive",
                "contentUrl": None,
                "content": {
                    "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                    "type": "AdaptiveCard",
                    "version": "1.2",
                    "msteams": {"width": "Full"},
                    "body": [
                        title("🟠 [warning] hot-product: Nokia", "Warning"),
                        paragraph({"text": "Product 'Nokia' was ordered 20 times"}),
                        paragraph({"text": "within 5s"}),
                        *shown(FACTS),
                    ],
                },
            }
        ],
    }


async def test_a_resolved_alert_shows_that_it_is_over(teams: TeamsAction, web: HttpReceiver) -> None:
    card = card_in(await body_of(teams, web, RESOLVED))
    assert card[:2] == [
        title("🟢 [resolved] hot-product: Nokia", "Good"),
        paragraph({"text": "Product 'Nokia' is over"}),
    ]
    assert shown([("Events", "31")])[0] in card


async def test_a_summary_tells_of_many_alerts(teams: TeamsAction, web: HttpReceiver) -> None:
    assert card_in(await body_of(teams, web, SUMMARY)) == [
        title("🔴 [critical] hot-product: 120 more alerts", "Attention"),
        paragraph({"text": "120 more alerts of hot-product within 1 minute, not told one by one"}),
        *shown(FACTS_OF_SUMMARY),
    ]


async def test_what_is_in_a_name_is_shown_as_it_is_where_markdown_means_nothing(
    teams: TeamsAction, web: HttpReceiver
) -> None:
    name = f"{PINGS} {MARKUP}"
    body = await body_of(teams, web, alert_of(name))
    card = card_in(body)
    assert card[1:3] == [paragraph({"text": name}), *shown([("product.name", name)])]
    assert {block["type"] for block in card} == {"RichTextBlock"}
    assert {run["type"] for block in card for run in block["inlines"]} == {"TextRun"}
    assert set(body["attachments"][0]["content"]["msteams"]) == {"width"}  # names are pinged by `entities` alone


async def test_a_date_in_a_name_is_not_worked_out(teams: TeamsAction, web: HttpReceiver) -> None:
    name = "{{DATE(2017-02-14T06:08:00Z, SHORT)}} {{{TIME(2017-02-14T06:08:00Z)}} {{ x }}"
    card = card_in(await body_of(teams, web, alert_of(name)))
    assert card[1] == paragraph({"text": name.replace("{{D", "{\u2060{D").replace("{{T", "{\u2060{T")})


async def test_marks_that_control_or_turn_the_text_do_not_get_through(teams: TeamsAction, web: HttpReceiver) -> None:
    assert not foreign_marks(texts_in(await body_of(teams, web, alert_of(f"a{CONTROL}{DIRECTION}b"))))


@pytest.mark.parametrize("alert", HUGE.values(), ids=HUGE)
async def test_what_is_too_long_is_cut_to_the_limits(teams: TeamsAction, web: HttpReceiver, alert: Alert) -> None:
    card = card_in(await body_of(teams, web, alert))
    assert len(web.requests[0].body) < 17_000
    assert len(card) < 150
    assert card[-1] == shown(FACTS)[-1]


async def test_the_lines_beyond_thirty_become_one(teams: TeamsAction, web: HttpReceiver) -> None:
    card = card_in(await body_of(teams, web, alert_of("x", "\n".join(map(str, range(50))))))
    assert card[29] == paragraph({"text": "28"})
    assert card[30] == paragraph({"text": "\n".join(map(str, range(29, 50)))})


async def test_of_many_key_paths_the_first_and_all_that_follows_the_key_are_told(
    teams: TeamsAction, web: HttpReceiver
) -> None:
    card = card_in(await body_of(teams, web, alert_of_many(40, "v" * 1_000)))
    names = [block["inlines"][0]["text"] for block in card]
    assert names[3] == "path.number.0: "
    assert names.count("…: ") == 1
    assert names[-6:] == [f"{name}: " for name, _ in FACTS[1:]]


async def test_an_alert_without_words_has_no_empty_block(teams: TeamsAction, web: HttpReceiver) -> None:
    card = card_in(await body_of(teams, web, alert_of("", " \n")))
    assert card[1] == shown([("product.name", '""')])[0]


@pytest.mark.parametrize(
    ("status", "said", "outcome"),
    [
        (202, "", Delivered("202")),
        (200, "1", Delivered("200 1")),
        (200, FAILED.format(429), Retry("200 " + FAILED.format(429))),
        (200, FAILED.format(503), Retry("200 " + FAILED.format(503))),
        (202, FAILED.format(429), Retry("202 " + FAILED.format(429))),
        (200, FAILED.format(413), Refused("200 " + FAILED.format(413))),
        (200, FAILED.format(400), Refused("200 " + FAILED.format(400))),
        (200, FAILED.format(410), Refused("200 " + FAILED.format(410), disable=True)),
        (200, "Webhook message delivery failed", Retry("200 Webhook message delivery failed")),
        (400, '{"error":{"code":"TriggerInputSchemaMismatch"}}', Refused),
        (400, OFF, Retry(f"400 {OFF}")),
        (401, '{"error":{"code":"DirectApiAuthorizationRequired"}}', Refused),
        (404, '{"error":{"code":"WorkflowNotFound"}}', Refused),
        (413, "too large", Refused("413 too large")),
        (429, "", Retry("429")),
        (502, '{"error":{"code":"NoResponse"}}', Retry),
    ],
)
async def test_the_answer_decides(
    teams: TeamsAction, web: HttpReceiver, status: int, said: str, outcome: Outcome | type[Outcome]
) -> None:
    web.plan.append(Reply(status, body=said.encode()))
    got = await attempt(teams)
    assert got == (outcome if not isinstance(outcome, type) else outcome(f"{status} {said}"))


async def test_it_waits_as_long_as_it_is_asked_to(teams: TeamsAction, web: HttpReceiver) -> None:
    web.plan.append(Reply(200, {"retry-after": "30"}, FAILED.format(429).encode()))
    outcome = await attempt(teams)
    assert isinstance(outcome, Retry)
    assert outcome.after_ms == 30_000


async def test_that_the_workflow_is_off_is_said_loudly(teams: TeamsAction, web: HttpReceiver) -> None:
    web.plan.append(Reply(400, body=OFF.encode()))
    with structlog.testing.capture_logs() as logs:
        await attempt(teams)
    (entry,) = logs
    assert (entry["log_level"], entry["action"]) == ("error", "chat")
    assert "t3amsT0ken" not in json.dumps(entry)
