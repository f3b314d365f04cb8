"""Topics at start: created where absent, compared with the settings where not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from connectors.client import Stopped
from settings import Settings

log = structlog.get_logger()

_DAY_MS = 86_400_000
_OWN_PARTITIONS = 1
_AGAIN_S = 0.5


class TopicError(Exception):
    """A topic can't be had as configured. The text says what to set."""


def ensure_topics(
    admin: AdminClient, settings: Settings, watched: Sequence[str], stopping: Callable[[], bool]
) -> tuple[dict[str, int], dict[str, str]]:
    """Create the watched topics and the job's own where they are absent.

    Returns the number of partitions of each watched topic, and the id by which brokers tell it from one of the same
    name created later (none from an embedded broker). Tries until it has them: brokers that are just starting know
    little. Raises TopicError when the cluster will not, Stopped when asked to stop meanwhile.
    """
    while True:
        try:
            _create_missing(admin, settings, stopping)
            partitions, ids = _found(admin, watched)
        except KafkaException as error:
            log.warning("the topics can't be had yet; trying again", error=error.args[0].str())
        else:
            if all(partitions.values()):
                return partitions, ids
        if stopping():
            raise Stopped
        time.sleep(_AGAIN_S)


def _create_missing(admin: AdminClient, settings: Settings, stopping: Callable[[], bool]) -> None:
    cluster = admin.list_topics(timeout=10)
    brokers, there = len(cluster.brokers), cluster.topics
    embedded = _is_embedded(cluster)
    for new in _wanted(settings, brokers):
        existing = admin.list_topics(new.topic, timeout=10).topics[new.topic] if embedded else there.get(new.topic)
        if existing is None or not existing.partitions:
            _create(admin, new, brokers, stopping)
        elif new.topic in settings.topics:
            _compare(new.topic, len(existing.partitions), settings.topics[new.topic].partitions)


def _compare(topic: str, partitions: int, configured: int | None) -> None:
    if configured is not None and configured != partitions:
        log.warning(
            "a topic has other partitions than tua.yaml says; all that it has are read",
            topic=topic,
            partitions=partitions,
            configured=configured,
        )


def _found(admin: AdminClient, watched: Sequence[str]) -> tuple[dict[str, int], dict[str, str]]:
    cluster = admin.list_topics(timeout=10)
    partitions = {name: len(cluster.topics[name].partitions) if name in cluster.topics else 0 for name in watched}
    if _is_embedded(cluster):
        return partitions, {}
    found = admin.describe_topics(TopicCollection(list(watched)), request_timeout=10)
    return partitions, {name: str(future.result().topic_id) for name, future in found.items()}


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
            NewTopic(name, topic.partitions or 1, topic.replication_factor or min(brokers, 2))
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
                    f" {brokers}. Start more brokers, set {setting} (for the job's own topics kafka.replication_factor)"
                    f" to {brokers}{' or less' if brokers > 1 else ''}, or leave it out"
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
