"""scripts/bench: what it says when it can't run. Its figures are for people."""

import subprocess
import sys
from pathlib import Path


def test_missing_java_ends_it_with_what_to_install(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "scripts.bench", "latency"], cwd=Path(__file__).parents[2], env={"PATH": str(tmp_path)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 1
    assert answer.stderr.startswith("Java is not installed")
    assert len(answer.stderr.splitlines()) == 1
