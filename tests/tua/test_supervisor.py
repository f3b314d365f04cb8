"""Processes that live and die together, here small scripts in place of the job's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.job import ROOT
from tests.support.waiting import wait_until
from tua.supervisor import free_ports

SUPERVISOR = """
import sys
from tua.supervisor import Supervisor
count, restarts, delay, *command = sys.argv[1:]
commands = lambda ports: [[*command, str(number)] for number in range(len(ports))]
sys.exit(Supervisor(int(count), commands, int(restarts), delays_s=[float(delay)]).run())
"""
CHILD = """
import os, signal, sys, threading
from dataflows.started import tell_supervisor
from pathlib import Path
number = int(sys.argv[-1])
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
signal.signal(signal.SIGINT, lambda *_: os._exit(0))
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT])
def note():
    with open("pids", "a") as file:
        file.write(f"{number} {os.getpid()}\\n")
def go(path):
    while not Path(path).exists():
        signal.sigtimedwait([], 0.01)
"""
LIVES = "tell_supervisor(); note(); signal.pause()"


class Family:
    """A supervisor and what its children said of themselves."""

    def __init__(self, directory: Path, child: str, count: int = 2, restarts: int = 0, delay_s: float = 0.05) -> None:
        self.directory = directory
        command = [sys.executable, "-c", SUPERVISOR, str(count), str(restarts), str(delay_s)]
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, sys.executable, "-c", CHILD + child],
                cwd=directory,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def children(self) -> list[tuple[int, int]]:
        """(number, process id) of all that started, in order."""
        try:
            lines = (self.directory / "pids").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(int(number), int(pid)) for number, pid in map(str.split, lines)]

    def wait_for(self, count: int) -> list[int]:
        wait_until(lambda: len(self.children()) >= count, 30, "the children to start")
        return [pid for _, pid in self.children()]

    def log(self) -> str:
        return (self.directory / "log").read_text()


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Callable[..., Family]]:
    made: list[Family] = []

    def make(*arguments: object, **options: object) -> Family:
        made.append(Family(tmp_path, *arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.process.kill()
        each.process.wait()


def alive(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_stops_all(family: Callable[..., Family], number: signal.Signals) -> None:
    own = family(LIVES, count=3)
    pids = own.wait_for(3)
    own.process.send_signal(number)
    assert own.process.wait(10) == 0
    assert not any(map(alive, pids))
    assert "died" not in own.log()


def test_a_second_signal_ends_those_that_do_not_stop(family: Callable[..., Family]) -> None:
    own = family("signal.signal(signal.SIGTERM, lambda *_: open('asked', 'w')); note(); tell_supervisor()\ngo('never')")
    pids = own.wait_for(2)
    own.process.terminate()
    wait_until((own.directory / "asked").exists)
    assert own.process.poll() is None
    own.process.terminate()
    assert own.process.wait(10) == 128 + signal.SIGTERM
    assert not any(map(alive, pids))


def test_when_one_is_killed_all_are_started_again(family: Callable[..., Family]) -> None:
    own = family(LIVES, restarts=3)
    first = own.wait_for(2)
    os.kill(first[1], signal.SIGKILL)
    pids = own.wait_for(4)
    assert not any(map(alive, first))
    assert all(map(alive, pids[2:]))
    assert "SIGKILL" in own.log()
    own.process.terminate()
    assert own.process.wait(10) == 0


def test_after_the_last_restart_it_ends_with_the_code_of_the_one_that_died(family: Callable[..., Family]) -> None:
    child = "tell_supervisor(); note()\nif number: print('its last words', file=sys.stderr); os._exit(3)\ngo('never')"
    own = family(child, restarts=2)
    assert own.process.wait(30) == 3
    assert len([number for number, _ in own.children() if number == 1]) == 3
    assert own.log().count("its last words") == 3
    assert "exit_code=3" in own.log()
    assert "process=1" in own.log()


def test_a_stop_before_the_next_restart_is_clean(family: Callable[..., Family]) -> None:
    own = family("tell_supervisor(); note(); os._exit(3)", count=1, restarts=2, delay_s=60.0)
    wait_until(lambda: "started again" in own.log(), 30)
    own.process.terminate()
    assert own.process.wait(10) == 0
    assert len(own.children()) == 1


def test_what_was_wrong_from_the_start_is_said_once_and_not_tried_again(family: Callable[..., Family]) -> None:
    own = family("note(); print('a mistake', file=sys.stderr); sys.exit(1)", count=3, restarts=5)
    assert own.process.wait(30) == 1
    assert own.log().count("a mistake") == 1
    assert [number for number, _ in own.children()] == [0]


def test_one_that_ends_without_being_asked_to_is_not_well_either(family: Callable[..., Family]) -> None:
    own = family("tell_supervisor(); note()\nif number: os._exit(0)\ngo('never')")
    assert own.process.wait(30) == 1


def test_when_the_supervisor_is_killed_its_children_end_too(family: Callable[..., Family]) -> None:
    own = family(LIVES, count=3)
    pids = own.wait_for(3)
    own.process.kill()
    wait_until(lambda: not any(map(alive, pids)))


def test_each_process_gets_a_port_of_its_own() -> None:
    ports = free_ports(16)
    assert len(set(ports)) == 16
