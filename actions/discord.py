"""The discord action: each alert to a channel, by a webhook, as an embed.

https://discord.com/developers/docs/resources/webhook#execute-webhook
https://discord.com/developers/docs/resources/message#embed-object-embed-limits (and #allowed-mentions-object)
https://discord.com/developers/docs/topics/rate-limits#exceeding-a-rate-limit
https://discord.com/developers/docs/topics/opcodes-and-status-codes#json
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Literal

from actions.base import Context, Delivery, Outcome, Refused, Retry
from actions.http import Answer, HttpAction, Post, SecretUrlSettings, json_post, resolved_url, seconds_ms
from actions.message import Fact, fitting
from actions.text import fitted, units

TITLE = 256
DESCRIPTION = 3_000  # 4096 are allowed, but of the EMBED's total the fields need some
FIELD_NAME = 256
FIELD_VALUE = 1_024
MOST_FIELDS = 25
EMBED = 6_000

_GONE = (10015, 50027)  # unknown webhook; invalid webhook token

# What Markdown gives a meaning, with what begins links, names, emoji and times (`<@1>`, `@everyone`, `:x:`, `<t:0>`).
_MARKUP = re.compile(r"[\\`*_~|<>\[\]()#:@]")
_LIST_ITEM = re.compile(r"^(\s*(?:\d+(?=\.))?)([-+.])", re.MULTILINE)


class DiscordSettings(SecretUrlSettings):
    """`url` is that of a webhook, with `?thread_id=…` where it is for a thread."""

    type: Literal["discord"] = "discord"


class DiscordAction(HttpAction[DiscordSettings]):
    """Discord is asked to answer only when the message is there: else it says nothing of one that it did not save.

    It allows a webhook a few messages in some seconds, so there is one attempt at a time.
    """

    settings_type = DiscordSettings
    concurrency = 1

    def __init__(self, name: str, settings: DiscordSettings, context: Context) -> None:
        url = resolved_url(name, settings.url, settings.allow_insecure)
        super().__init__(name, settings, context, url.copy_merge_params({"wait": "true"}))

    def compose(self, delivery: Delivery) -> Post:
        message = delivery.message
        title = fitted(f"{message.sign} {message.title}", TITLE, _escaped)
        text = fitted(message.text, DESCRIPTION, _escaped)
        room = EMBED - units(title) - units(text)
        facts = fitting(message.facts, MOST_FIELDS, room, lambda fact: sum(map(units, _field(fact).values())))
        embed: dict[str, Any] = {"title": title, "color": int(message.colour[1:], 16)}
        if text.strip():
            embed["description"] = text
        embed["fields"] = [{**_field(fact), "inline": True} for fact in facts]
        post = json_post({"embeds": [embed], "allowed_mentions": {"parse": []}})
        # The form that Discord demands; it may turn others away.
        return replace(post, headers={**post.headers, "user-agent": "DiscordBot (tua, 1)"})

    def judge(self, answer: Answer) -> Outcome:
        outcome = super().judge(answer)
        if isinstance(outcome, Retry) and (asked_ms := seconds_ms(answer.fields.get("retry_after"))) is not None:
            return replace(outcome, after_ms=max(asked_ms, outcome.after_ms or 0))
        if isinstance(outcome, Refused) and answer.fields.get("code") in _GONE:
            return replace(outcome, disable=True)
        return outcome


def _field(fact: Fact) -> dict[str, str]:
    return {"name": fitted(fact[0], FIELD_NAME, _escaped), "value": fitted(fact[1], FIELD_VALUE, _escaped)}


def _escaped(text: str) -> str:
    return _LIST_ITEM.sub(r"\1\\\2", _MARKUP.sub(r"\\\g<0>", text))
