"""The discord action against a receiver in Discord's place."""

from __future__ import annotations

import json
import re
from types import MappingProxyType

import pytest

from actions.alert import Alert
from actions.base import Delivered, Outcome, Refused, Retry
from actions.discord import DiscordAction, DiscordSettings
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
    utf16,
)
from tests.support.delivering import action, context
from tests.support.receivers import HttpReceiver, Reply
from tua.plugin.kit import ActionKit, HttpTarget, Target

KINDS = {
    **dict.fromkeys((200, 204), Delivered),
    **dict.fromkeys((408, 425, 429, 500, 502, 503, 504), Retry),
    **dict.fromkeys((301, 302, 307, 400, 401, 403, 404, 410, 413), Refused),
}


class TestDiscordKit(ActionKit):
    action_class = DiscordAction
    outcomes = MappingProxyType(KINDS)

    def target(self) -> Target:
        return HttpTarget({"url": {"env": "DISCORD"}}, {"DISCORD": "{url}/api/hooks/123456789012/d1sc0rdT0ken"})


@pytest.fixture
def discord(web: HttpReceiver, monkeypatch: pytest.MonkeyPatch) -> DiscordAction:
    return made(monkeypatch, f"http://127.0.0.1:{web.port}/api/webhooks/1/d1sc0rdT0ken")


def made(monkeypatch: pytest.MonkeyPatch, url: str) -> DiscordAction:
    monkeypatch.setenv("DISCORD", url)
    settings = action("discord", url=Secret(env="DISCORD"))
    assert isinstance(settings, DiscordSettings)
    return DiscordAction("chat", settings, context())


def as_shown(text: str) -> str:
    """What Discord shows of a text in which everything is escaped: a backslash takes the meaning of a sign."""
    return re.sub(r"\\([^0-9A-Za-z\s])", r"\1", text)


def facts_of(embed: dict[str, object]) -> list[tuple[str, str]]:
    fields = embed["fields"]
    assert isinstance(fields, list)
    return [(as_shown(field["name"]), as_shown(field["value"])) for field in fields]


async def test_an_opened_alert_is_an_embed(discord: DiscordAction, web: HttpReceiver) -> None:
    assert await body_of(discord, web) == {
        "embeds": [
            {
                "title": r"🟠 \[warning\] hot-product\: Nokia",
                "color": 0xB45309,
                "description": "Product 'Nokia' was ordered 20 times\nwithin 5s",
                "fields": [
                    {"name": "product.name", "value": "Nokia", "inline": True},
                    {"name": "Peak", "value": r"20 within 5 seconds \(threshold 20\)", "inline": True},
                    {"name": "Events", "value": "20 so far", "inline": True},
                    {"name": "Opened", "value": r"2026-01-31T10\:00\:03.120Z", "inline": True},
                    {"name": "Resolves", "value": r"2026-01-31T10\:00\:07.480Z", "inline": True},
                    {"name": "Evidence", "value": "products, partition 1, offset 590", "inline": True},
                    {"name": "Alert", "value": r"a1 \(message 1\)", "inline": True},
                ],
            }
        ],
        "allowed_mentions": {"parse": []},
    }


async def test_discord_is_asked_to_confirm_and_the_thread_of_the_url_is_kept(
    web: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await attempt(made(monkeypatch, f"http://127.0.0.1:{web.port}/api/webhooks/1/t?thread_id=42&wait=false"))
    (request,) = web.requests
    assert request.path == "/api/webhooks/1/t?thread_id=42&wait=true"
    assert request.headers["user-agent"].startswith("DiscordBot (")


async def test_a_resolved_alert_shows_that_it_is_over(discord: DiscordAction, web: HttpReceiver) -> None:
    (embed,) = (await body_of(discord, web, RESOLVED))["embeds"]
    assert as_shown(embed["title"]) == "🟢 [resolved] hot-product: Nokia"
    assert embed["color"] == 0x15803D
    assert ("Events", "31") in facts_of(embed)


async def test_a_summary_tells_of_many_alerts(discord: DiscordAction, web: HttpReceiver) -> None:
    (embed,) = (await body_of(discord, web, SUMMARY))["embeds"]
    assert as_shown(embed["title"]) == "🔴 [critical] hot-product: 120 more alerts"
    assert embed["description"] == "120 more alerts of hot-product within 1 minute, not told one by one"
    assert facts_of(embed) == FACTS_OF_SUMMARY


async def test_what_is_in_a_name_pings_nobody_links_nowhere_and_is_shown(
    discord: DiscordAction, web: HttpReceiver
) -> None:
    name = f"{PINGS} {MARKUP}"
    body = await body_of(discord, web, alert_of(name))
    (embed,) = body["embeds"]
    assert body["allowed_mentions"] == {"parse": []}
    assert as_shown(embed["description"]) == name
    assert facts_of(embed)[0] == ("product.name", name)
    for text in (embed["title"], embed["description"], embed["fields"][0]["value"]):
        assert not re.search(r"(?<!\\)[*_`~|<>\[\]@#]|https?:", text), text


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("- a\n+ b\n  - c", "\\- a\n\\+ b\n  \\- c"),
        ("1. a\n 22. b", "1\\. a\n 22\\. b"),
        ("# a\n> b", "\\# a\n\\> b"),
        ("-# a", "\\-\\# a"),
        ("a-b 1.5 c+d\n15 a.b", "a-b 1.5 c+d\n15 a.b"),
        ("\\*a*", "\\\\\\*a\\*"),
    ],
)
async def test_what_begins_a_list_a_heading_or_a_quote_is_only_text(
    discord: DiscordAction, web: HttpReceiver, written: str, sent: str
) -> None:
    (embed,) = (await body_of(discord, web, alert_of("x", written)))["embeds"]
    assert embed["description"] == sent


