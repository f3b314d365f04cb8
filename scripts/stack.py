"""The parts of the system as processes of this machine, on an embedded broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Producer

ROOT = Path(__file__).parents[1]


def embedded_broker() -> tuple[Producer, str]:
    """librdkafka's own mock broker, which lives as long as this producer; and its address."""
    owner = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "embedded", "log_level": 0})
    brokers = owner.list_topics(timeout=10).brokers.values()
    return owner, ",".join(f"{broker.host}:{broker.port}" for broker in brokers)


def start_job(state: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """The job by Bytewax's own command, with the recovery store that it makes in its state: an epoch a second."""
    store = ("-r", str(state / "recovery"), "-s", "1", "-b", "0")
    environment = {**environment, "TUA_STATE_DIRECTORY": str(state)}
    return _start(environment, "bytewax.run", "dataflows.activity_alerts", *store)


def start_intake(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """The HTTP intake."""
    return _start(environment, "tua", "serve")


def _start(environment: dict[str, str], *module: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", *module],
        cwd=ROOT,
        env={**os.environ, "TUA_CONFIG": str(ROOT / "tua.yaml"), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is ours to handle: what was started is stopped in order
    )


def is_ready(intake_url: str) -> bool:
    """Whether the intake would take events now."""
    # Not through a proxy that the environment may name.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{intake_url}/health/ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait(until: Callable[[], bool], process: subprocess.Popen[bytes], limit_s: float) -> bool:
    """Whether it came true in time; at once False when the process has died."""
    deadline = time.monotonic() + limit_s
    while not until():
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def stop(process: subprocess.Popen[bytes]) -> None:
    """As an operator would; at the end by force."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
