"""The real job as a process of its own, seen from outside: its life, its processor time, its memory, its writing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from scripts.benchmarks.cluster import ROOT
from scripts.benchmarks.orders import Rule

_START_S = 120.0
_STOP_S = 120.0
_TICKS = os.sysconf("SC_CLK_TCK")


class JobFailed(Exception):
    """The job ended, or did not do its part in time; with what it said last."""


class Usage(NamedTuple):
    """Of all processes of a job since they started; `peak_bytes` is the sum of each one's highest."""

    cpu_s: float
    resident_bytes: int
    peak_bytes: int
    written_bytes: int


def configuration(
    name: str,
    bootstrap: str,
    topic: str,
    partitions: int,
    rules: Sequence[Rule],
    state: Path,
    actions: dict[str, Any] | None = None,
    **of_topic: Any,
) -> dict[str, Any]:
    """As shipped but for the action, which is the log where nothing else is given. `name`: its group and prefix."""
    actions = {"log": {"type": "log"}} if actions is None else actions
    return {
        "kafka": {
            "bootstrap_servers": bootstrap, "consumer_group": name, "topic_prefix": name, "replication_factor": 1,
        },
        "topics": {topic: {"partitions": partitions, "replication_factor": 1} | of_topic},
        "rules": [
            {
                "name": rule.name, "topic": topic, "where": {"action": "add"}, "key": "product.name",
                "count": {"at_least": rule.threshold, "within": f"{rule.window_ms}ms"}, "actions": list(actions),
            }
            for rule in rules
        ],
        "actions": actions,
        "state": {"directory": str(state)},
    }  # fmt: skip


class Job:
    """`tua run` on a configuration; without `recovery` the same job by Bytewax's own command, which keeps nothing.

    It has a directory of its own, where its log is.
    """

    def __init__(self, directory: Path, config: dict[str, Any], *, recovery: bool = True, processes: int = 1) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._log, self._recovery, self._processes = directory / "log", recovery, processes
        self._config = directory / "tua.yaml"
        self._config.write_bytes(msgspec.json.encode(config))  # JSON is YAML
        self._process: subprocess.Popen[bytes] | None = None
        self.started_s = 0.0

    def start(self, *, wait: bool = True) -> None:
        """Start it; with `wait` until it watches its topics. Raises JobFailed when it does not."""
        command = ["-m", "tua", "run", "--config", str(self._config)]
        if self._processes > 1:
            command += ["--processes", str(self._processes)]
        if not self._recovery:
            command = ["-m", "bytewax.run", "dataflows.activity_alerts"]
        # What a shell has set for another job must not change this one.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("TUA_", "BYTEWAX_"))}
        before = self.log().count('"watching"')
        self.started_s = time.time()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, env=environment | {"TUA_CONFIG": str(self._config)},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _START_S
        while wait and self.log().count('"watching"') <= before:
            self.check()
            if time.monotonic() > deadline:
                raise JobFailed(f"the job did not watch its topics within {_START_S:.0f} s:\n{self.log()[-2000:]}")
            time.sleep(0.02)

    def check(self) -> None:
        """Raise JobFailed if it has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise JobFailed(f"the job ended with {self._process.returncode}:\n{self.log()[-2000:]}")

    def log(self) -> str:
        """What it has said so far, in all its lives."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def stop(self) -> None:
        """As an operator would; raises JobFailed unless it ends cleanly."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            raise JobFailed(f"the job did not stop within {_STOP_S:.0f} s:\n{self.log()[-2000:]}") from None
        if code:
            raise JobFailed(f"the job stopped with {code}:\n{self.log()[-2000:]}")

    def kill(self) -> None:
        """End it at once with all its processes. Does nothing to one that has ended."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def usage(self) -> Usage:
        """Raises JobFailed if it has ended."""
        self.check()
        assert self._process is not None
        parts = [found for pid in _family(self._process.pid) if (found := _usage_of(pid)) is not None]
        return Usage(
            sum(part.cpu_s for part in parts),
            sum(part.resident_bytes for part in parts),
            sum(part.peak_bytes for part in parts),
            sum(part.written_bytes for part in parts),
        )


@contextmanager
def running(job: Job) -> Iterator[Job]:
    """A job that is gone with the block: stopped by it, or else killed."""
    try:
        job.start()
        yield job
    finally:
        job.kill()


def _family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def _usage_of(pid: int) -> Usage | None:
    place = Path("/proc") / str(pid)
    try:
        times = (place / "stat").read_text().rpartition(")")[2].split()[11:13]
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        io = dict(line.split(": ", 1) for line in (place / "io").read_text().splitlines())
    except OSError:
        return None
    resident, peak = (int(status.get(name, "0 kB").split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return Usage(sum(map(int, times)) / _TICKS, resident, peak, int(io["write_bytes"]))
