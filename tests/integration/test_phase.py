"""Two processes of unequal speed: neither keeps the other waiting.

A measurement, so only where it is asked for: TUA_PHASE_SECONDS=120 runs each for two minutes, on a machine that does
nothing else. What keeps them in phase is held by tests/connectors/test_epochs.py, without a clock.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from dataflows.state_directory import StateDirectory
from tests.support.cluster import Cluster
from tests.support.job import ROOT, Job
from tests.support.orders import order
from tests.support.waiting import wait_until
from tua.run import EPOCH_S
from tua.supervisor import free_ports

SECONDS = int(os.environ.get("TUA_PHASE_SECONDS", "0"))
pytestmark = [
    pytest.mark.kafka,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not SECONDS, reason="a measurement of minutes: set TUA_PHASE_SECONDS"),
]
_WINDOW_S = 10
_PAUSE_S = 0.03
"""A time without a call that is longer than what a call or a wait for records takes."""


class Pair:
    """Two processes of a job, one call for records of which takes `poll_s` seconds longer."""

    def __init__(self, job: Job, poll_s: tuple[float, float], out_of_phase: bool) -> None:
        self._files = [job.directory / f"polls{number}" for number in (0, 1)]
        recovery = str(StateDirectory(job.directory / "state").recovery)
        addresses = ";".join(f"127.0.0.1:{port}" for port in free_ports(2))
        command = [sys.executable, "-m", "bytewax.run", "tests.support.counted_polls", "-r", recovery, "-b", "0"]
        self.processes: list[subprocess.Popen[bytes]] = []
        for number in (0, 1):
            environment = {
                "POLLS_FILE": str(self._files[number]),
                "POLL_S": str(poll_s[number]),
                "OUT_OF_PHASE": str(int(out_of_phase)),
                "PYTHONPATH": str(ROOT),
            }
            with (job.directory / f"stderr{number}").open("wb") as log:
                self.processes.append(
                    subprocess.Popen(
                        [*command, "-s", str(EPOCH_S), "-i", str(number), "-a", addresses],
                        cwd=ROOT, env=job.environment | environment, stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL, stderr=log,
                    )
                )  # fmt: skip
            wait_until(lambda number=number: b'"watching"' in (job.directory / f"stderr{number}").read_bytes(), 60)

    def polls(self, number: int) -> list[float]:
        """When process `number` asked for records, to the last whole line that it has written."""
        try:
            lines = self._files[number].read_text(encoding="ascii").split("\n")[:-1]
        except FileNotFoundError:
            return []
        return list(map(float, lines))

    def stop(self) -> list[int]:
        for process in self.processes:
            process.terminate()
        return [process.wait(30) for process in self.processes]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def make_pair(make_job: Callable[..., Job]) -> Iterator[Callable[..., Pair]]:
    pairs: list[Pair] = []

    def make(job: Job, *poll_s: float, out_of_phase: bool = False) -> Pair:
        pairs.append(Pair(job, poll_s, out_of_phase))  # type: ignore[arg-type]
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.kill()


def busy(kafka: Cluster, topic: str, until: threading.Event) -> threading.Thread:
    """5,000 orders a second, all on one partition."""

    def produce() -> None:
        generator = random.Random(5)
        while not until.is_set():
            now = int(time.time() * 1000)
            kafka.produce(topic, [(0, now + n // 5, b"k", order(f"p{generator.randrange(900)}")) for n in range(2_500)])
            until.wait(0.5)

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    return thread


def figures(polls: list[float]) -> list[tuple[float, float]]:
    """For each ten seconds: calls a second, and the part of the time that was lost in pauses.

    The first ten seconds, in which it starts, don't count.
    """
    start = polls[0] + _WINDOW_S
    gaps = [(before, after - before) for before, after in itertools.pairwise(polls) if before >= start]
    found = []
    for window in range(int((polls[-1] - start) // _WINDOW_S)):
        inside = [gap for at, gap in gaps if window <= (at - start) / _WINDOW_S < window + 1]
        found.append((len(inside) / _WINDOW_S, sum(gap for gap in inside if gap > _PAUSE_S) / _WINDOW_S))
    return found


@pytest.mark.parametrize(
    "poll_s",
    [
        pytest.param((0.0, 0.0), id="one has all the work, the other nothing to do"),
        pytest.param((0.001, 0.005), id="one is five times as slow"),
    ],
)
def test_neither_of_two_processes_waits_much_for_the_other(
    make_job: Callable[..., Job], make_pair: Callable[..., Pair], kafka: Cluster, poll_s: tuple[float, float]
) -> None:
    job, done = make_job(), threading.Event()
    load = busy(kafka, job.topic, done)
    pair = make_pair(job, *poll_s, out_of_phase=os.environ.get("TUA_OUT_OF_PHASE") == "1")
    try:
        for number in (0, 1):
            wait_until(lambda number=number: len(pair.polls(number)) > 10, 60, "both to read")
        end = time.monotonic() + SECONDS + _WINDOW_S + 2
        wait_until(lambda: time.monotonic() > end, SECONDS + 60)
    finally:
        done.set()
        load.join()
    assert pair.stop() == [0, 0]
    for number in (0, 1):
        found = figures(pair.polls(number))
        print(f"process {number}:", ", ".join(f"{rate:.0f}/s, {lost:.0%} lost" for rate, lost in found))
        assert len(found) >= SECONDS // _WINDOW_S
        assert max(lost for _, lost in found) < 0.25
