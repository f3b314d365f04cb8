"""What the kit's tests are made with: an action in its surroundings, alerts and their lives."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest

from actions.alert import Alert, Evidence
from actions.base import Action, Context, Delivery, Outcome, delivery_id
from actions.delivery.dispatcher import Dispatcher
from actions.registry import ACTION_TYPES
from detection.rules import Scalar
from detection.transitions import Source, Transition
from settings import Settings, load
from settings.actions import Status
from settings.secrets import Secret
from tua.plugin.target import Target

TargetT = TypeVar("TargetT", bound=Target)

NAME = "kit"
ATTEMPT_S = 30.0
TEST_S = 60.0
BLOCKED_S = 5.0
_STEPS = ("kitstepone", "kitsteptwo", "kitstepthree")
_LIFE: tuple[Status, ...] = ("opened", "updated", "resolved")
_OPENED_AT_MS = 1_769_853_603_120


class Rig:
    """An action of a class, as the job would run it, in a directory of the test's own.

    `settings` are those of the target in use; `published` is what was written to Kafka, the job's own topics too.
    """

    def __init__(self, action_class: type[Action[Any]], directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.published: list[tuple[str, bytes, bytes]] = []
        self.settings: Settings
        self._class, self._directory, self._monkeypatch = action_class, directory, monkeypatch
        self._target: Target
        self._numbers = count(1)

    @contextmanager
    def using(self, target: TargetT) -> Iterator[TargetT]:
        """The target running, its secrets in the environment, the action's class known as its type."""
        with target, ACTION_TYPES.lent(self._class), self._monkeypatch.context() as environment:
            for name, value in target.environment.items():
                environment.setenv(name, value)
            self._target = target
            self.settings = self._load(target.settings(), "1h")
            yield target

    def action(self) -> Action[Any]:
        """A new action for the target in use."""
        action = self._class(NAME, self.settings.actions[NAME], Context(_now_ms, self._publish))
        recipients = action.recipients()
        assert len(recipients) == 1, f"settings() of the target must lead to one recipient, not to {recipients}"
        return action

    def alert(self, name: str, message: str | None = None) -> Alert:
        """The opening of an alert about a product of that name."""
        number = next(self._numbers)
        return Alert(
            id=f"kitalert{number}",
            sequence=1,
            rule="hot-product",
            rule_version="v1",
            severity="warning",
            status="opened",
            key={"product.name": name},
            peak=20,
            peak_exact=True,
            events=20,
            threshold=20,
            window_ms=5_000,
            opened_at=_OPENED_AT_MS,
            resolves_at=_OPENED_AT_MS + 4_360,
            message=f"Product '{name}' was ordered 20 times within 5 seconds" if message is None else message,
            evidence=Evidence(topic="products", partition=1, offset=590, timestamp=_OPENED_AT_MS),
        )

    def delivery(self, action: Action[Any], alert: Alert) -> Delivery:
        """Its first attempt."""
        (recipient,) = action.recipients()
        try:
            body = alert.to_json()
        except ValueError:
            # Half a surrogate pair, which JSON cannot hold. Intake rejects such records, but `told` is what an
            # action reads, and it must not lean on what stands far away from it.
            told = {"key": {path: _sound(value) for path, value in alert.key.items()}, "message": _sound(alert.message)}
            body = alert.model_copy(update=told).to_json()
        id_ = delivery_id(alert.id, alert.sequence, NAME, recipient)
        delivery = Delivery(id_, alert.id, alert.sequence, NAME, recipient, body, alert.opened_at + 500)
        vars(delivery)["told"] = alert
        return delivery

    def attempts(self, *alerts: Alert) -> list[Outcome | BaseException]:
        """What deliver returns or raises for each of the alerts, one after the other."""

        async def work(action: Action[Any]) -> list[Outcome | BaseException]:
            return [await self.attempt(action, self.delivery(action, alert)) for alert in alerts]

        results: list[Outcome | BaseException] = self.run(work)
        return results

    async def attempt(self, action: Action[Any], delivery: Delivery) -> Outcome | BaseException:
        """What deliver returns or raises, within its time."""
        try:
            async with asyncio.timeout(min(action.time_limit_s, ATTEMPT_S)):
                return await action.deliver(delivery)
        except Exception as error:  # noqa: BLE001 - the sender takes whatever it is, too
            return error

    def run(self, work: Callable[[Action[Any]], Coroutine[Any, Any, Any]]) -> Any:
        """The outcome of work with a new action, in an event loop and a thread of its own.

        So that an action that blocks the loop can be told from one that waits. Fails the test when it does, and
        where the work comes to no end.
        """
        result: Future[Any] = Future()
        beat = time.monotonic()

        async def tick() -> None:
            nonlocal beat
            while True:
                beat = time.monotonic()
                await asyncio.sleep(0.1)

        async def main() -> Any:
            ticking = asyncio.create_task(tick())
            action = self.action()
            try:
                return await work(action)
            finally:
                await action.close()
                ticking.cancel()

        def in_thread() -> None:
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(_say_shortly)
            try:
                result.set_result(loop.run_until_complete(main()))
            except BaseException as error:  # noqa: BLE001 - it is the test's
                result.set_exception(error)
            finally:
                _end(loop)

        threading.Thread(target=in_thread, name="kit", daemon=True).start()
        until = time.monotonic() + TEST_S
        while not wait({result}, 0.2).done:
            now = time.monotonic()
            if now - beat > BLOCKED_S:
                pytest.fail(
                    f"deliver blocks the event loop (for {BLOCKED_S:g} s now), so that no other action can send: await"
                    " what takes time, or do it in a thread, as by asyncio.to_thread"
                )
            if now > until:
                pytest.fail(f"this came to no end within {TEST_S:g} s")
        return result.result()

    def names(self, number: int) -> list[str]:
        """The products of `lives(number)`, also the ids of their alerts."""
        return [f"kitlife{n:02}" for n in range(number)]

    def lives(self, number: int) -> list[Transition]:
        """Alerts that are opened, updated and resolved."""
        return [
            Transition(
                alert_id=name,
                sequence=sequence,
                rule="hot",
                rule_version=self.settings.detection_rules()[0].version,
                status=status,
                key=(name,),
                peak=20 + sequence,
                peak_exact=True,
                events=20 + sequence,
                opened_at_ms=_OPENED_AT_MS,
                resolves_at_ms=_OPENED_AT_MS + 4_000,
                source=Source("products", 1, 590, _OPENED_AT_MS),
            )
            for sequence, status in enumerate(_LIFE, 1)
            for name in self.names(number)
        ]

    def step(self, text: str) -> int:
        """1, 2 or 3: what a message tells of a life; some channels end an alert by its id alone."""
        return next((n for n, step in enumerate(_STEPS[:2], 1) if step in text), 3)

    def dispatch(self, target: Target, transitions: Sequence[Transition], give_up: str) -> None:
        """Put transitions into a new outbox, and return when all of them were delivered or given up."""
        self.settings = self._load(target.settings(), give_up)
        dispatcher = Dispatcher(self.settings, self._publish, now_ms=_now_ms)
        try:
            dispatcher.put(transitions)
            until = time.monotonic() + TEST_S
            while dispatcher.pending():
                if time.monotonic() > until:
                    pytest.fail(f"{dispatcher.pending()} deliveries came to no end within {TEST_S:g} s")
                time.sleep(0.01)
        finally:
            # An action that blocks its thread must not hold up the tests too.
            closing = threading.Thread(target=dispatcher.close, args=(1_000,), daemon=True)
            closing.start()
            closing.join(10)

    def stored(self) -> list[Path]:
        """All files that outboxes left."""
        return [file for file in self._directory.glob("state-*/**/*") if file.is_file()]

    async def _publish(self, topic: str, key: bytes, value: bytes) -> None:
        self.published.append((topic, key, value))
        if not topic.startswith("tua."):
            await self._target.publish(topic, key, value)

    def _load(self, action: Mapping[str, object], give_up: str) -> Settings:
        number = next(self._numbers)
        rule = {
            "name": "hot",
            "topic": "products",
            "key": ["product.name"],
            "count": {"at_least": 20, "within": "5s"},
            # No signs in them but letters, which no channel has to escape.
            "message": f"{{{{ key['product.name'] }}}} {{{{ '{_STEPS[0]}' if count == 21 else '{_STEPS[1]}' }}}}",
            "resolved_message": f"{{{{ key['product.name'] }}}} {_STEPS[2]}",
            "actions": [NAME],
        }
        common = {"type": _type_of(self._class), "send": ["opened", "updated", "resolved"]}
        retry = {"delays": ["1ms", "5ms"], "give_up": give_up}
        document = {
            "rules": [rule],
            "actions": {NAME: {**common, **action, "retry": retry}},
            "state": {"directory": str(self._directory / f"state-{number}")},
        }
        path = self._directory / f"tua-{number}.yaml"
        path.write_text(json.dumps(document, default=_plain), encoding="utf-8")  # JSON is YAML
        return load(path, ACTION_TYPES)


def _say_shortly(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Called while garbage is collected, at any moment, also while pytest parses a source. To show the exception's
    # traceback would parse others within that, which breaks Python 3.11.
    logging.getLogger("asyncio").error("%s: %r", context["message"], context.get("exception"))


_LEFT: list[tuple[asyncio.AbstractEventLoop, set[asyncio.Task[Any]]]] = []


def _end(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=1))
    if left := {task for task in tasks if not task.done()}:
        # Kept, for a task that is collected before it is done complains, in the middle of some other test.
        _LEFT.append((loop, left))
    else:
        loop.close()


def _type_of(action_class: type[Action[Any]]) -> str:
    return str(action_class.settings_type.model_fields["type"].default)


def _sound(value: Scalar) -> Scalar:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _plain(value: object) -> object:
    if isinstance(value, Secret) and value.default is None:
        return {"env": value.env} if value.file is None else {"file": str(value.file)}
    raise TypeError(f"{value!r} cannot stand in tua.yaml")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
