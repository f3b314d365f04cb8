"""scripts/kafka, with a real cluster of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.kafka
def test_a_cluster_of_one_starts_beside_another_and_leaves_nothing(kafka: Cluster, tmp_path: Path) -> None:
    directory = ("--dir", str(tmp_path / "one"))
    started = run("start", "--brokers", "1", "--free-ports", *directory)
    assert started.returncode == 0, started.stderr
    assert run("start", *directory).stderr.startswith("already running")
    status = run("status", *directory)
    assert (status.returncode, status.stdout) == (0, started.stdout)
    assert run("stop", *directory).returncode == 0
    assert run("status", *directory).returncode == 1
    assert (
        str(tmp_path / "one") not in subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
    )


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


def test_a_broker_that_does_not_exist_is_a_mistake_of_use(tmp_path: Path) -> None:
    assert run("kill-broker", "7", "--dir", str(tmp_path / "none")).returncode == 2
