"""What docker-compose.yml runs of this project, as in its containers, on the Kafka of that file, with a mail server in
Mailpit's place: too many orders, by Kafka and by curl, are told in the log, by mail and by webhook."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.support.compose import ROOT, SERVICES, environment, mounts
from tests.support.compose_kafka import BROKERS, Node, admin, wait_until_there_are_two_copies
from tests.support.receivers import MailReceiver, free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.kafka
CURL = re.search(r"^```bash\n(for .*?)```$", (ROOT / "docs/compose.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)


class Stack:
    """Services by name, each with its container's command; ports and mounted files are others."""

    def __init__(self, nodes: dict[str, Node], directory: Path, mailbox: MailReceiver) -> None:
        self.directory, self.mailbox = directory, mailbox
        self.ports = {"8080": str(free_port()), "8090": str(free_port())}
        self.brokers = ",".join(f"127.0.0.1:{nodes[name].ports['9092']}" for name in BROKERS)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def here(self, service: str, words: list[str]) -> list[str]:
        """A command of a container, as a command of this machine."""
        programs = {name: str(Path(sys.executable).with_name(name)) for name in ("python", "tua")}
        files = {inside: str(ROOT / outside) for inside, outside in mounts(service).items()}
        found = [(programs | files).get(word, word) for word in words]
        return [re.sub(r"\b(8080|8090)\b", lambda port: self.ports[port[0]], word) for word in found]

    def start(self, service: str, **variables: str) -> None:
        settings = SERVICES[service]
        of_the_image = {
            "TUA_CONFIG": str(ROOT / mounts(service).get("/etc/tua/tua.yaml", "")),
            "TUA_STATE_DIRECTORY": str(self.directory / "state"),
        }
        with self.log(service).open("wb") as log:
            self.processes[service] = subprocess.Popen(
                self.here(service, settings.get("entrypoint", ["tua"]) + settings["command"]), cwd="/",
                env=of_the_image | environment(service) | variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def log(self, service: str) -> Path:
        return self.directory / f"{service}.log"

    def wait_for(self, service: str, text: str) -> None:
        process = self.processes[service]
        wait_until(lambda: text in self.log(service).read_text() or process.poll() is not None, 60, text)
        assert text in self.log(service).read_text(), self.log(service).read_text()

    def wait_until_well(self, service: str) -> None:
        """By the container's own health check."""
        command = self.here(service, SERVICES[service]["healthcheck"]["test"][1:])
        wait_until(lambda: subprocess.run(command, check=False, capture_output=True).returncode == 0, 60, service)

    def wait_until_told(self, product: str) -> None:
        sentence = f"Product '{product}' was ordered 20 times within 5 seconds"
        self.wait_for("job", sentence)
        self.wait_for("webhooks", f"webhook (unsigned): opened: {sentence}\n")
        subject = f"[warning] hot-product: {product}"
        wait_until(lambda: subject in [mail.message["Subject"] for mail in self.mailbox.mails], 30, subject)

    def stop(self, service: str) -> int:
        """As Compose does; the exit code."""
        process = self.processes[service]
        process.send_signal(signal.SIGTERM)
        return process.wait(int(SERVICES[service].get("stop_grace_period", "10s").removesuffix("s")))


@pytest.fixture
def stack(nodes: dict[str, Node], tmp_path: Path) -> Iterator[Stack]:
    with MailReceiver() as mailbox:
        stack = Stack(nodes, tmp_path, mailbox)
        try:
            stack.start("webhooks")
            stack.wait_until_well("webhooks")
            stack.start(
                "job",
                TUA_BOOTSTRAP_SERVERS=stack.brokers,
                TUA_SMTP_HOST="127.0.0.1",
                TUA_SMTP_PORT=str(mailbox.port),
                TUA_WEBHOOK_URL=f"http://127.0.0.1:{stack.ports['8090']}/alerts",
            )
            stack.wait_for("job", '"watching"')
            yield stack
        finally:
            for process in stack.processes.values():
                process.kill()
                process.wait()


def test_twenty_orders_are_told_in_the_log_by_mail_and_by_webhook(stack: Stack, nodes: dict[str, Node]) -> None:
    wait_until_there_are_two_copies(admin(nodes[BROKERS[0]]), "tua.alerts")
    producer = Producer({"bootstrap.servers": stack.brokers, "log_level": 0})
    order = json.dumps({"product": {"id": 18, "name": "iPhone", "price": 999}, "action": "add"})
    for _ in range(20):
        producer.produce("products", order.encode())
    assert producer.flush(30) == 0
    stack.wait_until_told("iPhone")
    assert (stack.stop("job"), stack.stop("webhooks")) == (0, 0)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_curl_lines_of_the_documentation_raise_an_alert(stack: Stack) -> None:
    stack.start("intake", TUA_BOOTSTRAP_SERVERS=stack.brokers, TUA_INTAKE_PORT=stack.ports["8080"])
    stack.wait_until_well("intake")
    assert CURL is not None
    lines = CURL[1].replace("localhost:8080", f"127.0.0.1:{stack.ports['8080']}")
    subprocess.run(["bash", "-c", lines], check=True, capture_output=True, timeout=60)
    stack.wait_until_told("Nokia")
    assert (stack.stop("intake"), stack.stop("job")) == (0, 0)
