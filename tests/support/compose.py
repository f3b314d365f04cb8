"""docker-compose.yml, read as Compose does: merge keys resolved, variables of the shell not set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tua.cli import app

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(
    re.sub(r"\$\{\w+:-(\w*)\}", r"\1", FILE.read_text(encoding="utf-8"))  # the one form that the file uses
)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
KAFKA = {name: one for name, one in SERVICES.items() if one["image"].startswith("apache/kafka:")}
TUA = {name: one for name, one in SERVICES.items() if one["image"].startswith("tua:")}
COMMANDS = {one.name or one.callback.__name__ for one in app.registered_commands if one.callback is not None}


def environment(service: str) -> dict[str, str]:
    """A service's variables as the container has them."""
    variables = SERVICES[service].get("environment", {})
    return {name: "" if value is None else str(value) for name, value in variables.items()}


def published(service: str) -> dict[str, tuple[str, str]]:
    """By the port of this machine: the address that it is bound to, and the container's port."""
    ports = (text.split(":") for text in SERVICES[service].get("ports", ()))
    return {port: (address, target) for address, port, target in ports}


def mounts(service: str) -> dict[str, str]:
    """By the place in the container: what is there, a volume's name or a path of this machine."""
    return {parts[1]: parts[0] for parts in (text.split(":") for text in SERVICES[service].get("volumes", ()))}
