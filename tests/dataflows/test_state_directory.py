import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dataflows.state_directory import StateDirectory, StateDirectoryError

HOLDER = """
import sys
from pathlib import Path
from dataflows.state_directory import StateDirectory
StateDirectory(Path(sys.argv[1])).lock(sys.argv[2:])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hold(tmp_path: Path):
    """Starts a process that locks `tmp_path/state` with the given arguments of bytewax.run; gives the process."""
    holders: list[subprocess.Popen[str]] = []

    def start(*argv: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "state"), *argv]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holders.append(holder)
        return holder

    yield start
    for holder in holders:
        holder.kill()
        holder.communicate()


def test_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    os.umask(0o022)
    StateDirectory(tmp_path / "deep" / "state")
    assert stat.S_IMODE((tmp_path / "deep" / "state").stat().st_mode) == 0o700


def test_one_that_is_there_keeps_its_mode_and_is_refused_where_others_may_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    StateDirectory(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    for mode in (0o777, 0o770, 0o1777):
        tmp_path.chmod(mode)
        with pytest.raises(StateDirectoryError, match="others may write to it"):
            StateDirectory(tmp_path)


def test_the_recovery_store_is_made_whole_and_kept(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "state")
    directory.prepare_recovery([])
    parts = sorted(path.name for path in directory.recovery.iterdir())
    assert parts == [f"part-{number}.sqlite3" for number in range(4)]
    assert stat.S_IMODE(directory.recovery.stat().st_mode) == 0o700
    before = {path: path.stat().st_mtime_ns for path in directory.recovery.iterdir()}
    directory.prepare_recovery([])
    assert before == {path: path.stat().st_mtime_ns for path in directory.recovery.iterdir()}
    assert [path.name for path in directory.path.iterdir()] == ["recovery"], "nothing is left of its making"


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"no database"), Path.touch])
def test_a_damaged_recovery_store_is_said_with_what_to_do(tmp_path: Path, damage) -> None:
    directory = StateDirectory(tmp_path / "state")
    directory.prepare_recovery([])
    damage(directory.recovery / ("part-4.sqlite3" if damage is Path.touch else "part-2.sqlite3"))
    with pytest.raises(StateDirectoryError, match=r"recovery is damaged or lacks a part.* remove it"):
        directory.prepare_recovery([])


def test_a_second_job_is_told_who_holds_the_directory(tmp_path: Path, hold) -> None:
    holder = hold("bytewax.run")
    with pytest.raises(StateDirectoryError, match=f"in use by process {holder.pid} on "):
        StateDirectory(tmp_path / "state").lock(["bytewax.run"])


def test_a_killed_job_holds_nothing(tmp_path: Path, hold) -> None:
    holder = hold("bytewax.run")
    holder.kill()
    holder.wait()
    StateDirectory(tmp_path / "state").lock(["bytewax.run"])


def test_processes_of_a_cluster_share_it_but_none_comes_twice(tmp_path: Path, hold) -> None:
    addresses = ("-a", "127.0.0.1:1;127.0.0.1:2")
    hold("-i", "0", *addresses)
    hold("-i", "1", *addresses)
    for argv in (
        ["-i", "1", *addresses],
        ["-i1", f"-a{addresses[1]}"],
        [f"--addresses={addresses[1]}", "--process-id=1"],
    ):
        with pytest.raises(StateDirectoryError, match="as process 1 of a cluster"):
            StateDirectory(tmp_path / "state").lock(argv)
    with pytest.raises(StateDirectoryError, match="in use"):
        StateDirectory(tmp_path / "state").lock(["bytewax.run"])


def test_a_directory_that_cannot_be_made_is_said_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirectoryError, match=r"state\.directory .*file/state: .*Set state\.directory"):
        StateDirectory(tmp_path / "file" / "state")
