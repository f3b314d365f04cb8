"""The pagerduty action: an alert opens an incident and resolves it, by the Events API v2.

https://github.com/PagerDuty/developer-docs/blob/main/docs/events-API-v2/01-Overview.md (answers, limit of 512 KB)
https://github.com/PagerDuty/developer-docs/blob/main/docs/events-API-v2/02-Trigger-Events.md (fields and their limits)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from actions.alert import Summary
from actions.base import Context, Delivery
from actions.http import HttpAction, Post, SafeUrl, json_post, resolved, resolved_url
from actions.message import Message, fitting
from actions.text import fitted, stripped, units
from detection.times import iso
from settings.actions import NotifySettings
from settings.secrets import SecretRef, notes_on_defaults

SUMMARY = 1_024
KEY = 255
TEXT = 16_000
DETAILS = 64_000  # with TEXT, at four bytes for each, still below the 512 KB
MOST_FACTS = 1_000

_SEVERITIES = {"info": "info", "warning": "warning", "critical": "critical", "test": "info"}


class PagerDutySettings(NotifySettings):
    """`routing_key` is the integration key of a service; `api_url` has another host for accounts in the EU."""

    type: Literal["pagerduty"] = "pagerduty"
    routing_key: SecretRef
    allow_insecure: bool = False  # before `api_url`, which is judged by it
    api_url: SafeUrl = "https://events.pagerduty.com/v2/enqueue"

    def notes(self) -> tuple[str, ...]:
        return tuple(notes_on_defaults("routing_key", self.routing_key))


class PagerDutyAction(HttpAction[PagerDutySettings]):
    """The key of an incident is the alert's id, so an update goes to the same incident and the end resolves it.

    A summary opens one incident for each rule, which nothing resolves but a person.
    """

    settings_type = PagerDutySettings

    def __init__(self, name: str, settings: PagerDutySettings, context: Context) -> None:
        url = resolved_url(name, settings.api_url, settings.allow_insecure, "api_url")
        self._routing_key = resolved(name, "routing_key", settings.routing_key)
        super().__init__(name, settings, context, url)

    def secrets(self) -> Iterable[str]:
        return [*super().secrets(), self._routing_key]

    def compose(self, delivery: Delivery) -> Post:
        told = delivery.told
        key = f"flood: {told.rule}" if isinstance(told, Summary) else told.id
        event: dict[str, Any] = {"routing_key": self._routing_key, "dedup_key": fitted(key, KEY)}
        if told.status == "resolved":
            return json_post({**event, "event_action": "resolve"})
        message = delivery.message
        payload: dict[str, Any] = {
            "summary": fitted(stripped(f"{message.title} - {message.text}"), SUMMARY),
            "severity": _SEVERITIES.get(message.label, "error"),
            "source": "tua",
            "component": told.rule,
            "custom_details": _details(message),
        }
        if not isinstance(told, Summary):
            payload |= {"timestamp": iso(told.opened_at), "group": told.evidence.topic}
        return json_post({**event, "event_action": "trigger", "client": "tua", "payload": payload})


def _details(message: Message) -> dict[str, str]:
    details = {"Message": fitted(message.text, TEXT)}
    for name, value in fitting(message.facts, MOST_FACTS, DETAILS, lambda fact: sum(map(units, fact))):
        details[name] = f"{details[name]}; {value}" if name in details else value  # two notes have one name
    return details
