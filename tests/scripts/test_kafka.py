"""scripts/kafka, with a real cluster of its own."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.cluster import SCRIPT, Cluster
from tests.support.waiting import wait_until


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


def processes() -> str:
    """The command lines of all processes."""
    return subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout


def script() -> Any:
    """scripts/kafka as a module."""
    loader = SourceFileLoader("kafka_script", str(SCRIPT))
    module = module_from_spec(spec_from_loader(loader.name, loader))  # type: ignore[arg-type]
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


@pytest.mark.kafka
def test_a_cluster_of_one_starts_beside_another_and_leaves_nothing(kafka: Cluster, tmp_path: Path) -> None:
    directory = ("--dir", str(tmp_path / "one"))
    started = run("start", "--brokers", "1", "--free-ports", *directory)
    assert started.returncode == 0, started.stderr
    assert run("start", *directory).stderr.startswith("already running")
    status = run("status", *directory)
    assert (status.returncode, status.stdout) == (0, started.stdout)
    assert run("stop", *directory).returncode == 0
    status = run("status", *directory)
    assert (status.returncode, status.stdout) == (1, "")
    assert str(tmp_path / "one") not in processes()


@pytest.mark.kafka
def test_topics_stay_when_the_cluster_stops_and_starts_on_other_ports(kafka: Cluster, tmp_path: Path) -> None:
    directory = ("--dir", str(tmp_path / "three"))
    try:
        first = run("start", "--brokers", "1", "--free-ports", *directory)
        assert first.returncode == 0, first.stderr
        admin = AdminClient({"bootstrap.servers": first.stdout.strip(), "log_level": 0})
        admin.create_topics([NewTopic("kept", 3, 1)])["kept"].result(30)
        assert "Topics are kept" in run("stop", *directory).stderr
        other = run("start", "--brokers", "2", "--free-ports", *directory)
        assert other.returncode == 1
        assert "holds a cluster of 1 broker." in other.stderr
        second = run("start", "--free-ports", *directory)
        assert second.returncode == 0, second.stderr
        found = AdminClient({"bootstrap.servers": second.stdout.strip(), "log_level": 0}).list_topics(timeout=30).topics
        assert len(found["kept"].partitions) == 3
    finally:
        run("stop", *directory)


@pytest.mark.kafka
def test_start_brings_back_a_controller_that_died(kafka: Cluster, tmp_path: Path) -> None:
    directory = ("--dir", str(tmp_path / "four"))
    try:
        assert run("start", "--brokers", "1", "--free-ports", *directory).returncode == 0
        os.kill(int((tmp_path / "four/controller/pid").read_text()), signal.SIGKILL)
        wait_until(lambda: run("status", *directory).returncode == 1)
        assert "controller" in run("start", *directory).stderr
        assert run("status", *directory).returncode == 0
    finally:
        run("stop", *directory)


@pytest.mark.kafka
def test_ctrl_c_during_the_start_leaves_no_process(kafka: Cluster, tmp_path: Path) -> None:
    directory = tmp_path / "five"
    starting = subprocess.Popen(
        [sys.executable, str(SCRIPT), "start", "--free-ports", "--dir", str(directory)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until((directory / "broker-2/pid").exists, 60)
    starting.send_signal(signal.SIGINT)
    _, said = starting.communicate()
    assert starting.returncode == 130
    assert "Traceback" not in said
    assert str(directory) not in processes()


@pytest.mark.kafka
def test_a_cluster_dies_with_the_process_it_was_started_for(kafka: Cluster, tmp_path: Path) -> None:
    directory = ("--dir", str(tmp_path / "two"))
    with subprocess.Popen(["sleep", "600"]) as owner:
        assert run("start", "--brokers", "1", "--free-ports", "--die-with", str(owner.pid), *directory).returncode == 0
        owner.kill()
    wait_until(
        lambda: (
            run("status", *directory).stderr.startswith("controller") is False
            or run("status", *directory).stderr.count("not running") == 2
        ),
        20,
    )


def test_missing_java_is_said_with_what_to_install(tmp_path: Path) -> None:
    answer = run("start", "--free-ports", "--dir", str(tmp_path / "none"), PATH=str(tmp_path))
    assert answer.returncode == 1
    assert "Java is not installed" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("arguments", [("start", "--brokers", "0"), ("start", "--brokers", "5"), ("start", "3")])
def test_what_cannot_be_a_cluster_is_a_mistake_of_use(arguments: tuple[str, ...], tmp_path: Path) -> None:
    answer = run(*arguments, "--dir", str(tmp_path / "none"))
    assert answer.returncode == 2
    assert "brokers" in answer.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", ["kill-broker", "start-broker"])
def test_a_broker_of_no_cluster_is_said_with_how_to_have_one(command: str, tmp_path: Path) -> None:
    answer = run(command, "1", "--dir", str(tmp_path))
    assert answer.returncode == 1
    assert "scripts/kafka start" in answer.stderr


@pytest.mark.parametrize(
    ("command", "code", "said"), [("kill-broker", 2, "One of 1, 2"), ("start-broker", 1, "controller")]
)
def test_a_broker_that_cannot_be_had_is_said(command: str, code: int, said: str, tmp_path: Path) -> None:
    number = "7" if command == "kill-broker" else "1"
    (tmp_path / "cluster.json").write_text('{"controller": 1, "broker-1": 2, "broker-2": 3}')
    answer = run(command, number, "--dir", str(tmp_path))
    assert answer.returncode == code
    assert said in answer.stderr


@pytest.mark.parametrize("name", ["letter.txt", "cluster.json"])
def test_a_directory_of_other_things_is_refused_and_left_as_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"dear": "diary"}', encoding="utf-8")
    answer = run("start", "--free-ports", "--dir", str(tmp_path))
    assert answer.returncode == 1
    assert "--dir" in answer.stderr
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ['{"dear": "diary"}']


def test_a_node_is_known_by_where_it_runs_from_its_first_moment_to_its_last(tmp_path: Path) -> None:
    # The command line of a process is empty just after its start, and when it is dead but nobody has asked how.
    cluster = script().Cluster(tmp_path)
    (tmp_path / "broker-1").mkdir()
    with subprocess.Popen(["sleep", "600"], cwd=tmp_path / "broker-1") as node:
        (tmp_path / "broker-1/pid").write_text(str(node.pid))
        assert cluster.pid("broker-1") == node.pid
        node.kill()
        wait_until(lambda: cluster.pid("broker-1") is None)
        assert node.returncode is None, "it is a zombie, and did not run"


def test_a_port_is_waited_for_while_a_connection_to_elsewhere_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    kafka = script()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        port = client.getsockname()[1]
        waiting = pool.submit(kafka.wait_for_ports, {"broker-1": port})
        wait_until(lambda: f"waiting for port {port}" in capsys.readouterr().err)
        server.accept()[0].close()
        assert client.recv(1) == b""  # who closes first holds its port for a minute: that must be the other side
        client.close()
        waiting.result(20)
        with pytest.raises(kafka.Problem, match="of broker-1 is in use"):
            kafka.wait_for_ports({"broker-1": server.getsockname()[1]})
