"""The telegram action against a receiver in the place of the Bot API."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import structlog

from actions.alert import Alert
from actions.base import ActionError, Delivered, Outcome, Refused, Retry
from actions.telegram import TelegramAction, TelegramSettings
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
    loaded,
    mistake_in,
    texts_in,
    utf16,
)
from tests.support.delivering import action, context
from tests.support.receivers import HttpReceiver, Reply
from tua.plugin.kit import ActionKit, HttpTarget, Target

SECRET_HALF = "AAF-t3legramT0ken_0123456789abcdefg"
TOKEN = f"123456789:{SECRET_HALF}"
OK = b'{"ok":true,"result":{"message_id":7}}'
KINDS = {
    200: Delivered,
    **dict.fromkeys((401, 404, 408, 425, 429, 500, 502, 503, 504), Retry),
    **dict.fromkeys((301, 302, 307, 400, 403, 410, 413), Refused),
}


class TestTelegramKit(ActionKit):
    action_class = TelegramAction
    outcomes = MappingProxyType(KINDS)

    def target(self) -> Target:
        settings = {"token": {"env": "TELEGRAM"}, "chat_id": -1001234567890, "api_url": "{url}"}
        return HttpTarget(settings, {"TELEGRAM": TOKEN}, Reply(200, body=OK))


@pytest.fixture
def telegram(web: HttpReceiver, monkeypatch: pytest.MonkeyPatch) -> TelegramAction:
    return made(monkeypatch, api_url=f"http://127.0.0.1:{web.port}")


def made(monkeypatch: pytest.MonkeyPatch, token: str = TOKEN, **more: Any) -> TelegramAction:
    monkeypatch.setenv("TELEGRAM", token)
    settings = action("telegram", **{"token": Secret(env="TELEGRAM"), "chat_id": "-100123", **more})
    assert isinstance(settings, TelegramSettings)
    return TelegramAction("chat", settings, context())


def as_shown(text: str) -> str:
    """What is left when Telegram has taken the markup out."""
    return html.unescape(re.sub(r"</?(?:code|pre)>", "", text))


def outside_of_code(text: str) -> str:
    """Where Telegram looks for names, commands, tags and links."""
    return re.sub(r"<(code|pre)>[^<>]*</\1>", "", text)


def lines(facts: list[tuple[str, str]]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in facts)


async def test_an_opened_alert_is_a_message(telegram: TelegramAction, web: HttpReceiver) -> None:
    assert await body_of(telegram, web) == {
        "chat_id": "-100123",
        "text": (
            "🟠 <code>[warning] hot-product: Nokia</code>\n"
            "<code>Product 'Nokia' was ordered 20 times\nwithin 5s</code>\n"
            f"<pre>{lines(FACTS)}</pre>"
        ),
        "parse_mode": "HTML",
        "link_preview_options": {"is_disabled": True},
    }
    assert web.requests[0].path == f"/bot{TOKEN}/sendMessage"


async def test_a_resolved_alert_shows_that_it_is_over(telegram: TelegramAction, web: HttpReceiver) -> None:
    text = (await body_of(telegram, web, RESOLVED))["text"]
    assert text.startswith("🟢 <code>[resolved] hot-product: Nokia</code>\n<code>Product 'Nokia' is over</code>\n<pre>")
    assert "\nEvents: 31\n" in text


async def test_a_summary_tells_of_many_alerts(telegram: TelegramAction, web: HttpReceiver) -> None:
    assert (await body_of(telegram, web, SUMMARY))["text"] == (
        "🔴 <code>[critical] hot-product: 120 more alerts</code>\n"
        "<code>120 more alerts of hot-product within 1 minute, not told one by one</code>\n"
        f"<pre>{lines(FACTS_OF_SUMMARY)}</pre>"
    )


async def test_what_is_in_a_name_pings_nobody_links_nowhere_and_is_shown(
    telegram: TelegramAction, web: HttpReceiver
) -> None:
    name = f"{PINGS} {MARKUP} </code></pre> example.com"
    text = (await body_of(telegram, web, alert_of(name)))["text"]
    assert outside_of_code(text) == "🟠 \n\n"
    assert as_shown(text).startswith(f"🟠 [warning] hot-product: {name[:100]}")
    assert as_shown(text).count(name) == 2


async def test_marks_that_control_or_turn_the_text_do_not_get_through(
    telegram: TelegramAction, web: HttpReceiver
) -> None:
    assert not foreign_marks(texts_in(await body_of(telegram, web, alert_of(f"a{CONTROL}{DIRECTION}b"))))


@pytest.mark.parametrize("alert", HUGE.values(), ids=HUGE)
async def test_what_is_too_long_is_cut_to_the_limit(telegram: TelegramAction, web: HttpReceiver, alert: Alert) -> None:
    text = (await body_of(telegram, web, alert))["text"]
    assert utf16(as_shown(text)) <= 4_096
    assert outside_of_code(text).strip() == "🟠"
    assert text.endswith("Alert: a1 (message 1)</pre>")


async def test_of_many_key_paths_the_first_and_all_that_follows_the_key_are_told(
    telegram: TelegramAction, web: HttpReceiver
) -> None:
    text = (await body_of(telegram, web, alert_of_many(40, "v" * 1_000)))["text"]
    names = [line.partition(":")[0] for line in text.partition("<pre>")[2].splitlines()]
    assert names[0] == "path.number.0"
    assert names.count("…") == 1
    assert names[-6:] == [name for name, _ in FACTS[1:]]


async def test_an_alert_without_words_has_no_empty_line(telegram: TelegramAction, web: HttpReceiver) -> None:
    text = (await body_of(telegram, web, alert_of("", " \n")))["text"]
    assert text.startswith('🟠 <code>[warning] hot-product: ""</code>\n<pre>product.name: ""\n')


def error(code: int, description: str, **parameters: object) -> bytes:
    more = {"parameters": parameters} if parameters else {}
    return json.dumps({"ok": False, "error_code": code, "description": description, **more}).encode()


@pytest.mark.parametrize(
    ("status", "said", "outcome"),
    [
        (200, OK, Delivered(f"200 {OK.decode()}")),
        (400, error(400, "Bad Request: chat not found"), Refused("400 Bad Request: chat not found")),
        (
            400,
            error(400, "Bad Request: group chat was upgraded to a supergroup chat", migrate_to_chat_id=-1005),
            Refused("400 Bad Request: group chat was upgraded to a supergroup chat; write chat_id: -1005"),
        ),
        (401, error(401, "Unauthorized"), Retry("401 Unauthorized")),
        (404, error(404, "Not Found"), Retry("404 Not Found")),
        (404, b"<html>", Retry("404 <html>")),
        (
            403,
            error(403, "Forbidden: bot was blocked by the user"),
            Refused("403 Forbidden: bot was blocked by the user"),
        ),
        (
            429,
            error(429, "Too Many Requests: retry after 35", retry_after=35),
            Retry("429 Too Many Requests: retry after 35", after_ms=35_000),
        ),
        (429, b'{"parameters": [35], "description": 5}', Retry('429 {"parameters": [35], "description": 5}')),
        (500, error(500, "Internal Server Error: restart"), Retry("500 Internal Server Error: restart")),
        (502, b"<html>", Retry("502 <html>")),
    ],
)
async def test_the_answer_decides(
    telegram: TelegramAction, web: HttpReceiver, status: int, said: bytes, outcome: Outcome
) -> None:
    web.plan.append(Reply(status, body=said))
    assert await attempt(telegram) == outcome


@pytest.mark.parametrize("header", ["3", "60"])
async def test_it_waits_for_the_longer_of_what_header_and_body_ask(
    telegram: TelegramAction, web: HttpReceiver, header: str
) -> None:
    web.plan.append(Reply(429, {"retry-after": header}, error(429, "Too Many Requests", retry_after=35)))
    assert await attempt(telegram) == Retry("429 Too Many Requests", after_ms=max(35, int(header)) * 1_000)


@pytest.mark.parametrize("status", [401, 404])
async def test_a_token_that_is_not_known_is_said_loudly(
    telegram: TelegramAction, web: HttpReceiver, status: int
) -> None:
    web.plan.append(Reply(status, body=error(status, "no")))
    with structlog.testing.capture_logs() as logs:
        await attempt(telegram)
    (entry,) = logs
    assert (entry["log_level"], entry["action"], entry["status"]) == ("error", "chat", status)
    assert SECRET_HALF not in json.dumps(entry)


def test_the_recipient_is_the_chat_and_the_token_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    bot = made(monkeypatch)
    assert bot.recipients() == ("-100123",)
    assert {TOKEN, SECRET_HALF, f"bot{TOKEN}"} <= set(bot.secrets())
    assert bot.url.host == "api.telegram.org"


@pytest.mark.parametrize(
    ("api_url", "path"),
    [
        ("https://bots.example.com", ""),
        ("https://bots.example.com/", ""),
        ("https://bots.example.com/of/us/", "/of/us"),
    ],
)
def test_the_bot_api_may_be_elsewhere(monkeypatch: pytest.MonkeyPatch, api_url: str, path: str) -> None:
    assert str(made(monkeypatch, api_url=api_url).url) == f"https://bots.example.com{path}/bot{TOKEN}/sendMessage"


@pytest.mark.parametrize("token", [SECRET_HALF, f"bot{TOKEN}", f"{TOKEN}/../x", f"{TOKEN} ", f"{TOKEN}?x=1"])
def test_a_token_of_no_use_is_said_without_quoting_it(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    with pytest.raises(ActionError, match="the environment variable TELEGRAM is of no use: a bot's token is") as error:
        made(monkeypatch, token)
    assert SECRET_HALF not in str(error.value)


def test_a_token_that_is_not_set_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ActionError, match="the token comes from the environment variable TELEGRAM, which is not set"):
        made(monkeypatch, "")


def test_a_token_in_the_file_is_a_mistake_that_does_not_quote_it(tmp_path: Path) -> None:
    problem = mistake_in(tmp_path, "telegram", f"token: '{TOKEN}'", "chat_id: 1")
    assert "a secret must not stand in the configuration (write {env: NAME}" in problem
    assert SECRET_HALF not in problem
    assert loaded(tmp_path, "telegram", f"token: {{env: T, default: '{TOKEN}'}}", "chat_id: 1").notes() == (
        "the default of 'token' is a secret that stands in the file",
    )


@pytest.mark.parametrize(
    ("written", "chat"),
    [("-1001234567890", "-1001234567890"), ('"-5"', "-5"), ('"@name_of_1"', "@name_of_1"), ("{env: CHAT}", "-77")],
)
def test_a_chat_is_a_number_or_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, chat: str) -> None:
    monkeypatch.setenv("CHAT", "-77")
    settings = loaded(tmp_path, "telegram", "token: {env: T}", f"chat_id: {written}")
    assert isinstance(settings, TelegramSettings)
    assert settings.chat_id == chat


@pytest.mark.parametrize("written", ["support", "1.5", "true", '"@"', '"1 2"', "[1]", "null"])
def test_what_is_no_chat_is_a_mistake(tmp_path: Path, written: str) -> None:
    assert ":6:14: " in mistake_in(tmp_path, "telegram", "token: {env: T}", f"chat_id: {written}")


def test_an_api_url_that_is_not_safe_is_a_mistake(tmp_path: Path) -> None:
    lines = ("token: {env: T}", "chat_id: 1", "api_url: http://bots.example.com")
    assert "a url must be https" in mistake_in(tmp_path, "telegram", *lines)
    loaded(tmp_path, "telegram", *lines, "allow_insecure: true")
    loaded(tmp_path, "telegram", *lines[:2], "api_url: http://127.0.0.1:8081")
