"""What the README shows: the demo, the load, the walk through."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.load_orders import PRODUCTS
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
COMMANDS = [line.partition("#")[0].strip() for line in SHOWN.splitlines()]


def shell(command: str, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command as the README has it, and perhaps more arguments, in the repository's root."""
    assert command in COMMANDS, "the README does not show it"
    return subprocess.run(
        ["bash", "-c", " ".join((command, *more))], cwd=ROOT, env={**os.environ, **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


def test_the_demo_shows_that_what_arrived_is_what_was_expected() -> None:
    # What a shell has set for another job changes nothing.
    result = shell("scripts/demo", TUA_BOOTSTRAP_SERVERS="garbage", TUA_LOG_LEVEL="WARNING")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "100 orders and 5 deletes" in result.stdout
    for expected in ("[warning] hot-product: Nokia", "[resolved] hot-product: iPhone", "webhook (signed): opened"):
        assert expected in result.stdout
    assert result.stdout.count("as it must be") == len(PRODUCTS)
    assert "wrong" not in result.stdout


@pytest.mark.parametrize(
    ("written", "instead", "said"),
    [
        ("key: product.name", "kei: product.name", "error: unknown setting 'kei' (did you mean 'key'?)"),
        ("where: {action: add}", "where: {action: delete}", "no rule is about the orders of the demo"),
        ("actions: [log, support-email, shop-webhook]", "actions: []", "'hot-product' names no log, email or webhook"),
    ],
)
def test_a_configuration_that_the_demo_cannot_show_is_said(
    written: str, instead: str, said: str, tmp_path: Path
) -> None:
    for package in ("actions", "connectors", "dataflows", "detection", "scripts", "settings", "tua"):
        (tmp_path / package).symlink_to(ROOT / package)
    shipped = (ROOT / "tua.yaml").read_text(encoding="utf-8")
    assert written in shipped
    (tmp_path / "tua.yaml").write_text(shipped.replace(written, instead), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "scripts.demo"], cwd=tmp_path, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (1, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_ctrl_c_ends_the_demo_and_leaves_no_process() -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "scripts.demo"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if "opened" in line:
            break
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text(encoding="ascii").split()
    assert children
    demo.send_signal(signal.SIGINT)
    rest = demo.stdout.read()
    assert demo.wait(30) == 130, rest
    assert "Traceback" not in rest
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def test_the_demo_can_be_kept_and_an_alert_raised_by_what_it_says_to_paste() -> None:
    assert "scripts/demo --keep" in COMMANDS
    demo = subprocess.Popen(
        [sys.executable, "-m", "scripts.demo", "--keep"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert demo.stdout is not None
    lines = iter(demo.stdout)
    said = list(itertools.takewhile(lambda line: "Ctrl-C ends it" not in line, lines))
    [curl] = [line.strip() for line in said if line.startswith("curl ")]
    pasted = subprocess.run(["bash", "-c", f"{curl}\n" * 20], capture_output=True, text=True, check=True, timeout=60)
    assert pasted.stdout.count('"topic":"products"') == 20
    wanted = {"log: opened: Product 'Nokia'", "webhook (signed): opened", "[warning] hot-product: Nokia"}
    while wanted:
        line = next(lines)
        wanted -= {what for what in wanted if what in line}
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text(encoding="ascii").split()
    demo.send_signal(signal.SIGINT)
    rest = demo.stdout.read()
    assert demo.wait(30) == 0, rest
    assert "Traceback" not in rest
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def test_the_rules_can_be_tried_on_orders_that_were_written() -> None:
    try:
        assert shell(".venv/bin/tua check").returncode == 0
        tested = shell(".venv/bin/tua send-test log")
        assert (tested.returncode, '"test":true' in tested.stdout) == (0, True)
        assert "log: delivered: written" in tested.stdout
        written = shell(".venv/bin/python scripts/load_orders.py --write orders.jsonl")
        assert written.returncode == 0, written.stderr
        result = shell(".venv/bin/tua backtest --events orders.jsonl")
        assert result.returncode == 0, result.stderr
        for line in result.stdout.splitlines():
            assert line.rstrip() in README
    finally:
        (ROOT / "orders.jsonl").unlink(missing_ok=True)


@pytest.mark.kafka
def test_the_walk_through_on_a_real_kafka(tmp_path: Path) -> None:
    environment = {"TUA_STATE_DIRECTORY": str(tmp_path / "state")}
    place = f"--dir={tmp_path / 'kafka'}"
    background = []
    try:
        started = shell("scripts/kafka start", place)
        assert started.returncode == 0, started.stderr
        outputs = []
        for command in (".venv/bin/python scripts/receivers.py", ".venv/bin/tua run"):
            assert command in COMMANDS
            out = tmp_path / str(len(outputs))
            outputs.append(out)
            with out.open("wb") as stream:
                background.append(
                    subprocess.Popen(
                        command.split(), cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
                        stdout=stream, stderr=stream,
                    )
                )  # fmt: skip
        received, log = outputs
        wait_until(lambda: "watching" in log.read_text(encoding="utf-8"), 60)
        loaded = shell(".venv/bin/python scripts/load_orders.py")
        assert loaded.returncode == 0, loaded.stderr
        assert "Nokia" in loaded.stdout
        for what in ("webhook (unsigned): opened", "[warning] hot-product: Nokia", "[warning] hot-product: iPhone"):
            wait_until(lambda what=what: what in received.read_text(encoding="utf-8"), 30, what)
        background[1].send_signal(signal.SIGINT)
        assert background[1].wait(30) == 0
    finally:
        for process in background:
            process.kill()
            process.wait()
        shell("scripts/kafka stop", place)
