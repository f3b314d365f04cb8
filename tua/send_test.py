"""`tua send-test`: one marked test alert through the real channel of an action, and what the other side answered."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Annotated

import typer

from actions.alert import Alert, Evidence
from actions.base import Action, ActionError, Context, Delivered, Delivery, Outcome, Refused, Retry, delivery_id
from actions.delivery.attempt import answer_of, attempt
from actions.delivery.loop import DeliveryLoop
from actions.registry import create
from actions.text import escaped
from connectors.client import PropertyError, check_properties
from connectors.publisher import Publisher
from dataflows.logs import configure_logs
from settings import KafkaSettings, SecretError, Settings, config_path
from settings.actions import ActionSettings
from settings.problems import did_you_mean
from tua.configuration import ConfigOption, load_or_exit

_WORDS = {Delivered: "delivered", Retry: "failed; the job would try it again", Refused: "refused for good"}


def send_test(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="The name of an action of the configuration.")],
    config: ConfigOption = None,
) -> None:
    """Send one marked test alert to every recipient of an action, and say what was answered.

    Goes the real way, whether the job runs or not, and whatever `send`, quiet hours and floods say. Exit code 0 when
    everybody has it, else 1.
    """
    settings = load_or_exit(config_path(config))
    if action not in settings.actions:
        message = f"there is no action '{action}' below `actions:` ({did_you_mean(action, settings.actions)})"
        raise typer.BadParameter(message, param_hint="ACTION")
    configure_logs()
    try:
        with asyncio.Runner(loop_factory=DeliveryLoop) as runner:
            arrived = runner.run(_send(settings, action))
    except ActionError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    if not arrived:
        raise typer.Exit(1)


def marked_alert(settings: Settings, action: str, now_ms: int) -> Alert:
    """An alert that says that it is a test.

    It looks like those of the first rule that names the action: templates may need that rule's key.
    """
    rule = next((rule for rule in settings.rules if action in rule.actions), settings.rules[0])
    return Alert(
        id=uuid.uuid4().hex,  # another each time, so that no receiver takes it for a repetition
        sequence=1,
        rule="test",
        rule_version="test",
        severity="info",
        status="opened",
        key=dict.fromkeys(rule.key, "test"),
        peak=rule.count.threshold,
        peak_exact=True,
        events=rule.count.threshold,
        threshold=rule.count.threshold,
        window_ms=rule.count.window_ms,
        opened_at=now_ms,
        resolves_at=now_ms + rule.count.window_ms,
        message=f"This is a test of the action '{action}', sent by tua send-test. Nothing happened.",
        evidence=Evidence(topic=rule.topic, partition=0, offset=0, timestamp=now_ms),
        test=True,
    )


async def _send(settings: Settings, name: str) -> bool:
    """Whether every recipient has it. Raises ActionError."""
    kafka = _Kafka(settings.kafka)
    action = create(name, settings.actions[name], Context(_now_ms, kafka.publish))
    try:
        return await _send_to_all(action, marked_alert(settings, name, _now_ms()))
    finally:
        await action.close()
        kafka.close()


async def _send_to_all(action: Action[ActionSettings], alert: Alert) -> bool:
    recipients = action.recipients()
    if not recipients:
        raise ActionError(f"action {action.name}: it has no recipients")
    limit = f"at most {action.time_limit_s:g} s for each answer"
    typer.echo(f"{action.name}: sending a test alert to {', '.join(map(escaped, recipients))}; {limit} …", err=True)
    places = asyncio.Semaphore(action.concurrency)

    async def send_to(recipient: str) -> Outcome:
        id_ = delivery_id(alert.id, alert.sequence, action.name, recipient)
        delivery = Delivery(id_, alert.id, alert.sequence, action.name, recipient, alert.to_json(), _now_ms())
        async with places:
            return await attempt(action, delivery)

    attempts = [asyncio.create_task(send_to(recipient)) for recipient in recipients]
    arrived = []
    for recipient, task in zip(recipients, attempts, strict=True):
        outcome = await task
        parts = (escaped(recipient), _WORDS[type(outcome)], answer_of(action, outcome))
        typer.echo(": ".join(filter(None, parts)))
        arrived.append(isinstance(outcome, Delivered))
    return all(arrived)


class _Kafka:
    """The brokers, for the actions that write to them; connected to when the first one does."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._publisher: Publisher | None = None

    async def publish(self, topic: str, key: bytes, value: bytes) -> None:
        """As Publisher.publish. Raises ActionError where `kafka.properties` are of no use."""
        if self._publisher is None:
            try:
                check_properties(self._settings)
            except (PropertyError, SecretError) as error:
                raise ActionError(str(error)) from None
            self._publisher = Publisher(self._settings)
        await self._publisher.publish(topic, key, value)

    def close(self) -> None:
        if self._publisher is not None:
            self._publisher.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
