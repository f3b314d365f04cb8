"""The kafka action: what it writes to the job's own Kafka, and what the brokers' errors mean."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from typing import ClassVar

import pytest
from confluent_kafka import KafkaError, KafkaException
from pydantic import ValidationError

from actions.base import Context, Delivered, Refused, Retry
from actions.kafka import KafkaAction, KafkaSettings
from tests.actions.test_alert import ALERT
from tests.support.delivering import Broker, action, clock_ms, delivery
from tua.plugin.kit import ActionKit, Target

TOPIC = "shop.alerts"


class Topic(Target):
    """The job's producer, as the brokers see it."""

    def __init__(self) -> None:
        self._values: list[bytes] = []
        self._answers: deque[int | None] = deque()
        self._down = False

    def settings(self) -> Mapping[str, object]:
        return {"topic": TOPIC}

    def received(self) -> list[str]:
        return [value.decode() for value in self._values]

    def answer(self, code: int) -> None:
        self._answers.append(code)

    def hang(self) -> None:
        self._answers.append(None)

    def down(self) -> None:
        self._down = True

    async def publish(self, topic: str, key: bytes, value: bytes) -> None:
        assert (topic, key) == (TOPIC, json.loads(value)["id"].encode())
        if self._down:
            raise KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN))
        answer = self._answers.popleft() if self._answers else KafkaError.NO_ERROR
        if answer is None:
            await asyncio.Event().wait()
        elif answer != KafkaError.NO_ERROR:
            raise KafkaException(KafkaError(answer))
        elif len(value) > 1_000_000:  # message.max.bytes of librdkafka
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        else:
            self._values.append(value)


class TestKafkaKit(ActionKit):
    action_class = KafkaAction
    outcomes: ClassVar = {
        KafkaError.NO_ERROR: Delivered,
        **dict.fromkeys(
            (
                KafkaError._MSG_TIMED_OUT,
                KafkaError._TRANSPORT,
                KafkaError._QUEUE_FULL,
                KafkaError.UNKNOWN_TOPIC_OR_PART,
                KafkaError.NOT_LEADER_FOR_PARTITION,
                KafkaError.NOT_ENOUGH_REPLICAS,
                KafkaError.TOPIC_AUTHORIZATION_FAILED,
            ),
            Retry,
        ),
        **dict.fromkeys(
            (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.INVALID_RECORD),
            Refused,
        ),
    }

    def target(self) -> Target:
        return Topic()


async def test_the_topic_gets_the_json_of_the_alert_under_its_id() -> None:
    broker = Broker()
    settings = action("kafka", topic=TOPIC)
    kafka = KafkaAction("kafka", settings, Context(clock_ms, broker.publish))  # type: ignore[arg-type]
    assert kafka.recipients() == (TOPIC,)
    assert await kafka.deliver(delivery(ALERT, "kafka", TOPIC)) == Delivered("acknowledged")
    assert broker.messages == [(TOPIC, b"a1", json.loads(ALERT.to_json()))]


def test_a_name_that_no_topic_can_have_is_a_mistake() -> None:
    with pytest.raises(ValidationError, match="'shop alerts' cannot be the name of a topic"):
        action("kafka", topic="shop alerts")


def test_its_settings_name_the_topic_that_no_rule_may_read() -> None:
    assert KafkaSettings(topic=TOPIC).writes_to() == TOPIC


async def test_that_the_topic_may_not_be_there_is_said() -> None:
    async def publish(topic: str, key: bytes, value: bytes) -> None:
        raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT))

    action = KafkaAction("kafka", KafkaSettings(topic="shop.alerts"), Context(clock_ms, publish))
    outcome = await action.deliver(delivery(ALERT))
    assert isinstance(outcome, Retry)
    assert outcome.detail.endswith("are they and the topic there?")
