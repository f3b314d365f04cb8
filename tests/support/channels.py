"""Shared by the tests of the actions that tell people: what there is to tell, and one attempt at telling it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actions.alert import Alert, KeyCount, Summary
from actions.base import Action, Delivery, Outcome, delivery_id
from actions.registry import ACTION_TYPES
from settings import ConfigError, load
from settings.actions import ActionSettings
from tests.actions.test_alert import ALERT
from tests.support.receivers import HttpReceiver

OPENED = ALERT.model_copy(update={"message": "Product 'Nokia' was ordered 20 times\nwithin 5s"})
RESOLVED = OPENED.model_copy(
    update={"sequence": 2, "status": "resolved", "peak": 26, "events": 31, "message": "Product 'Nokia' is over"}
)
SUMMARY = Summary(
    id="f1",
    rule="hot-product",
    severity="critical",
    status="summary",
    alerts=120,
    resolved=7,
    began_at=1_769_853_600_000,
    ended_at=1_769_853_660_000,
    top=(KeyCount(key={"product.name": "Nokia"}, peak=31), KeyCount(key={"product.name": "Siemens"}, peak=25)),
)
FACTS = [
    ("product.name", "Nokia"),
    ("Peak", "20 within 5 seconds (threshold 20)"),
    ("Events", "20 so far"),
    ("Opened", "2026-01-31T10:00:03.120Z"),
    ("Resolves", "2026-01-31T10:00:07.480Z"),
    ("Evidence", "products, partition 1, offset 590"),
    ("Alert", "a1 (message 1)"),
]
FACTS_OF_SUMMARY = [
    ("Over by now", "7"),
    ("From", "2026-01-31T10:00:00.000Z"),
    ("Until", "2026-01-31T10:01:00.000Z"),
    ("Top 1", "Nokia (peak 31)"),
    ("Top 2", "Siemens (peak 25)"),
    ("Note", "`tua deliveries` and the topic of alerts have each of them"),
]

PINGS = "@everyone @here <!channel> <@U123> <at>Ann</at> /start #tag"
MARKUP = "*b* _i_ `c` ~s~ ||h|| [x](https://evil.example) https://evil.example &amp; <b>&"
DIRECTION = "\u202e\u2066\u200f\u061c"
CONTROL = "\x1b[31m\x00\x9b\r\n\u2028"


def alert_of(name: str, message: str | None = None) -> Alert:
    """An alert of a product of that name, which its message repeats unless another one is given."""
    return OPENED.model_copy(update={"key": {"product.name": name}, "message": name if message is None else message})


def alert_of_many(paths: int, value: str) -> Alert:
    """An alert whose key has that many paths, each with that value."""
    return OPENED.model_copy(update={"key": {f"path.number.{n}": value for n in range(paths)}})


HUGE = {
    "message": alert_of("Nokia", "long " * 200_000),
    "message of emoji": alert_of("Nokia", "📱" * 50_000),
    "message of markup": alert_of("Nokia", "&<*_>\\" * 50_000),
    "message of lines": alert_of("Nokia", "- a\n" * 50_000),
    "value": alert_of("&" * 100_000),
    "value of emoji": alert_of("📱" * 100_000),
    "forty values": alert_of_many(40, "&*" * 5_000),
    "forty values of emoji": alert_of_many(40, "📱" * 5_000),
    "a thousand paths": alert_of_many(1_000, "手机" * 10),
    "all of it": alert_of_many(40, "<" * 5_000).model_copy(update={"message": '"&*\u2028' * 50_000}),
}
"""Alerts of which no channel has room for everything."""


def delivery_of(told: Alert | Summary) -> Delivery:
    """A delivery of what is told."""
    sequence = told.sequence if isinstance(told, Alert) else 1
    id_ = delivery_id(told.id, sequence, "chat", "there")
    return Delivery(id_, told.id, sequence, "chat", "there", told.to_json(), 1_769_853_603_500)


async def attempt(action: Action[Any], told: Alert | Summary = OPENED) -> Outcome:
    """One attempt; the action is closed behind it."""
    try:
        return await action.deliver(delivery_of(told))
    finally:
        await action.close()


async def body_of(action: Action[Any], web: HttpReceiver, told: Alert | Summary = OPENED) -> Any:
    """The JSON that a server gets of what is told."""
    await attempt(action, told)
    (request,) = web.requests
    assert request.headers["content-type"] == "application/json"
    return json.loads(request.body)


def utf16(text: str) -> int:
    """The length as the strictest services count it, by another way than that of the code."""
    return len(text.encode("utf-16-le")) // 2


def texts_in(body: Any) -> list[str]:
    """Every text in a JSON value, names too."""
    if isinstance(body, dict):
        return [*body, *(text for value in body.values() for text in texts_in(value))]
    if isinstance(body, list):
        return [text for value in body for text in texts_in(value)]
    return [body] if isinstance(body, str) else []


def loaded(directory: Path, type_: str, *lines: str) -> ActionSettings:
    """The settings of an action as a file gives them. Raises ConfigError."""
    path = directory / "tua.yaml"
    rule = "{name: hot, topic: products, key: product.name, count: {at_least: 20, within: 5s}, actions: [chat]}"
    text = "\n    ".join((f"rules: [{rule}]\nactions:\n  chat:", f"type: {type_}", *lines))
    path.write_text(text + "\n", encoding="utf-8")
    return load(path, ACTION_TYPES).actions["chat"]


def foreign_marks(texts: list[str]) -> set[str]:
    """What of CONTROL and DIRECTION is in the texts; line ends are the channel's own."""
    return set("".join(texts)) & (set(CONTROL + DIRECTION) - set("[31m\n"))


def mistake_in(directory: Path, type_: str, *lines: str) -> str:
    """The one mistake that a file has with an action of these settings."""
    with pytest.raises(ConfigError) as raised:
        loaded(directory, type_, *lines)
    (problem,) = raised.value.problems
    return str(problem)
