"""Shared by the tests of delivery: settings in Python, transitions of a life, a Kafka that is a list."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from actions.alert import Alert
from actions.base import Context, Delivery, delivery_id
from actions.registry import ACTION_TYPES
from detection.transitions import Source, Transition
from settings import DeliverySettings, RetrySettings, Settings
from settings.actions import ActionSettings

QUICK = RetrySettings(delays=(0, 30, 60), give_up=60_000)
"""Delays so short that a test sees several attempts."""


def clock_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


class Broker:
    """What was published, as (topic, key, value). Publishing raises while `down`."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes, dict[str, Any]]] = []
        self.down = False
        self.attempts = 0

    async def publish(self, topic: str, key: bytes, value: bytes) -> None:
        self.attempts += 1
        if self.down:
            raise ConnectionError("no broker")
        self.messages.append((topic, key, json.loads(value)))

    def on(self, topic: str) -> list[dict[str, Any]]:
        """The values on a topic, in order."""
        return [value for name, _, value in self.messages if name == topic]


def context(now_ms: Callable[[], int] = clock_ms) -> Context:
    """What an action gets from the job, with a Kafka that is a list."""
    return Context(now_ms, Broker().publish)


def delivery(alert: Alert, action: str = "action", recipient: str = "there") -> Delivery:
    """One transition on its way, made half a second after 10:00:03 of 2026-01-31."""
    id_ = delivery_id(alert.id, alert.sequence, action, recipient)
    return Delivery(id_, alert.id, alert.sequence, action, recipient, alert.to_json(), 1_769_853_603_500)


def action(type_: str, **more: Any) -> ActionSettings:
    """Settings of an action as tua.yaml would give them; retries are quick unless `retry` says otherwise."""
    return ACTION_TYPES[type_].model_validate({"type": type_, "retry": QUICK, **more})


def email_action(port: int, **more: Any) -> ActionSettings:
    """An e-mail action for a receiver on this host."""
    to = {"from": "alerts@example.com", "to": ("a@example.com",)}
    base = {"host": "127.0.0.1", "port": port, "tls": "none", "flood": None, **to}
    return action("email", **{**base, **more})


def settings(
    directory: Path, actions: dict[str, ActionSettings], /, delivery: DeliverySettings | None = None, **rule: Any
) -> Settings:
    """One rule, `hot` (20 within 5 s of product.name), that names all the actions."""
    return Settings.model_validate(
        {
            "topics": {"products": {}},
            "rules": (
                {
                    "name": "hot",
                    "topic": "products",
                    "key": ("product.name",),
                    "count": {"at_least": 20, "within": 5_000},
                    "message": "Product '{{ key['product.name'] }}' was ordered {{ count }} times within {{ window }}",
                    "actions": tuple(actions),
                    **rule,
                },
            ),
            "actions": actions,
            "delivery": delivery or DeliverySettings(),
            "state": {"directory": directory},
        }
    )


def opened(settings: Settings, alert: str = "a1", key: str = "Nokia", start_ms: int = 100_000) -> Transition:
    """The opening of an alert of the rule `hot`; every `key` is an alert of its own."""
    return Transition(
        alert_id=alert,
        sequence=1,
        rule="hot",
        rule_version=settings.detection_rules()[0].version,
        status="opened",
        key=(key,),
        peak=20,
        peak_exact=True,
        events=20,
        opened_at_ms=start_ms,
        resolves_at_ms=start_ms + 4_000,
        source=Source("products", 1, 590, start_ms),
    )


def resolved(opening: Transition) -> Transition:
    """The end of an alert, with more known of it."""
    end_ms = opening.opened_at_ms + 60_000
    return replace(opening, sequence=2, status="resolved", peak=26, events=31, resolves_at_ms=end_ms)


def rows(directory: Path) -> list[dict[str, Any]]:
    """All deliveries in the outbox of a state directory, in the order they were put."""
    db = sqlite3.connect(directory / "outbox.sqlite")
    try:
        cursor = db.execute("SELECT * FROM deliveries ORDER BY number")
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    finally:
        db.close()
