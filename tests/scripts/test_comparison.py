"""What the demo compares: alerts as they come from records out of order, with the episodes found by brute force."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from actions.alert import Alert, Evidence
from actions.message import message_of
from detection.count import CountEvaluator
from detection.rows import Rows
from detection.transitions import Transition
from scripts.comparison import channels, mailed, must_tell, told
from scripts.load_orders import PRODUCTS, Order, expected, make_orders
from settings import Settings
from tests.support.delivering import action, email_action, settings

ALWAYS = 10**15


@pytest.fixture
def shop(tmp_path: Path) -> Settings:
    return settings(tmp_path, {"log": action("log")})


def transitions(orders: list[Order], shop: Settings, seed: int) -> list[Transition]:
    """What detection tells when it reads four partitions by turns, a few records of one at a time."""
    evaluator = CountEvaluator(shop.detection_rules()[0])
    partitions = [[order for order in orders[n::4] if order.name is not None] for n in range(4)]
    out: list[Transition] = []
    turns = random.Random(seed)
    while any(partitions):
        number = turns.randrange(4)
        batch, partitions[number] = partitions[number][:3], partitions[number][3:]
        if batch:
            evaluator.add(Rows.of([(order.name, order.timestamp_ms, int(order.key)) for order in batch], number), out)
    evaluator.advance(0, ALWAYS, 0, out)
    return out


def as_alert(t: Transition) -> Alert:
    return Alert(
        id=t.alert_id, sequence=t.sequence, rule=t.rule, rule_version=t.rule_version, severity="warning",
        status=t.status, key={"product.name": t.key[0]}, peak=t.peak, peak_exact=t.peak_exact, events=t.events,
        threshold=20, window_ms=5_000, opened_at=t.opened_at_ms, resolves_at=t.resolves_at_ms, message="",
        evidence=Evidence(topic="products", partition=0, offset=0, timestamp=0), merged_into=t.merged_into,
    )  # fmt: skip


def as_json(found: list[Transition]) -> list[dict[str, Any]]:
    return [json.loads(as_alert(transition).to_json()) for transition in found]


@pytest.mark.parametrize("seed", [1, 2, 34])
def test_alerts_that_were_merged_into_another_are_no_episodes(seed: int, shop: Settings) -> None:
    rule = shop.rules[0]
    orders = make_orders(200, PRODUCTS, seed, 15, 0)
    found = [item for item in transitions(orders, shop, seed) if item.status != "updated"]
    assert any(item.merged_into for item in found), "the test shows nothing"
    alerts, subjects = as_json(found), [message_of(as_alert(item)).title for item in found]
    for product, episodes in expected(orders, rule).items():
        assert told(alerts, rule, product) == must_tell(episodes, "webhook", 1)
        assert mailed(subjects, rule, product) == must_tell(episodes, "email", 1)


def test_an_alert_that_is_missing_or_told_twice_is_seen(shop: Settings) -> None:
    rule = shop.rules[0]
    orders = make_orders(200, PRODUCTS, 34, 15, 0)
    alerts = as_json(transitions(orders, shop, 34))
    must = must_tell(expected(orders, rule)["Nokia"], "log", 1)
    nokia = [alert for alert in alerts if alert["key"]["product.name"] == "Nokia" and alert["status"] == "resolved"]
    assert told(alerts, rule, "Nokia") == must
    assert told([*alerts, nokia[-1]], rule, "Nokia") != must
    assert told([alert for alert in alerts if alert is not nokia[-1]], rule, "Nokia") != must


def test_alerts_of_another_rule_are_not_looked_at(shop: Settings) -> None:
    alert = {"id": "a", "rule": "cold", "status": "opened", "key": {"user_id": 7}}
    assert told([alert], shop.rules[0], "Nokia") == (0, [])


@pytest.mark.parametrize(
    ("actions", "found"),
    [
        pytest.param({"log": action("log")}, {"log": 1}, id="the log alone"),
        pytest.param({"one": email_action(25), "two": email_action(26, to=("b@x.com", "c@x.com"))}, {"email": 3}),
        pytest.param({"log": action("log", send=("opened",))}, {}, id="told of the openings only"),
    ],
)
def test_only_channels_that_the_rule_names_are_expected(
    actions: dict[str, Any], found: dict[str, int], tmp_path: Path
) -> None:
    there = settings(tmp_path, actions)
    assert channels(there, there.rules[0]) == found
