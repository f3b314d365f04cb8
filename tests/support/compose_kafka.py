"""The Kafka of docker-compose.yml without containers: addresses and directories alone are others."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient

from tests.support.compose import KAFKA, ROOT, environment, published
from tests.support.receivers import free_port
from tests.support.waiting import wait_until

PLACES = ("default", "mounted", "final")
"""The directories of configurations that the image's program is given."""

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

    def __init__(self, name: str, directory: Path, script: Any) -> None:
        self.name, self.directory, self.script = name, directory, script
        self.java: list[str] = script.kafka_command()
        self.environment = environment(name)
        listeners = dict(re.findall(r"(\w+)://:(\d+)", self.environment["KAFKA_LISTENERS"]))
        self.ports = {port: free_port() for port in listeners.values()}
        self.process: subprocess.Popen[bytes] | None = None
        for place in PLACES:
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
        places = [f"--{place}-configs-dir={self.directory / place}" for place in PLACES]
        return subprocess.Popen(
            [*self.java, "kafka.docker.KafkaDockerWrapper", "setup", *places], env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def start(self) -> None:
        options = shlex.split(self.environment["KAFKA_HEAP_OPTS"]) + shlex.split(self.environment["KAFKA_GC_LOG_OPTS"])
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.java, *options, "kafka.Kafka", str(self.directory / "final/server.properties")],
                cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.script.watch(os.getpid(), self.process.pid)

    def wait_until_it_answers(self) -> None:
        process = self.process
        assert process is not None
        wait_until(lambda: self.script.speaks(self.on_the_host()) or process.poll() is not None, 90, self.name)
        assert process.poll() is None, (self.directory / "log").read_text(errors="replace")[-3000:]

    def properties(self) -> dict[str, str]:
        lines = (self.directory / "final/server.properties").read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines if line)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def admin(node: Node) -> AdminClient:
    """A client outside of the containers."""
    return AdminClient({"bootstrap.servers": f"127.0.0.1:{node.on_the_host()}", "log_level": 0})


def wait_until_there_are_two_copies(client: AdminClient, topic: str) -> None:
    """Of each partition. A broker learns of a new topic a moment after it is made."""

    def copies() -> set[int]:
        found = client.list_topics(topic, timeout=10).topics[topic]
        return {len(partition.replicas) for partition in found.partitions.values()}

    wait_until(lambda: copies() == {2}, 10, f"two copies of {topic}")
