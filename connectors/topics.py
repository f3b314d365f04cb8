"""Topics at start: created where absent, compared with the settings where not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from connectors.client import Stopped
from settings import Settings

log = structlog.get_logger()

_DAY_MS = 86_400_000
_OWN_PARTITIONS = 1


class TopicError(Exception):
    """A topic can't be had as configured. The text says what to set."""


def ensure_topics(admin: AdminClient, settings: Settings, stopping: Callable[[], bool]) -> None:
    """Create the watched topics and the job's own where they are absent.

    Raises TopicError when the cluster will not, Stopped when asked to stop meanwhile.
    """
    cluster = admin.list_topics(timeout=10)
    brokers, there = len(cluster.brokers), cluster.topics
    embedded = _is_embedded(cluster)
    for new in _wanted(settings, brokers):
        existing = admin.list_topics(new.topic, timeout=10).topics[new.topic] if embedded else there.get(new.topic)
        if existing is None or not existing.partitions:
            _create(admin, new, brokers, stopping)
        elif new.topic in settings.topics and len(existing.partitions) != new.num_partitions:
            log.warning(
                "a topic has other partitions than tua.yaml says; all that it has are read",
                topic=new.topic,
                partitions=len(existing.partitions),
                configured=new.num_partitions,
            )


def topic_ids(admin: AdminClient, topics: list[str]) -> dict[str, str]:
    """The ids by which brokers tell a topic from one of the same name created later; {} where they have none."""
    if _is_embedded(admin.list_topics(timeout=10)):
        return {}
    try:
        found = admin.describe_topics(TopicCollection(topics), request_timeout=2)
        return {name: str(future.result().topic_id) for name, future in found.items()}
    except KafkaException as error:
        log.debug("topic ids can't be had", error=str(error))
        return {}


def _wanted(settings: Settings, brokers: int) -> list[NewTopic]:
    kafka = settings.kafka
    own_replication = kafka.replication_factor or min(brokers, 2)
    own = {
        kafka.alerts_topic: {"cleanup.policy": "compact,delete", "retention.ms": str(30 * _DAY_MS)},
        kafka.rejected_topic: {"retention.ms": str(7 * _DAY_MS)},
        kafka.dead_letters_topic: {"retention.ms": str(30 * _DAY_MS)},
    }
    return [
        *(
            NewTopic(name, topic.partitions, topic.replication_factor or min(brokers, 2))
            for name, topic in settings.topics.items()
        ),
        *(NewTopic(name, _OWN_PARTITIONS, own_replication, config=config) for name, config in own.items()),
    ]


def _create(admin: AdminClient, new: NewTopic, brokers: int, stopping: Callable[[], bool]) -> None:
    """Ask until it is there: a controller that is just being elected answers with a time-out."""
    given_up = time.monotonic() + 60
    while True:
        try:
            admin.create_topics([new], request_timeout=5)[new.topic].result()
        except KafkaException as error:
            problem = error.args[0]
            if problem.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return
            if problem.code() == KafkaError.INVALID_REPLICATION_FACTOR:
                setting = f"topics.{new.topic}.replication_factor"
                raise TopicError(
                    f"topic {new.topic}: {new.replication_factor} replicas need as many brokers, and the cluster has"
                    f" {brokers}. Start more brokers, or set {setting} (for the job's own topics"
                    f" kafka.replication_factor) to {brokers} or less"
                ) from None
            if not (problem.retriable() or problem.code() == KafkaError._TIMED_OUT) or time.monotonic() > given_up:
                raise TopicError(f"topic {new.topic} can't be created: {problem.str()}") from None
            log.warning("a topic can't be created yet; trying again", topic=new.topic, error=problem.str())
        else:
            log.info("topic created", topic=new.topic, partitions=new.num_partitions)
            return
        if stopping():
            raise Stopped


def _is_embedded(cluster: Any) -> bool:
    """librdkafka's own broker, of demos and tests: it makes a topic when asked about it, and answers no admin call."""
    return str(cluster.cluster_id).startswith("mockCluster")
