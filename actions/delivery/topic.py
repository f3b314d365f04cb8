"""The job's own deliveries: every transition to the alerts topic, every dead letter to the dead-letters topic.

They go through the outbox like any other delivery, and never give up: what they wait for is the broker that
the job cannot work without anyway.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ClassVar, Literal

from actions.base import Action, Delivered, Delivery, Outcome
from settings.actions import ActionSettings, RetrySettings, Status

Publish = Callable[[str, bytes, bytes], Awaitable[None]]
"""Writes (topic, key, value), and returns when the broker has it. Whatever it raises leads to a retry."""

ALERTS = "tua.alerts"  # names of actions, reserved; the topics' names depend on the prefix


class TopicSettings(ActionSettings):
    """Not for the configuration: made by the dispatcher. `topic` is the full name."""

    type: Literal["topic"] = "topic"
    topic: str
    send: tuple[Status, ...] = ("opened", "updated", "resolved")
    retry: RetrySettings = RetrySettings(delays=(0, 1_000, 5_000, 30_000))


class TopicAction(Action[TopicSettings]):
    """Publishes the body of a delivery as it is, keyed by the alert's id."""

    settings_type = TopicSettings
    concurrency: ClassVar[int] = 256
    gives_up: ClassVar[bool] = False

    def __init__(self, name: str, settings: TopicSettings, publish: Publish) -> None:
        super().__init__(name, settings)
        self._publish = publish

    def recipients(self) -> tuple[str, ...]:
        return (self.settings.topic,)

    async def deliver(self, delivery: Delivery) -> Outcome:
        await self._publish(self.settings.topic, delivery.alert_id.encode(), delivery.body)
        return Delivered()
