"""docs/compose.md: what it names is in docker-compose.yml, at the addresses that it says."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from actions.registry import ACTION_TYPES
from settings import load
from tests.support.compose import ROOT, SERVICES, published

TEXT = (ROOT / "docs" / "compose.md").read_text(encoding="utf-8")
ROWS = [line.strip("|").split("|") for line in TEXT.splitlines() if line.startswith("| `")]
COMMANDS = [shlex.split(said, comments=True)[2:] for said in re.findall(r"docker compose [^`\n]+", TEXT)]


def test_the_table_has_each_service_at_its_ports() -> None:
    said: dict[str, set[str]] = {}
    for names, where, _ in ROWS:
        services, ports = re.findall(r"`([\w-]+)`", names), re.findall(r"localhost:(\d+)", where)
        assert len(services) == 1 or len(services) == len(ports)
        for number, service in enumerate(services):
            said[service] = set(ports) if len(services) == 1 else {ports[number]}
    assert said == {service: set(published(service)) for service in SERVICES}


def test_commands_name_services_that_are_there() -> None:
    named = {word for command in COMMANDS for word in command[1:] if not word.startswith("-")}
    assert named - SERVICES.keys() == {"tua", "deliveries", "check"}
    assert {command[0] for command in COMMANDS} == {"up", "logs", "restart", "run", "exec", "down", "stop"}


def test_it_takes_no_more_memory_than_it_says() -> None:
    units = {"m": 1, "g": 1024}
    most = sum(int(service["mem_limit"][:-1]) * units[service["mem_limit"][-1]] for service in SERVICES.values())
    found = re.search(r"([\d.]+) GB of memory at the most", TEXT)
    assert found is not None
    assert most / 1024 == pytest.approx(float(found[1]), abs=0.5)
    assert most / 1024 <= float(found[1])


def test_as_many_orders_are_posted_as_raise_an_alert() -> None:
    (rule,) = load(ROOT / "tua.yaml", ACTION_TYPES).rules
    times = re.search(r"seq (\d+)", TEXT)
    assert times is not None
    assert int(times[1]) == rule.count.threshold
    body = re.search(r"-d '(.+)'", TEXT)
    assert body is not None
    assert json.loads(body[1]).keys() == {"id", "name", "price"}
    assert f"http://localhost:{next(iter(published('intake')))}/api/products" in TEXT
