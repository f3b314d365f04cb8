"""The Kafka of docker-compose.yml, run: the image's own program makes each node's properties of its variables, and
Kafka from its jars starts with them. Only addresses and directories are others than in the containers."""

from __future__ import annotations

import re
import subprocess
import time

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.compose import environment
from tests.support.compose_kafka import BROKERS, Node, admin, wait_until_there_are_two_copies

pytestmark = pytest.mark.kafka


def test_every_variable_is_a_property_that_kafka_knows(nodes: dict[str, Node]) -> None:
    java = next(iter(nodes.values())).java
    page = subprocess.run([*java, "kafka.server.KafkaConfig"], capture_output=True, text=True, check=True, timeout=60)
    known = set(re.findall(r'id="brokerconfigs_([^"]+)"', page.stdout))
    assert len(known) > 200
    for name, node in nodes.items():
        assert node.properties().keys() - known == set(), name
        # And none of them was taken for something else: all but those that the image's scripts read are there.
        scripts = {"CLUSTER_ID", "KAFKA_HEAP_OPTS", "KAFKA_GC_LOG_OPTS"}
        assert len(node.properties()) == len(node.environment.keys() - scripts)


@pytest.mark.parametrize("first", BROKERS)
def test_who_comes_from_outside_is_sent_to_the_published_ports(nodes: dict[str, Node], first: str) -> None:
    found = admin(nodes[first]).list_topics(timeout=10)
    assert found.cluster_id == environment(first)["CLUSTER_ID"]
    expected = {int(environment(name)["KAFKA_NODE_ID"]): nodes[name].on_the_host() for name in BROKERS}
    assert {number: broker.port for number, broker in found.brokers.items()} == expected


def test_who_comes_from_inside_is_sent_to_the_names_of_the_brokers(nodes: dict[str, Node]) -> None:
    inside = AdminClient({"bootstrap.servers": f"127.0.0.1:{nodes[BROKERS[0]].ports['9092']}", "log_level": 0})
    ports = {broker.port for broker in inside.list_topics(timeout=10).brokers.values()}
    assert ports == {nodes[name].ports["9092"] for name in BROKERS}


def test_a_second_start_finds_what_is_there(nodes: dict[str, Node]) -> None:
    setting_up = nodes["kafka-controller"].set_up()
    said, _ = setting_up.communicate(timeout=60)
    assert setting_up.returncode != 0
    assert "already formatted" in said, "the image goes on when it reads this, and ends at anything else"


def test_one_broker_of_two_is_enough_to_go_on(nodes: dict[str, Node]) -> None:
    first, second = (nodes[name] for name in BROKERS)
    client = admin(second)
    client.create_topics([NewTopic("orders", 2)])["orders"].result(30)  # with as many copies as the cluster's default
    wait_until_there_are_two_copies(client, "orders")
    outside = f"127.0.0.1:{first.on_the_host()},127.0.0.1:{second.on_the_host()}"
    consumer = Consumer({
        "bootstrap.servers": outside, "group.id": "shop", "auto.offset.reset": "earliest", "log_level": 0,
    })  # fmt: skip
    consumer.subscribe(["orders"])
    producer = Producer({"bootstrap.servers": outside, "log_level": 0})
    got: list[bytes | None] = []

    def arrives(value: bytes) -> None:
        producer.produce("orders", value)
        assert producer.flush(60) == 0
        deadline = time.monotonic() + 60
        while value not in got:
            assert time.monotonic() < deadline, value
            message = consumer.poll(1)
            if message is not None and message.error() is None:
                got.append(message.value())
        consumer.commit(asynchronous=False)

    try:
        arrives(b"before")
        wait_until_there_are_two_copies(client, "__consumer_offsets")
        first.kill()
        arrives(b"after")
    finally:
        consumer.close()
        first.start()
        first.wait_until_it_answers()
