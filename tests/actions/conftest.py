"""Fixtures of the delivery tests: servers that run, and a dispatcher that is closed whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actions.delivery.dispatcher import Dispatcher
from settings import Settings
from settings.actions import ActionSettings
from tests.support import delivering
from tests.support.delivering import Broker
from tests.support.receivers import HttpReceiver, MailReceiver


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def web() -> Iterator[HttpReceiver]:
    with HttpReceiver() as receiver:
        yield receiver


@pytest.fixture
def mail() -> Iterator[MailReceiver]:
    with MailReceiver() as receiver:
        yield receiver


class Running:
    """A dispatcher with what it was made of; `restart` closes it and opens another on the same state."""

    def __init__(self, settings: Settings, broker: Broker, now_ms: Callable[[], int]) -> None:
        self.settings, self._broker, self._now_ms = settings, broker, now_ms
        self.dispatcher = Dispatcher(settings, broker.publish, now_ms=now_ms)

    def restart(self, settings: Settings | None = None) -> None:
        self.dispatcher.close(1_000)
        self.settings = settings or self.settings
        self.dispatcher = Dispatcher(self.settings, self._broker.publish, now_ms=self._now_ms)


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path, broker: Broker) -> Iterator[Start]:
    """`start({name: action settings}, **rule)` runs a dispatcher with a rule `hot` that names these actions."""
    running: list[Running] = []

    def begin(
        actions: dict[str, ActionSettings], /, now_ms: Callable[[], int] = delivering.clock_ms, **rule: object
    ) -> Running:
        running.append(Running(delivering.settings(tmp_path / "state", actions, **rule), broker, now_ms))
        return running[-1]

    yield begin
    for one in running:
        one.dispatcher.close(0)
