"""A cluster over several hosts, here in several directories: each makes its own part, and nothing is lost unsaid."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dataflows.recovery_part import make_part, parts_in
from dataflows.state_directory import PARTS_VARIABLE, StateDirectory, StateDirectoryError
from tests.support.receivers import free_port

HOSTS = "host0:2101;host1:2101;host2:2101"
FLOW = """
import datetime as dt
import bytewax.operators as op
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

class Part(StatefulSourcePartition):
    def __init__(self, name, state):
        print(name, "with state" if state else "without state", flush=True)
        self.until = dt.datetime.now() + dt.timedelta(seconds=2.2)
    def next_batch(self):
        if dt.datetime.now() > self.until:
            raise StopIteration
        return []
    def next_awake(self):
        return dt.datetime.now(dt.UTC) + dt.timedelta(milliseconds=20)
    def snapshot(self):
        return 1

class Source(FixedPartitionedSource):
    def list_parts(self):
        return [f"in{number:02}" for number in range(16)]
    def build_part(self, step, name, state):
        return Part(name, state)

flow = Dataflow("flow")
op.output("out", op.input("in", flow, Source()), StdOutSink())
"""


def prepare(path: Path, process: int, addresses: str = HOSTS) -> Path:
    directory = StateDirectory(path)
    directory.prepare_recovery(["-i", str(process), "-a", addresses])
    return directory.recovery


def start(tmp_path: Path, directories: list[Path]) -> list[tuple[int, str]]:
    """A cluster with a process for each directory, until its end: exit codes and outputs."""
    (tmp_path / "flow.py").write_text(FLOW)
    addresses = ";".join(f"127.0.0.1:{free_port()}" for _ in directories)
    command = [sys.executable, "-m", "bytewax.run", "flow", "-a", addresses, "-s", "1", "-b", "0"]
    processes = [
        subprocess.Popen(
            [*command, "-i", str(number), "-r", str(directory)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, directory in enumerate(directories)
    ]
    try:
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def states(results: list[tuple[int, str]]) -> tuple[int, int]:
    """How many slots began with state, and how many without, in a cluster that ended well."""
    assert [code for code, _ in results] == [0] * len(results), results
    text = "".join(output for _, output in results)
    return text.count("with state"), text.count("without state")


def test_each_process_makes_the_part_of_its_number_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PARTS_VARIABLE, "3")
    for process in range(3):
        recovery = prepare(tmp_path / str(process), process)
        (part,) = recovery.iterdir()
        assert (part.name, parts_in(recovery)) == (f"part-{process}.sqlite3", {process: 3})
        assert stat.S_IMODE(recovery.stat().st_mode) == 0o700
        assert [path.name for path in recovery.parent.iterdir()] == ["recovery"], "nothing is left of its making"
        before = part.read_bytes()
        prepare(tmp_path / str(process), process)
        assert part.read_bytes() == before


def test_a_process_beyond_the_parts_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PARTS_VARIABLE, "2")
    assert not prepare(tmp_path / "state", 2).exists()


def test_several_hosts_must_say_how_many_parts_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PARTS_VARIABLE, raising=False)
    with pytest.raises(StateDirectoryError, match=r"several hosts \(host0:2101; .* set TUA_RECOVERY_PARTS"):
        prepare(tmp_path / "state", 0)
    one_host = prepare(tmp_path / "one", 0, "127.0.0.1:2101;localhost:2102;[::1]:2103")
    assert parts_in(one_host) == dict.fromkeys(range(4), 4)


@pytest.mark.parametrize("text", ["", "0", "-1", "65", "three", "²"])
def test_what_is_no_number_of_parts_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(PARTS_VARIABLE, text)
    with pytest.raises(StateDirectoryError, match=f"TUA_RECOVERY_PARTS is '{text}', and not a number from 1 to 64"):
        prepare(tmp_path / "state", 0)


def test_the_number_of_parts_is_not_to_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PARTS_VARIABLE, "3")
    prepare(tmp_path / "state", 0)
    monkeypatch.setenv(PARTS_VARIABLE, "4")
    with pytest.raises(StateDirectoryError, match="of a set of 3 parts, and TUA_RECOVERY_PARTS says 4"):
        prepare(tmp_path / "state", 0)


def test_too_few_processes_make_no_new_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PARTS_VARIABLE, "4")
    with pytest.raises(StateDirectoryError, match="no part 0, and 3 processes cannot make the 4 parts"):
        prepare(tmp_path / "state", 0)


def test_a_damaged_part_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PARTS_VARIABLE, "3")
    recovery = prepare(tmp_path / "state", 0)
    for damage in (b"no database", b""):
        (recovery / "part-0.sqlite3").write_bytes(damage)
        with pytest.raises(StateDirectoryError, match="is damaged or lacks a part"):
            prepare(tmp_path / "state", 0)


def test_a_cluster_goes_on_with_its_parts_wherever_they_are(tmp_path: Path) -> None:
    places = [tmp_path / str(number) for number in range(3)]
    for number in range(2):
        make_part(places[number], number, 2)
    assert states(start(tmp_path, places[:2])) == (0, 16)
    places[2].mkdir()
    assert states(start(tmp_path, places)) == (16, 0), "more processes than parts"
    (places[1] / "part-1.sqlite3").rename(places[0] / "part-1.sqlite3")
    assert states(start(tmp_path, places[:1])) == (16, 0), "fewer processes than parts"


def test_a_cluster_refuses_a_part_that_was_lost_and_made_anew(tmp_path: Path) -> None:
    places = [tmp_path / str(number) for number in range(2)]
    for number in range(2):
        make_part(places[number], number, 2)
    assert states(start(tmp_path, places)) == (0, 16)
    shutil.rmtree(places[1])
    make_part(places[1], 1, 2)
    for _ in range(2):
        results = start(tmp_path, places)
        assert all(code != 0 for code, _ in results), results
        assert "state" not in "".join(output for _, output in results)
