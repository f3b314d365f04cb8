"""The telegram action: each alert to a chat, by the Bot API's sendMessage.

https://core.telegram.org/bots/api#sendmessage (and #making-requests, #responseparameters)
https://core.telegram.org/bots/api#html-style
https://core.telegram.org/bots/faq#broadcasting-to-users (how often)
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Literal

import structlog
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from actions.base import ActionError, Context, Delivery, Outcome, Refused, Retry
from actions.http import Answer, HttpAction, Post, SafeUrl, json_post, resolved, resolved_url, seconds_ms
from actions.message import Fact, fitting
from actions.text import fitted, units
from settings.actions import NotifySettings
from settings.problems import Mistake
from settings.secrets import SecretRef, notes_on_defaults

_log = structlog.get_logger()

MESSAGE = 4_096  # after what is markup has been taken out
TITLE = 300
TEXT = 2_000
MOST_FACTS = 100

_TOKEN = re.compile(r"[0-9]+:[A-Za-z0-9_-]+")
_CHAT = re.compile(r"-?[0-9]+|@[A-Za-z0-9_]+")


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _chat(value: str) -> str:
    if not _CHAT.fullmatch(value):
        raise Mistake("this is not the id of a chat", 'a number such as -1001234567890, or "@name" of a public channel')
    return value


ChatId = Annotated[
    str,
    BeforeValidator(_number_as_text),
    AfterValidator(_chat),
    WithJsonSchema({"type": ["string", "integer"], "examples": [-1001234567890, "@name"]}),
]
"""A number or a name in YAML, text in Python."""


class TelegramSettings(NotifySettings):
    """`token` is the bot's, `chat_id` a number or the `@name` of a public channel, `api_url` that of the Bot API."""

    type: Literal["telegram"] = "telegram"
    token: SecretRef
    chat_id: ChatId
    allow_insecure: bool = False  # before `api_url`, which is judged by it
    api_url: SafeUrl = "https://api.telegram.org"

    def notes(self) -> tuple[str, ...]:
        return tuple(notes_on_defaults("token", self.token))


class TelegramAction(HttpAction[TelegramSettings]):
    """What an alert says stands in <code> and <pre>, in which Telegram finds no @names, /commands, #tags or links.

    Telegram wants about one message a second in a chat, so there is one attempt at a time.
    """

    settings_type = TelegramSettings
    concurrency = 1

    def __init__(self, name: str, settings: TelegramSettings, context: Context) -> None:
        base = resolved_url(name, settings.api_url, settings.allow_insecure, "api_url")
        self._token = resolved(name, "token", settings.token)
        if not _TOKEN.fullmatch(self._token):
            wanted = "a bot's token is a number, a colon and letters, as @BotFather gives it out"
            raise ActionError(f"action {name}: the token from {settings.token.source} is of no use: {wanted}")
        path = f"{base.path.rstrip('/')}/bot{self._token}/sendMessage"
        super().__init__(name, settings, context, base.copy_with(path=path))

    def recipients(self) -> tuple[str, ...]:
        return (self.settings.chat_id,)

    def secrets(self) -> Iterable[str]:
        """Also the token without the `bot` that goes before it in the path, and its secret half."""
        return [*super().secrets(), self._token, self._token.partition(":")[2]]

    def compose(self, delivery: Delivery) -> Post:
        message = delivery.message
        title = fitted(message.title, TITLE)
        text = fitted(message.text, TEXT)
        room = MESSAGE - units(message.sign + title + text) - 4  # the space and the line ends between the parts
        facts = fitting(message.facts, MOST_FACTS, room, lambda fact: units(_line(fact)) + 1)
        parts = [f"{message.sign} <code>{_escaped(title)}</code>"]
        if text.strip():
            parts.append(f"<code>{_escaped(text)}</code>")
        parts.append(f"<pre>{_escaped(chr(10).join(map(_line, facts)))}</pre>")
        return json_post(
            {
                "chat_id": self.settings.chat_id,
                "text": "\n".join(parts),
                "parse_mode": "HTML",
                "link_preview_options": {"is_disabled": True},
            }
        )

    def judge(self, answer: Answer) -> Outcome:
        """The status is also in the JSON, with a description and sometimes parameters."""
        said = answer.fields
        outcome = super().judge(answer)
        if isinstance(said.get("description"), str):
            outcome = replace(outcome, detail=f"{answer.status} {said['description']}")
        about = said.get("parameters")
        about = about if isinstance(about, dict) else {}
        if answer.status in (401, 404):
            # For every message the same, and mended by a person: none is given up for it before its time.
            _log.error(
                "The Bot API does not know the bot's token; nothing goes out until that is mended",
                action=self.name,
                status=answer.status,
            )
            return Retry(outcome.detail)
        if isinstance(outcome, Retry) and (asked_ms := seconds_ms(about.get("retry_after"))) is not None:
            return replace(outcome, after_ms=max(asked_ms, outcome.after_ms or 0))
        if isinstance(outcome, Refused) and isinstance(new := about.get("migrate_to_chat_id"), int):
            return Refused(f"{outcome.detail}; write chat_id: {new}")
        return outcome


def _line(fact: Fact) -> str:
    return f"{fact[0]}: {fact[1]}"


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)
