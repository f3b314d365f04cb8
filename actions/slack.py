"""The slack action: each alert to a channel, by an incoming webhook, in Block Kit.

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
https://docs.slack.dev/reference/block-kit/blocks (the limits of a header, of a section and of its fields)
https://docs.slack.dev/messaging/formatting-message-text (escaping)
https://api.slack.com/changelog/2016-05-17-changes-to-errors-for-incoming-webhooks
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from actions.base import Context, Delivery, Outcome, Refused
from actions.http import Answer, HttpAction, Post, SecretUrlSettings, json_post, resolved_url
from actions.message import Fact, fitting
from actions.text import fitted, units

HEADER = 150
SECTION = 3_000
FIELD = 2_000
FIELDS_OF_SECTION = 10
MOST_FIELDS = 100
# Of all blocks together, about which the reference is silent: what is a good deal longer is refused as
# msg_blocks_too_long (https://github.com/slackapi/bolt-js/issues/2509).
MESSAGE = 9_000
_AROUND_FIELD = 50

# The webhook itself is gone; its URL will never work again. (An archived channel is a 410.)
_GONE = frozenset({"no_service", "no_service_id", "no_active_hooks", "no_team", "team_disabled", "invalid_token"})


class SlackSettings(SecretUrlSettings):
    """`url` is that of an incoming webhook, which belongs to one channel."""

    type: Literal["slack"] = "slack"


class SlackAction(HttpAction[SlackSettings]):
    """All text is plain_text, in which Slack looks for no formatting, links or names; `text` is what a phone shows.

    Slack wants about one message a second of a webhook, so there is one attempt at a time.
    """

    settings_type = SlackSettings
    concurrency = 1

    def __init__(self, name: str, settings: SlackSettings, context: Context) -> None:
        super().__init__(name, settings, context, resolved_url(name, settings.url, settings.allow_insecure))

    def compose(self, delivery: Delivery) -> Post:
        message = delivery.message
        title = fitted(f"{message.sign} {message.title}", HEADER, _escaped)
        text = fitted(message.text, SECTION, _escaped)
        room = MESSAGE - units(title) - units(text)
        facts = fitting(message.facts, MOST_FIELDS, room, lambda fact: units(_field(fact)) + _AROUND_FIELD)
        blocks: list[dict[str, Any]] = [{"type": "header", "text": _plain(title)}]
        if text.strip():
            blocks.append({"type": "section", "text": _plain(text)})
        for start in range(0, len(facts), FIELDS_OF_SECTION):
            some = facts[start : start + FIELDS_OF_SECTION]
            blocks.append({"type": "section", "fields": [_plain(_field(fact)) for fact in some]})
        return json_post({"text": title, "blocks": blocks, "unfurl_links": False, "unfurl_media": False})

    def judge(self, answer: Answer) -> Outcome:
        outcome = super().judge(answer)
        if isinstance(outcome, Refused) and answer.text in _GONE:
            return replace(outcome, disable=True)
        return outcome


def _field(fact: Fact) -> str:
    return fitted(f"{fact[0]}: {fact[1]}", FIELD, _escaped)


def _plain(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text, "emoji": False}


def _escaped(text: str) -> str:
    """The three characters by which Slack marks links, names and commands such as `<!channel>`."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
