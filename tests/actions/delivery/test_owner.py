"""Who lives and who is dead, by locks that the kernel lets go of: real processes, a real kill."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from actions.delivery.owner import Owner

PROGRAM = """
import sys
from pathlib import Path
from actions.delivery.owner import Owner

print(Owner(Path(sys.argv[1])).name, flush=True)
sys.stdin.readline()
"""
ROOT = Path(__file__).parents[3]


def test_an_owner_lives_until_it_is_closed(tmp_path: Path) -> None:
    one, other = Owner(tmp_path / "owners"), Owner(tmp_path / "owners")
    assert one.name != other.name
    assert not other.is_dead(one.name)
    assert not one.is_dead(one.name)
    one.close()
    assert other.is_dead(one.name)
    other.close()
    other.close()
    assert list((tmp_path / "owners").iterdir()) == []


def test_who_is_unknown_is_dead(tmp_path: Path) -> None:
    assert Owner(tmp_path).is_dead("4711-aa")


def test_a_killed_process_is_dead_at_once_and_its_file_goes_at_the_next_start(tmp_path: Path) -> None:
    one = Owner(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert not one.is_dead(name)
        process.kill()
        process.wait(30)
    assert (tmp_path / name).exists()
    two = Owner(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {one.name, two.name}
    assert one.is_dead(name)
