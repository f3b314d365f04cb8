"""`tua run` before it has reached anything: clean stops and mistakes of the configuration."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.job import Job, configuration
from tests.support.receivers import free_port
from tests.support.waiting import wait_until


def held_back(process: subprocess.Popen[bytes], number: int) -> bool:
    """Whether a signal waits until the process is ready for it."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk"))
    return bool(int(mask, 16) & 1 << number - 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_its_first_moments_is_a_clean_stop_too(tmp_path: Path, number: signal.Signals) -> None:
    job = Job(tmp_path, configuration(tmp_path), f"127.0.0.1:{free_port()}").start(wait=False)
    process = job.process
    assert process is not None
    wait_until(lambda: held_back(process, number))
    process.send_signal(number)
    assert process.wait(30) == 0
    assert "Traceback" not in job.log()


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"bogus.prop": 1}, "bogus.prop"),
        ({"security.protocol": "FOO"}, "security.protocol"),
        ({"socket.timeout.ms": "abc"}, "socket.timeout.ms"),
        ({"isolation.level": "foo"}, "isolation.level"),
    ],
)
def test_a_property_that_librdkafka_does_not_know_is_said_without_a_traceback(
    tmp_path: Path, properties: dict[str, object], said: str
) -> None:
    config = configuration(tmp_path)
    config["kafka"]["properties"] = properties
    job = Job(tmp_path, config, f"127.0.0.1:{free_port()}").start(wait=False)
    assert job.process is not None
    assert job.process.wait(30) == 1
    assert "kafka.properties: " in job.log()
    assert said in job.log()
    assert "Traceback" not in job.log()


def test_a_mistake_of_the_configuration_is_said_once_however_many_processes(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    config["kafka"]["consumer_grop"] = "tua"
    job = Job(tmp_path, config, f"127.0.0.1:{free_port()}").start("--processes", "2", wait=False)
    assert job.process is not None
    assert job.process.wait(30) == 1
    assert job.log().count("consumer_grop") == 1
    assert "1 mistake" in job.log()


def test_a_mistake_that_only_the_job_itself_finds_is_said_once_and_not_tried_again(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    config["kafka"]["properties"] = {"bogus.prop": 1}
    job = Job(tmp_path, config, f"127.0.0.1:{free_port()}").start("--processes", "2", wait=False)
    assert job.process is not None
    assert job.process.wait(30) == 1
    assert job.log().count("bogus.prop") == 1
    assert "started again" not in job.log()


def test_more_processes_than_can_read_are_refused(tmp_path: Path) -> None:
    job = Job(tmp_path, configuration(tmp_path), f"127.0.0.1:{free_port()}").start("--processes", "17", wait=False)
    assert job.process is not None
    assert job.process.wait(30) == 2
    assert "--processes" in job.log()
    assert "16" in job.log()
