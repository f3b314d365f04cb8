"""Fixtures that several packages' tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.cluster import Cluster, NoKafka

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples every time: a build must not fail by luck.
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: Any) -> Iterator[Cluster]:
    """A real Kafka: KAFKA_BOOTSTRAP_SERVERS, else a controller and two brokers of our own."""
    try:
        cluster = Cluster(tmp_path_factory.mktemp("kafka"))
    except NoKafka as reason:
        if os.environ.get("TUA_REQUIRE_KAFKA") == "1":
            pytest.fail(f"TUA_REQUIRE_KAFKA=1, but there is no Kafka: {reason}")
        pytest.skip(f"no Kafka: {reason}")
    yield cluster
    cluster.close()


@pytest.fixture
def breakable_kafka(kafka: Cluster) -> Iterator[Cluster]:
    """The cluster for tests that kill brokers; healthy again afterwards."""
    if not kafka.is_ours:
        pytest.skip("the brokers of KAFKA_BOOTSTRAP_SERVERS are not ours to kill")
    yield kafka
    for number in (1, 2):
        kafka.start_broker(number)
    kafka.wait_until_healthy()
