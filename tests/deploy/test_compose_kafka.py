"""The Kafka of docker-compose.yml, run: the image's own program makes each node's properties of its variables, and
Kafka from its jars starts with them. Only addresses and directories are others than in the containers."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.compose import KAFKA, ROOT, SERVICES, environment, published
from tests.support.receivers import MailReceiver, free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.kafka
BROKERS = tuple(name for name in KAFKA if environment(name)["KAFKA_PROCESS_ROLES"] == "broker")


def kafka_script() -> Any:
    """scripts/kafka as a module."""
    loader = SourceFileLoader("kafka_of_compose", str(ROOT / "scripts/kafka"))
    module = module_from_spec(spec_from_loader(loader.name, loader))  # type: ignore[arg-type]
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


class Node:
    """One service: its container's directories in one of ours, its ports others of this machine."""

    def __init__(self, name: str, directory: Path, java: list[str]) -> None:
        self.name, self.directory, self.java = name, directory, java
        self.environment = environment(name)
        listeners = dict(re.findall(r"(\w+)://:(\d+)", self.environment["KAFKA_LISTENERS"]))
        self.ports = {port: free_port() for port in listeners.values()}
        self.process: subprocess.Popen[bytes] | None = None
        for place in ("default", "mounted", "config"):
            (directory / place).mkdir(parents=True)
        for file in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
            (directory / "default" / file).touch()  # the image has Kafka's own here

    def adapt(self, nodes: dict[str, Node]) -> None:
        """Addresses of this machine. A KeyError is a name or a port that no container has."""
        changes = (
            (r"://:(\d+)", lambda found: f"://127.0.0.1:{self.ports[found[1]]}"),
            (r"(kafka-[\w-]+):(\d+)", lambda found: f"127.0.0.1:{nodes[found[1]].ports[found[2]]}"),
            (r"localhost:(\d+)", lambda found: f"127.0.0.1:{self.on_the_host(found[1])}"),
        )
        for variable in self.environment:
            for pattern, address in changes:
                self.environment[variable] = re.sub(pattern, address, self.environment[variable])
        self.environment["KAFKA_LOG_DIRS"] = str(self.directory / "data")

    def on_the_host(self, port: str | None = None) -> int:
        """Our port for the published one."""
        ports = published(self.name)
        return self.ports[ports[port or next(iter(ports))][1]]

    def set_up(self) -> subprocess.Popen[str]:
        """As the image's `launch` does: the properties, and storage that is formatted."""
        places = ((f"--{place}-configs-dir", f"{self.directory / folder}") for place, folder in (
            ("default", "default"), ("mounted", "mounted"), ("final", "config"),
        ))  # fmt: skip
        return subprocess.Popen(
            [*self.java, "kafka.docker.KafkaDockerWrapper", "setup", *(part for place in places for part in place)],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def start(self) -> None:
        options = shlex.split(self.environment["KAFKA_HEAP_OPTS"]) + shlex.split(self.environment["KAFKA_GC_LOG_OPTS"])
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.java, *options, "kafka.Kafka", str(self.directory / "config/server.properties")],
                cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def properties(self) -> dict[str, str]:
        lines = (self.directory / "config/server.properties").read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines if line)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Node]]:
    script = kafka_script()
    try:
        java = script.kafka_command()
    except script.Problem as reason:
        if os.environ.get("TUA_REQUIRE_KAFKA") == "1":
            pytest.fail(f"TUA_REQUIRE_KAFKA=1, but there is no Kafka: {reason}")
        pytest.skip(f"no Kafka: {reason}")
    java[0] = str(shutil.which(java[0]))  # their environment has no PATH
    place = tmp_path_factory.mktemp("compose")
    made = {name: Node(name, place / name, java) for name in KAFKA}
    for node in made.values():
        node.adapt(made)
    for setting_up in [node.set_up() for node in made.values()]:
        said, _ = setting_up.communicate(timeout=60)
        assert setting_up.returncode == 0, said
    try:
        for node in made.values():
            node.start()
            assert node.process is not None
            script.watch(os.getpid(), node.process.pid)
        for name in BROKERS:
            node = made[name]
            assert node.process is not None
            wait_until(lambda node=node: script.speaks(node.on_the_host()) or node.process.poll() is not None, 90, name)
            assert node.process.poll() is None, (node.directory / "log").read_text(errors="replace")[-3000:]
        yield made
    finally:
        for node in made.values():
            node.kill()


