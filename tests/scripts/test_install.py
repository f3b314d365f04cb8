"""scripts/install, in a project of its own that has no dependencies to fetch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/install", tmp_path / "scripts/install")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "nothing"\nversion = "1"\n', encoding="utf-8")
    (tmp_path / "constraints.txt").touch()
    return tmp_path


def install(project: Path, **environment: str) -> subprocess.Popen[str]:
    """The script, with no way to the outside: what it does last, installing the project itself, must fail."""
    return subprocess.Popen(
        [project / "scripts/install"], env={**os.environ, "PIP_NO_INDEX": "1", **environment}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def test_an_installation_that_was_interrupted_begins_again(project: Path) -> None:
    interrupted = install(project)
    wait_until((project / ".venv/bin/python").exists)
    os.killpg(interrupted.pid, signal.SIGINT)
    said, _ = interrupted.communicate()
    assert interrupted.returncode == 130, said
    assert said.splitlines() == ["installing into .venv (once) …", "interrupted; the next time it begins again"]
    said, _ = install(project, PIP_FIND_LINKS="").communicate()
    assert "No module named pip" not in said
    subprocess.run([project / ".venv/bin/python", "-m", "pip", "--version"], check=True, stdout=subprocess.DEVNULL)


def test_a_python_that_can_make_no_environment_is_said_with_what_to_install(project: Path) -> None:
    broken = project / "python3.12"
    broken.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\nexec {sys.executable} -c "import no_ensurepip"\n')
    broken.chmod(0o755)
    process = install(project, PATH=f"{project}:/usr/bin:/bin")
    said, _ = process.communicate()
    assert process.returncode == 1
    assert "apt-get install python3-venv" in said
