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


def test_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    os.umask(0o022)
    (tmp_path / "state").mkdir(mode=0o755)
    StateDirectory(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


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
    with pytest.raises(StateDirectoryError, match="as process 1 of a cluster"):
        StateDirectory(tmp_path / "state").lock(["-i", "1", *addresses])
    with pytest.raises(StateDirectoryError, match="in use"):
        StateDirectory(tmp_path / "state").lock(["bytewax.run"])


def test_a_directory_that_cannot_be_made_is_said_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirectoryError, match=r"state\.directory .*file/state: .*Set state\.directory"):
        StateDirectory(tmp_path / "file" / "state")
