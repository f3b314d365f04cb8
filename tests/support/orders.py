"""Orders as shops send them, and alerts as they come back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from tests.support.job import Job
from tests.support.receivers import HttpReceiver

Record = tuple[int, int, bytes | None, bytes | None]


def order(name: str, number: int = 1, action: str = "add") -> bytes:
    return json.dumps({"product": {"id": str(number), "name": name, "price": 1.5}, "action": action}).encode()


def burst(name: str, start_ms: int, count: int = 20, *, partition: int = 0, every_ms: int = 10) -> list[Record]:
    """Orders of one product at equal distances."""
    return [(partition, start_ms + n * every_ms, b"k", order(name, n)) for n in range(count)]


def calm(at_ms: int, partitions: Iterable[int] = (0, 1)) -> list[Record]:
    """One order on every partition, to move event time on."""
    return [(partition, at_ms, b"k", order("calm")) for partition in partitions]


def ms(text: str) -> int:
    """Milliseconds since 1970 of a time in an alert."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def facts(alert: dict[str, Any]) -> tuple[str, int, int]:
    """(product, opened_at, resolves_at), as the oracle has them."""
    return alert["key"]["product.name"], ms(alert["opened_at"]), ms(alert["resolves_at"])


def logged(job: Job) -> list[dict[str, Any]]:
    """The alerts that the log action wrote, in order."""
    return [json.loads(line) for line in job.output().splitlines() if line.startswith("{")]


def received(hook: HttpReceiver) -> list[dict[str, Any]]:
    """The alerts that came to a webhook, in order."""
    return [json.loads(request.body)["data"] for request in hook.requests]


def final(alerts: Iterable[dict[str, Any]]) -> set[tuple[str, int, int]]:
    """The facts of the alerts that resolved and are not part of another."""
    return {facts(alert) for alert in alerts if alert["status"] == "resolved" and not alert.get("merged_into")}
