"""The kafka action: the alert's JSON, keyed by the alert's id, to a topic of the user's on the job's own brokers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from confluent_kafka import KafkaError, KafkaException

from actions.base import Delivered, Delivery, Outcome, Refused, Retry, Tell, TogetherAction
from settings.actions import ActionSettings
from settings.fields import TopicName

_FOR_GOOD = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.INVALID_RECORD})


class KafkaSettings(ActionSettings):
    """`topic` must be there already, unless the brokers make it when they are asked for it."""

    type: Literal["kafka"] = "kafka"
    topic: TopicName

    def writes_to(self) -> str:
        return self.topic


class KafkaAction(TogetherAction[KafkaSettings]):
    """Acknowledged by all replicas in sync before it counts as delivered."""

    settings_type = KafkaSettings
    concurrency = 256

    def recipients(self) -> tuple[str, ...]:
        return (self.settings.topic,)

    async def deliver_all(self, deliveries: Sequence[Delivery], tell: Tell) -> None:
        publish, topic = self.context.publish, self.settings.topic
        sent: dict[asyncio.Future[None], Delivery] = {}
        for delivery in deliveries:
            sent[asyncio.ensure_future(publish(topic, delivery.alert_id.encode(), delivery.body))] = delivery
        waiting = set(sent)
        failures: list[BaseException] = []
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for future in done:
                    error = asyncio.CancelledError() if future.cancelled() else future.exception()
                    if error is None or isinstance(error, KafkaException):
                        tell(sent[future], _outcome(error))
                    else:
                        failures.append(error)
        finally:
            for future in waiting:
                future.cancel()
        if failures:
            raise failures[0]


def _outcome(error: KafkaException | None) -> Outcome:
    if error is None:
        return Delivered("acknowledged")
    problem = error.args[0]
    if problem.code() in _FOR_GOOD:
        return Refused(problem.str())
    # So it is said of a topic that is not there, too.
    hint = "; are they and the topic there?" if problem.code() == KafkaError._MSG_TIMED_OUT else ""
    return Retry(f"the brokers have not taken it: {problem.str()}{hint}")
