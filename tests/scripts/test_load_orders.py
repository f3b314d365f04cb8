"""scripts/load_orders.py as a person runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from actions.registry import ACTION_TYPES
from detection.times import iso
from scripts.load_orders import PRODUCTS, Order, expected, make_orders, send
from scripts.stack import embedded_broker
from settings import load as load_settings
from tests.support.cluster import Cluster
from tests.support.intake import Intake, configuration
from tests.support.receivers import free_port

ROOT = Path(__file__).parents[2]
RULE = {"name": "hot", "topic": "products", "key": "product.name", "count": {"at_least": 20, "within": "5s"}}


def load(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/load_orders.py"), *arguments], cwd=ROOT, env={**os.environ, **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def config(directory: Path, *rules: dict[str, Any], **topic: Any) -> str:
    path = directory / "tua.yaml"
    topics = {rule["topic"]: topic for rule in rules}
    path.write_text(json.dumps({"topics": topics, "rules": rules}), encoding="utf-8")
    return str(path)


def test_without_kafka_it_says_so_in_one_line() -> None:
    servers = f"127.0.0.1:{free_port()}"
    answer = load(TUA_BOOTSTRAP_SERVERS=servers)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert len(answer.stderr.splitlines()) == 1
    assert answer.stderr.startswith("no connection to Kafka")
    assert servers in answer.stderr


@pytest.mark.kafka
def test_a_topic_that_is_not_there_yet_is_said(kafka: Cluster, tmp_path: Path) -> None:
    path = config(tmp_path, RULE | {"topic": "of-tomorrow"})
    answer = load("--config", path, TUA_BOOTSTRAP_SERVERS=kafka.bootstrap)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith("Kafka has no topic 'of-tomorrow' yet")


@pytest.mark.kafka
def test_the_bar_counts_what_kafka_has(kafka: Cluster, tmp_path: Path) -> None:
    kafka.create_topic("load-orders", partitions=2)
    path = config(tmp_path, RULE | {"topic": "load-orders"})
    answer = load("--config", path, "--rate", "1000", TUA_BOOTSTRAP_SERVERS=kafka.bootstrap)
    assert answer.returncode == 0, answer.stderr
    assert "100%" in answer.stderr
    assert "must follow by rule hot" in answer.stdout
    assert len(kafka.read_all("load-orders")) == len(make_orders(100, PRODUCTS, 34, 1000, 0))


@pytest.mark.parametrize("url", [f"http://127.0.0.1:{free_port()}", "127.0.0.1"])
def test_without_an_intake_it_says_so(url: str) -> None:
    answer = load("--http", url)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.splitlines()[-1].startswith("no intake at this URL")


@pytest.mark.kafka
def test_by_http_each_order_lies_on_the_topic_at_the_time_that_the_truth_is_made_of(
    kafka: Cluster, tmp_path: Path
) -> None:
    settings = configuration("by-http", api_keys={"shop": {"env": "SHOP_KEY"}}, rate_limit={"events": 50, "per": "1s"})
    kafka.create_topic("by-http", partitions=2)
    server = Intake(tmp_path, settings, kafka.bootstrap, SHOP_KEY="secret").start()
    try:
        arguments = ("--config", str(server.config_path), "--http", server.url, "--rate", "500")
        refused = load(*arguments)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "401" in refused.stderr
        answer = load(*arguments, TUA_INTAKE_KEY="secret")
        assert answer.returncode == 0, answer.stderr
    finally:
        server.close()
    sent = make_orders(100, PRODUCTS, 34, 500, 0)
    lying = kafka.read_all("by-http")
    assert sorted(message.value() or b"" for message in lying) == sorted(order.value for order in sent)
    names = {order.value: order.name for order in sent}
    orders = [Order(m.timestamp()[1], names[m.value() or b""], b"", b"") for m in lying]
    orders.sort(key=lambda order: order.timestamp_ms)
    found = expected(orders, load_settings(server.config_path, ACTION_TYPES).rules[0])
    assert any(found.values())
    for rows in found.values():
        for row in rows:
            assert iso(row.opened_at_ms)[11:-1] in answer.stdout


@pytest.mark.parametrize("name", ["", "nowhere/orders.jsonl"])
def test_a_file_that_cannot_be_written_is_said(name: str, tmp_path: Path) -> None:
    answer = load("--write", str(tmp_path / name))
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith(f"{tmp_path / name} can't be written: ")
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"key": "user_id"},
        {"key": ["product.name", "user_id"]},
        {"where": {"action": "delete"}},
        {"where": {"action": "add", "country": "NZ"}},
    ],
    ids=str,
)
def test_the_first_rule_that_is_about_the_orders_counts(other: dict[str, Any], tmp_path: Path) -> None:
    write = ("--write", str(tmp_path / "orders.jsonl"))
    alien = RULE | {"name": "alien"} | other
    both = load(*write, "--config", config(tmp_path, alien, RULE | {"where": {"action": ["add", "buy"]}}))
    assert both.returncode == 0, both.stderr
    assert "must follow by rule hot" in both.stdout
    alone = load(*write, "--config", config(tmp_path, alien))
    assert (alone.returncode, alone.stdout) == (1, "")
    assert "no rule is about these orders" in alone.stderr


def test_a_topic_whose_times_are_in_a_field_has_no_rule_about_the_orders(tmp_path: Path) -> None:
    path = config(tmp_path, RULE, event_time={"field": "occurred_at", "unit": "iso"})
    answer = load("--write", str(tmp_path / "orders.jsonl"), "--config", path)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert not (tmp_path / "orders.jsonl").exists()


def test_the_same_seed_gives_the_same_orders() -> None:
    first, again, other = (make_orders(50, PRODUCTS, seed, 10, 0) for seed in (1, 1, 2))
    assert first == again != other
    assert sum(order.name is not None for order in first) == 50
    assert any(order.name is None for order in make_orders(100, PRODUCTS, 34, 10, 0)), "deletes are among them"


def test_ctrl_c_within_a_delivery_report_is_not_lost() -> None:
    def interrupted(_message: object) -> None:
        signal.raise_signal(signal.SIGINT)

    owner, brokers = embedded_broker()
    with pytest.raises(KeyboardInterrupt):
        send(make_orders(3, PRODUCTS, 34, 15.0, 0), Producer({"bootstrap.servers": brokers}), "products", interrupted)
    del owner