def admin(node: Node) -> AdminClient:
    """A client of this machine, outside of the containers."""
    return AdminClient({"bootstrap.servers": f"127.0.0.1:{node.on_the_host()}", "log_level": 0})


def wait_until_there_are_two(client: AdminClient, topic: str) -> None:
    """Copies of each partition. A broker learns of a new topic a moment after it is made."""

    def copies() -> set[int]:
        found = client.list_topics(topic, timeout=10).topics[topic]
        return {len(partition.replicas) for partition in found.partitions.values()}

    wait_until(lambda: copies() == {2}, 10, f"two copies of {topic}")


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


def test_twenty_orders_are_told_in_the_log_by_mail_and_by_webhook(nodes: dict[str, Node], tmp_path: Path) -> None:
    """With the shipped tua.yaml, and the job and the webhook receiver as they run in their containers."""
    web = free_port()
    brokers = ",".join(f"127.0.0.1:{nodes[name].ports['9092']}" for name in BROKERS)
    with MailReceiver() as mailbox, (tmp_path / "webhooks").open("wb") as arrived, (tmp_path / "log").open("wb") as log:
        variables = environment("job") | {
            "TUA_BOOTSTRAP_SERVERS": brokers,
            "TUA_SMTP_HOST": "127.0.0.1",
            "TUA_SMTP_PORT": str(mailbox.port),
            "TUA_WEBHOOK_URL": f"http://127.0.0.1:{web}/alerts",
        }
        image = {"TUA_CONFIG": str(ROOT / "tua.yaml"), "TUA_STATE_DIRECTORY": str(tmp_path / "state")}
        service = SERVICES["webhooks"]
        command = [sys.executable, "-u", str(ROOT / "scripts/webhook_receiver.py")]
        receiver = subprocess.Popen(
            [*command, *(str(web) if part == "8090" else part for part in service["command"])], stdout=arrived
        )
        job = subprocess.Popen(
            [Path(sys.executable).with_name("tua"), *SERVICES["job"]["command"]],
            cwd="/", env=image | variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            wait_until(lambda: b'"watching"' in (tmp_path / "log").read_bytes() or job.poll() is not None, 60)
            assert job.poll() is None, (tmp_path / "log").read_text()
            wait_until_there_are_two(admin(nodes[BROKERS[0]]), "tua.alerts")
            producer = Producer({"bootstrap.servers": brokers, "log_level": 0})
            order = json.dumps({"product": {"id": 17, "name": "Nokia", "price": 153.94}, "action": "add"})
            for _ in range(20):
                producer.produce("products", order.encode())
            assert producer.flush(30) == 0
            sentence = "Product 'Nokia' was ordered 20 times within 5 seconds"
            wait_until(lambda: sentence in (tmp_path / "log").read_text(), 30)
            wait_until(lambda: f"opened: {sentence}\n" in (tmp_path / "webhooks").read_text(), 30)
            wait_until(lambda: mailbox.mails, 30)
            assert str(mailbox.mails[0].message["Subject"]) == "[warning] hot-product: Nokia"
            job.send_signal(signal.SIGTERM)
            assert job.wait(int(SERVICES["job"]["stop_grace_period"].removesuffix("s"))) == 0
        finally:
            for process in (job, receiver):
                process.kill()
                process.wait()


def test_one_broker_of_two_is_enough_to_go_on(nodes: dict[str, Node]) -> None:
    """Last, for a broker is gone then."""
    first, second = (nodes[name] for name in BROKERS)
    client = admin(second)
    client.create_topics([NewTopic("orders", 2)])["orders"].result(30)  # with as many copies as the cluster's default
    wait_until_there_are_two(client, "orders")
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
        wait_until_there_are_two(client, "__consumer_offsets")
        first.kill()
        arrives(b"after")
    finally:
        consumer.close()
