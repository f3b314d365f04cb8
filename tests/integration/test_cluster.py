"""`tua run --processes N` on a real Kafka: exact whatever happens to its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dataflows.state_directory import StateDirectory
from scripts.ground_truth import intervals_by_key
from tests.integration.conftest import webhook
from tests.integration.test_crash import Load
from tests.support.cluster import Cluster
from tests.support.job import ROOT, Job
from tests.support.orders import calm, final, received
from tests.support.receivers import HttpReceiver
from tests.support.waiting import wait_until
from tua.supervisor import free_ports

pytestmark = pytest.mark.kafka


def processes(job: Job) -> list[int]:
    """The process ids of the job's flows, by their number in the cluster."""
    assert job.process is not None
    own = Path(f"/proc/{job.process.pid}/task/{job.process.pid}/children").read_text(encoding="ascii").split()
    found = {}
    for pid in own:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
        except FileNotFoundError:
            continue
        if "-i" in command:
            found[int(command[command.index("-i") + 1])] = int(pid)
    return [found[number] for number in sorted(found)]


def start(job: Job, count: int) -> None:
    """Start `count` processes and wait until all are about to read."""
    already = job.log().count('"watching"')
    job.start("--processes", str(count), wait=False)
    job.wait_for(lambda: job.log().count('"watching"') >= already + count, "all processes")


def settle(job: Job, kafka: Cluster, hook: HttpReceiver, load: Load) -> None:
    """After the load: all alerts came, and they are those of the oracle."""
    load.join()
    expected = intervals_by_key(load.events, 2_000, 5_000, 20)
    assert len(expected) >= 2
    kafka.produce(job.topic, calm(int(time.time() * 1000) + 30_000))
    job.wait_for(lambda: len(final(received(hook))) >= len(expected), "all alerts at the webhook")
    assert job.stop() == 0
    assert final(received(hook)) == expected


def test_two_processes_stopped_under_load_go_on_as_three_and_then_as_one(
    make_job: Callable[..., Job], kafka: Cluster, hook: HttpReceiver
) -> None:
    job = make_job(actions={"hook": webhook(hook)})
    start(job, 2)
    load = Load(kafka, job.topic, seconds=22)
    load.start()
    for second, count in ((6, 3), (13, 1)):
        job.wait_for(lambda second=second: load.second >= second, "the load")
        assert job.stop() == 0
        assert "Traceback" not in job.log()
        start(job, count)
    settle(job, kafka, hook, load)
    told = [request.headers["webhook-id"] for request in hook.requests]
    assert len(told) == len(set(told)), "a clean stop repeats nothing"


def test_one_of_two_processes_is_killed_and_all_are_started_again(
    make_job: Callable[..., Job], kafka: Cluster, hook: HttpReceiver
) -> None:
    job = make_job(actions={"hook": webhook(hook)})
    start(job, 2)
    load = Load(kafka, job.topic, seconds=20)
    load.start()
    for second, number in ((5, 1), (11, 0)):
        job.wait_for(lambda second=second: load.second >= second, "the load")
        before = processes(job)
        already = job.log().count('"watching"')
        os.kill(before[number], signal.SIGKILL)
        job.wait_for(lambda already=already: job.log().count('"watching"') >= already + 2, "both to be back")
        assert not set(before) & set(processes(job))
    assert "SIGKILL" in job.log()
    settle(job, kafka, hook, load)


def test_a_process_that_waits_for_the_others_of_its_cluster_stops_at_once(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    job = make_job()
    recovery = StateDirectory(Path(job.config["state"]["directory"])).recovery
    addresses = ";".join(f"127.0.0.1:{port}" for port in free_ports(2))
    log = tmp_path / "alone"
    for number in ("0", "1"):
        with log.open("wb") as file:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "bytewax.run", "dataflows.activity_alerts"),
                    *("-r", str(recovery), "-s", "1", "-b", "0", "-i", number, "-a", addresses),
                ],
                cwd=ROOT,
                env=job.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        try:
            wait_until(lambda: b'"watching"' in log.read_bytes(), 60)
            process.terminate()
            assert process.wait(10) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


def test_with_the_supervisor_its_processes_are_gone(make_job: Callable[..., Job]) -> None:
    job = make_job()
    start(job, 2)
    own = processes(job)
    assert len(own) == 2
    job.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in own), 10)


def test_the_processes_speak_to_each_other_on_this_machine_alone(make_job: Callable[..., Job]) -> None:
    """A process listens only until the others have come, so it is their connections that are looked at."""
    job = make_job()
    start(job, 2)
    own = processes(job)
    command = Path(f"/proc/{own[0]}/cmdline").read_text(encoding="utf-8").split("\0")
    addresses = command[command.index("-a") + 1].split(";")
    assert [address.partition(":")[0] for address in addresses] == ["127.0.0.1"] * 2
    ports = {int(address.partition(":")[2]) for address in addresses}
    wait_until(lambda: connected(own, ports), 20, "a connection between the processes")
    assert {address.partition(":")[0] for address in connected(own, ports)} == {"0100007F"}
    assert job.stop() == 0


def connected(pids: list[int], ports: set[int]) -> set[str]:
    """The own addresses, in hexadecimal, of the connections to these ports that processes have taken."""
    own = sockets(pids)
    lines = [
        line.split() for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]
    ]  # fmt: skip
    return {line[1] for line in lines if line[9] in own and int(line[1].rpartition(":")[2], 16) in ports}


def sockets(pids: list[int]) -> set[str]:
    """The inodes of the sockets that processes have open."""
    found = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(link)
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                found.add(target.removeprefix("socket:[").removesuffix("]"))
    return found
