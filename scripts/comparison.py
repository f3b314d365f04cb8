"""What each channel told of a product, beside the episodes that it must tell of. Pure: alerts and subjects in."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from scripts.ground_truth import Episode
from settings import RuleSettings, Settings

CHANNELS = ("log", "email", "webhook")

Told = tuple[int, list[tuple[int, int]] | int]
"""How many alerts opened, and (opened, resolves) of those that are over; of mails only how many are over."""


def channels(settings: Settings, rule: RuleSettings) -> Counter[str]:
    """The channels that the rule names, each with how often it is told. Only those that are told of both ends."""
    found: Counter[str] = Counter()
    for action in (settings.actions[name] for name in rule.actions):
        if action.type in CHANNELS and {"opened", "resolved"} <= set(action.send):
            found[action.type] += len(getattr(action, "to", ("one",)))
    return found


def must_tell(episodes: list[Episode], channel: str, copies: int) -> Told:
    """What a channel that is told `copies` times tells of a product with these episodes."""
    over = sorted([(row.opened_at_ms, row.resolves_at_ms) for row in episodes] * copies)
    return len(over), len(over) if channel == "email" else over


def told(alerts: list[dict[str, Any]], rule: RuleSettings, product: str) -> Told:
    """What alerts say of a product, without those that turned out to be part of another."""
    merged = {alert["id"] for alert in alerts if alert.get("merged_into")}
    mine = [
        alert
        for alert in alerts
        if alert["rule"] == rule.name and alert["key"]["product.name"] == product and alert["id"] not in merged
    ]
    over = [(_ms(alert["opened_at"]), _ms(alert["resolves_at"])) for alert in mine if alert["status"] == "resolved"]
    return sum(alert["status"] == "opened" for alert in mine), sorted(over)


def mailed(subjects: list[str], rule: RuleSettings, product: str) -> Told:
    """What the subjects of mails say of a product.

    One that says neither that an alert opened nor that it is over says that it turned out to be part of another.
    """
    about = Counter(subject for subject in subjects if f"] {rule.name}: {product}" in subject)
    opened, over = (about.pop(f"[{label}] {rule.name}: {product}", 0) for label in (rule.severity, "resolved"))
    return opened - about.total(), over


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
