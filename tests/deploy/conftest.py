"""The Kafka of docker-compose.yml, which several tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.compose import KAFKA
from tests.support.compose_kafka import BROKERS, Node, kafka_script


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Node]]:
    """All of them, started; for all tests."""
    script = kafka_script()
    place = tmp_path_factory.mktemp("compose")
    try:
        made = {name: Node(name, place / name, script) for name in KAFKA}
    except script.Problem as reason:
        if os.environ.get("TUA_REQUIRE_KAFKA") == "1":
            pytest.fail(f"TUA_REQUIRE_KAFKA=1, but there is no Kafka: {reason}")
        pytest.skip(f"no Kafka: {reason}")
    for node in made.values():
        node.adapt(made)
    for setting_up in [node.set_up() for node in made.values()]:
        said, _ = setting_up.communicate(timeout=60)
        assert setting_up.returncode == 0, said
    try:
        for node in made.values():
            node.start()
        for name in BROKERS:
            made[name].wait_until_it_answers()
        yield made
    finally:
        for node in made.values():
            node.kill()
