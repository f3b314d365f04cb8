"""The job's own deliveries: every transition to the alerts topic, every dead letter to the dead-letters topic.

They go through the outbox like any other delivery, and never give up: what they wait for is the broker that
the job cannot work without anyway.
"""

from __future__ import annotations

from typing import ClassVar

from actions.kafka import KafkaAction, KafkaSettings
from settings.actions import RetrySettings, Status

ALERTS = "tua.alerts"  # names of actions, reserved; the topics' names depend on the prefix
DEAD_LETTERS = "tua.dead-letters"


class OwnTopicSettings(KafkaSettings):
    """Made by the dispatcher, not by the configuration."""

    send: tuple[Status, ...] = ("opened", "updated", "resolved")
    retry: RetrySettings = RetrySettings(delays=(0, 1_000, 5_000, 30_000))


class OwnTopicAction(KafkaAction):
    """Publishes the body of a delivery as it is."""

    gives_up: ClassVar[bool] = False
