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

from scripts.load_orders import PRODUCTS, make_orders, send
from scripts.stack import embedded_broker
from tests.support.cluster import Cluster
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
