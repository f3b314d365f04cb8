"""Servers on an embedded broker, or on a real Kafka, that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.stack import embedded_broker
from tests.support.cluster import Cluster
from tests.support.intake import Intake, configuration


@pytest.fixture(scope="session")
def embedded() -> Iterator[str]:
    """A broker in this process, with the topic of products: for all that is not about what lies on the topic."""
    owner, bootstrap = embedded_broker()
    owner.list_topics("products", timeout=10)
    yield bootstrap
    del owner


@pytest.fixture
def serve(embedded: str, tmp_path: Path) -> Iterator[Callable[..., Intake]]:
    """Starts a server on the embedded broker; `intake` are its settings."""
    servers: list[Intake] = []

    def start(environment: dict[str, str] | None = None, **intake: Any) -> Intake:
        servers.append(Intake(tmp_path, configuration(**intake), embedded, **(environment or {})))
        return servers[-1].start()

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def serve_kafka(kafka: Cluster, tmp_path: Path) -> Iterator[Callable[..., Intake]]:
    """Starts a server on the real Kafka, with the topic `<test's directory>.products` of two partitions."""
    servers: list[Intake] = []
    topic = f"{tmp_path.name}.products"

    def start(replication: int = 1, topic_settings: dict[str, Any] | None = None, **intake: Any) -> Intake:
        if not servers:
            kafka.create_topic(topic, partitions=2, replication=replication)
        config = configuration(topic, **intake)
        config["topics"][topic] = topic_settings or {}
        servers.append(Intake(tmp_path, config, kafka.bootstrap))
        return servers[-1].start()

    yield start
    for server in servers:
        server.close()
