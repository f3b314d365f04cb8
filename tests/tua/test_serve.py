"""`tua serve` as a process: its start, its end, and what it says."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.stack import embedded_broker
from tests.support.cluster import Cluster
from tests.support.intake import ORDER, Intake, answer_of, configuration
from tests.support.receivers import free_port
from tests.support.waiting import wait_until

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def broker() -> Iterator[str]:
    owner, bootstrap = embedded_broker()
    owner.list_topics("products", timeout=10)
    yield bootstrap
    del owner


def ended(directory: Path, config: dict[str, Any], **environment: str) -> tuple[int, str]:
    """The exit code of a server that must not start, and what it said."""
    server = Intake(directory, config, NOWHERE, **environment).launch()
    code = server.process.wait(30)
    server.close()
    return code, server.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_clean_end_with_a_slow_client_connected(tmp_path: Path, broker: str, number: int) -> None:
    server = Intake(tmp_path, configuration(shutdown_grace="1s"), broker).start()
    assert server.post("products", ORDER).status_code == 202
    with server.talk(b"POST /api/products HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"):
        assert server.stop(number) == 0
    said = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    assert [line["event"] for line in said if line["event"] in ("listening", "ready", "intake", "stopped")] == [
        "listening", "ready", "intake", "stopped"
    ]  # fmt: skip
    summary = next(line for line in said if line["event"] == "intake")
    assert summary["events_written"] == 1
    assert "Traceback" not in server.log()
    server.close()


@pytest.mark.kafka
def test_a_request_in_flight_gets_its_answer_before_the_end(breakable_kafka: Cluster, tmp_path: Path) -> None:
    topic = f"{tmp_path.name}.products"
    breakable_kafka.create_topic(topic)
    server = Intake(tmp_path, configuration(topic), breakable_kafka.bootstrap).start()
    breakable_kafka.signal_brokers(signal.SIGSTOP)
    body = json.dumps(ORDER).encode()
    head = f"POST /api/events/{topic} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    try:
        connection = server.talk(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: has_been_read(connection))
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: is_refused(server.port))
    finally:
        breakable_kafka.signal_brokers(signal.SIGCONT)
    assert answer_of(connection).split()[1] in (b"202", b"503")
    assert server.process.wait(30) == 0
    server.close()


def has_been_read(connection: socket.socket) -> bool:
    """Whether the other side, on this machine, has read all that was sent."""
    ours, theirs = connection.getsockname()[1], connection.getpeername()[1]
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines():
        _, local, remote, _, queues, *_ = line.split()
        if local.endswith(f":{theirs:04X}") and remote.endswith(f":{ours:04X}"):
            return queues.endswith(":00000000")
    return False


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, log = ended(tmp_path, configuration(port=port))
    assert (code, len(log.splitlines())) == (1, 1)
    assert log.startswith(f"cannot listen on 127.0.0.1 port {port}: Address already in use (intake.host")


def test_without_kafka_it_serves_is_not_ready_and_refuses_at_once(tmp_path: Path) -> None:
    server = Intake(tmp_path, configuration(), f"127.0.0.1:{free_port()}").start(ready=False)
    ready = server.client.get("/health/ready")
    assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
    assert "Kafka cannot be reached" in ready.json()["detail"]
    assert server.post("products", ORDER).status_code == 503
    assert server.stop() == 0
    server.close()


@pytest.mark.parametrize(
    ("intake", "kafka", "said"),
    [
        ({"api_keys": {"shop": {"env": "NO_SUCH_KEY"}}}, {}, "intake.api_keys shop: the environment"),
        ({}, {"properties": {"bogus.prop": 1}}, "kafka.properties: "),
        ({"host": "192.0.2.1"}, {}, "cannot listen on 192.0.2.1"),
    ],
    ids=["key", "property", "host"],
)  # fmt: skip
def test_what_it_cannot_start_with_is_one_line(
    tmp_path: Path, intake: dict[str, Any], kafka: dict[str, Any], said: str
) -> None:
    code, log = ended(tmp_path, configuration(**intake) | {"kafka": kafka})
    assert (code, len(log.splitlines())) == (1, 1), log
    assert log.startswith(said)


@pytest.mark.parametrize(
    ("intake", "warned"),
    [({"host": "0.0.0.0"}, True), ({"host": "0.0.0.0", "api_keys": {"shop": {"env": "SHOP_KEY"}}}, False), ({}, False)],
    ids=["open", "keys", "local"],
)
def test_it_warns_when_others_reach_it_without_keys(tmp_path: Path, intake: dict[str, Any], warned: bool) -> None:
    server = Intake(tmp_path, configuration(**intake), NOWHERE, SHOP_KEY="secret").start(ready=False)
    server.stop()
    lines = [line for line in server.log().splitlines() if "whoever reaches it can write events" in line]
    assert ['"warning"' in line for line in lines if line.startswith("{")] == [True] * warned
    server.close()


def test_each_message_is_said_at_debug_alone(tmp_path: Path, broker: str) -> None:
    for level in ("DEBUG", "INFO"):
        server = Intake(tmp_path, configuration(), broker, TUA_LOG_LEVEL=level).start()
        place = server.post("products", ORDER).json()
        server.stop()
        server.close()
        if level == "DEBUG":
            (line,) = [json.loads(one) for one in server.log().splitlines() if '"message sent"' in one]
            assert (line["topic"], line["partition"], line["offset"]) == (
                "products", place["partition"], place["offset"]
            )  # fmt: skip
    assert server.log().count('"message sent"') == 1


def test_no_other_command_waits_for_the_web_framework(tmp_path: Path) -> None:
    script = "import sys, tua.cli; sys.exit('fastapi' in sys.modules or 'uvicorn' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([root / ".venv/bin/python", "-c", script], cwd=root, check=False).returncode == 0