async def test_marks_that_control_or_turn_the_text_do_not_get_through(
    discord: DiscordAction, web: HttpReceiver
) -> None:
    assert not foreign_marks(texts_in(await body_of(discord, web, alert_of(f"a{CONTROL}{DIRECTION}b"))))


@pytest.mark.parametrize("alert", HUGE.values(), ids=HUGE)
async def test_what_is_too_long_is_cut_to_the_limits(discord: DiscordAction, web: HttpReceiver, alert: Alert) -> None:
    (embed,) = (await body_of(discord, web, alert))["embeds"]
    names = [field["name"] for field in embed["fields"]]
    values = [field["value"] for field in embed["fields"]]
    description = embed.get("description", "x")
    assert 0 < utf16(embed["title"]) <= 256
    assert 0 < utf16(description) <= 4_096
    assert 1 <= len(names) <= 25
    assert all(0 < utf16(name.strip()) <= 256 for name in names)
    assert all(0 < utf16(value.strip()) <= 1_024 for value in values)
    assert sum(map(utf16, [embed["title"], description, *names, *values])) <= 6_000
    assert facts_of(embed)[-1] == FACTS[-1]
    for text in (embed["title"], description, *values):
        assert not re.search(r"(?<!\\)(\\\\)*\\…", text), "an escape was cut in two"


async def test_of_many_key_paths_the_first_and_all_that_follows_the_key_are_told(
    discord: DiscordAction, web: HttpReceiver
) -> None:
    (embed,) = (await body_of(discord, web, alert_of_many(40, "v")))["embeds"]
    told = facts_of(embed)
    assert len(told) == 25
    assert told[0] == ("path.number.0", "v")
    assert told[12] == ("…", "22 more")
    assert [name for name, _ in told[-6:]] == [name for name, _ in FACTS[1:]]


async def test_an_alert_without_words_has_no_empty_text(discord: DiscordAction, web: HttpReceiver) -> None:
    (embed,) = (await body_of(discord, web, alert_of("", " \n")))["embeds"]
    assert "description" not in embed
    assert facts_of(embed)[0] == ("product.name", '""')


@pytest.mark.parametrize(
    ("status", "said", "outcome"),
    [
        (200, {"id": "1"}, Delivered('200 {"id": "1"}')),
        (400, {"code": 50035}, Refused('400 {"code": 50035}')),
        (401, {"code": 50027}, Refused('401 {"code": 50027}', disable=True)),
        (403, {"code": 50013}, Refused('403 {"code": 50013}')),
        (404, {"code": 10015}, Refused('404 {"code": 10015}', disable=True)),
        (404, {"code": 10003}, Refused('404 {"code": 10003}')),
        (404, {"code": [10015]}, Refused('404 {"code": [10015]}')),
        (404, [10015], Refused("404 [10015]")),
        (429, {"retry_after": 64.5701}, Retry('429 {"retry_after": 64.5701}', after_ms=64_571)),
        (429, {"retry_after": "soon"}, Retry('429 {"retry_after": "soon"}')),
        (429, {"retry_after": -1}, Retry('429 {"retry_after": -1}')),
        (429, {"retry_after": True}, Retry('429 {"retry_after": true}')),
        (500, {"code": 0}, Retry('500 {"code": 0}')),
        (503, {"code": 10015}, Retry('503 {"code": 10015}')),
    ],
)
async def test_the_answer_decides(
    discord: DiscordAction, web: HttpReceiver, status: int, said: object, outcome: Outcome
) -> None:
    web.plan.append(Reply(status, body=json.dumps(said).encode()))
    assert await attempt(discord) == outcome


@pytest.mark.parametrize(
    ("header", "said", "after_ms"),
    [("65", b'{"retry_after": 64.57}', 65_000), ("3", b'{"retry_after": 64.57}', 64_570), ("7", b"<html>", 7_000)],
)
async def test_it_waits_for_the_longer_of_what_header_and_body_ask(
    discord: DiscordAction, web: HttpReceiver, header: str, said: bytes, after_ms: int
) -> None:
    web.plan.append(Reply(429, {"retry-after": header}, said))
    outcome = await attempt(discord)
    assert isinstance(outcome, Retry)
    assert outcome.after_ms == after_ms


async def test_an_answer_nested_without_end_does_no_harm(discord: DiscordAction, web: HttpReceiver) -> None:
    web.plan.append(Reply(404, body=b'{"code":' + b"[" * 100_000))
    assert isinstance(await attempt(discord), Refused)
