"""The teams action: each alert to a channel or chat, by the webhook of a workflow, as an Adaptive Card.

https://learn.microsoft.com/connectors/teams/ (the trigger of the workflow, and what it takes; its limit of 28 KB)
https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using
https://learn.microsoft.com/adaptive-cards/authoring-cards/text-features
https://adaptivecards.io/explorer/TextRun.html
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Literal

import msgspec
import structlog

from actions.base import Context, Delivery, Outcome, Refused, Retry
from actions.http import Answer, HttpAction, Post, SecretUrlSettings, json_post, resolved_url
from actions.message import Fact, fitting
from actions.text import fitted

_log = structlog.get_logger()

# In bytes. The limit is 28 KB of what Teams makes of the card; messages of 18 to 21 KB have been seen refused.
CARD = 16_000
TITLE = 1_000
TEXT = 4_000
MOST_LINES = 30
MOST_FACTS = 100

_COLOURS = {"info": "Accent", "warning": "Warning", "critical": "Attention", "resolved": "Good", "test": "Default"}
_FORMULA = re.compile(r"\{(?=\{(?:DATE|TIME)\()")
_INNER_STATUS = re.compile(r"HTTP error ([345][0-9]{2})\b")


class TeamsSettings(SecretUrlSettings):
    """`url` is that of a workflow with the trigger "When a Teams webhook request is received"."""

    type: Literal["teams"] = "teams"


class TeamsAction(HttpAction[TeamsSettings]):
    """All text stands in TextRuns, in which, other than in a TextBlock or a FactSet, Markdown means nothing.

    Names are pinged only by a list of entities, which is not sent. Teams allows a channel a few messages a second, so
    there is one attempt at a time.
    """

    settings_type = TeamsSettings
    concurrency = 1

    def __init__(self, name: str, settings: TeamsSettings, context: Context) -> None:
        super().__init__(name, settings, context, resolved_url(name, settings.url, settings.allow_insecure))

    def compose(self, delivery: Delivery) -> Post:
        message = delivery.message
        title = fitted(f"{message.sign} {message.title}", TITLE, _literal, _size)
        colour = _COLOURS.get(message.label, "Warning")
        body = [_paragraph({"text": title, "size": "Large", "weight": "Bolder", "color": colour})]
        if message.text.strip():
            # A line end within a run is shown as a space.
            lines = fitted(message.text, TEXT, _literal, _size).split("\n", MOST_LINES - 1)
            body += [_paragraph({"text": line}, spacing="Small") for line in lines if line]
        facts = fitting(message.facts, MOST_FACTS, CARD - _size(body), lambda fact: _size(_fact(fact)) + 1)
        body += [_fact(fact) for fact in facts]
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.2",
            "msteams": {"width": "Full"},
            "body": body,
        }
        attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
        return json_post({"type": "message", "attachments": [attachment]})

    def judge(self, answer: Answer) -> Outcome:
        """A 200 may say in its body that the delivery failed, and with which status: then that one counts."""
        if 200 <= answer.status < 300 and "delivery failed" in answer.text:
            inner = _INNER_STATUS.search(answer.text)
            failed = super().judge(replace(answer, status=int(inner[1]) if inner else 500))
            return replace(failed, detail=answer.detail)
        outcome = super().judge(answer)
        if isinstance(outcome, Refused) and "WorkflowTriggerIsNotEnabled" in answer.text:
            # For every message the same, and mended by a person: none is given up for it before its time.
            _log.error("The workflow of Teams is turned off; nothing goes out until it is turned on", action=self.name)
            return Retry(answer.detail)
        return outcome


def _fact(fact: Fact) -> dict[str, Any]:
    name, value = map(_literal, fact)
    return _paragraph({"text": f"{name}: ", "weight": "Bolder"}, {"text": value}, spacing="Small")


def _paragraph(*runs: dict[str, Any], **more: str) -> dict[str, Any]:
    return {"type": "RichTextBlock", **more, "inlines": [{"type": "TextRun", **run} for run in runs]}


def _literal(text: str) -> str:
    """`{{DATE(…)}}` and `{{TIME(…)}}`, which a card would work out, parted by a mark that cannot be seen."""
    return _FORMULA.sub("{\u2060", text)


def _size(part: object) -> int:
    return len(msgspec.json.encode(part))
