"""The real job as a subprocess, for integration tests: its configuration, its life and its death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


def configuration(
    directory: Path, *, actions: dict[str, Any] | None = None, rule: dict[str, Any] | None = None, **topic: Any
) -> dict[str, Any]:
    """A configuration like the shipped one, small enough for a test: state in `directory`, topic `products`.

    The topics carry a prefix of the directory's name, so that tests share a cluster without sharing topics.
    """
    prefix = directory.name
    actions = actions if actions is not None else {"log": {"type": "log"}}
    return {
        "kafka": {"consumer_group": prefix, "topic_prefix": prefix, "replication_factor": 1},
        "topics": {
            f"{prefix}.products": {"partitions": 2, "replication_factor": 1, "lateness": "2s", "idle_timeout": "2s"}
            | topic
        },
        "rules": [
            {
                "name": "hot-product",
                "topic": f"{prefix}.products",
                "where": {"action": "add"},
                "key": "product.name",
                "count": {"at_least": 20, "within": "5s"},
                "actions": list(actions),
            }
            | (rule or {})
        ],
        "actions": actions,
        "state": {"directory": str(directory / "state")},
    }


class Job:
    """`tua run` with a configuration. Its output goes to files, so that nothing is lost when it is killed."""

    def __init__(self, directory: Path, config: dict[str, Any], bootstrap: str, **environment: str) -> None:
        self.directory, self.config, self.bootstrap = directory, config, bootstrap
        self.config_path = directory / "tua.yaml"
        self.environment = {**os.environ, "TUA_BOOTSTRAP_SERVERS": bootstrap, "TUA_CONFIG": str(self.config_path)}
        self.environment.update(environment)
        self.process: subprocess.Popen[bytes] | None = None
        self.write_config()

    @property
    def topic(self) -> str:
        """The products topic of this test."""
        return next(iter(self.config["topics"]))

    @property
    def prefix(self) -> str:
        """Of the job's own topics, and the name of its consumer group."""
        return str(self.config["kafka"]["topic_prefix"])

    def write_config(self) -> None:
        # JSON is YAML; a YAML writer would use anchors for values that occur twice.
        self.config_path.write_text(json.dumps(self.config, indent=2), encoding="utf-8")

    def start(self, *arguments: str, wait: bool = True, epoch_s: int | None = None) -> Job:
        """`tua run` with `arguments`; with `epoch_s` by Bytewax's own command, which says how long epochs are."""
        command = ["tua", "run", "--config", str(self.config_path), *arguments]
        if epoch_s is not None:
            recovery = self.directory / "recovery"
            if not recovery.exists():
                recovery.mkdir()
                subprocess.run([sys.executable, "-m", "bytewax.recovery", str(recovery), "2"], check=True)
            command = ["bytewax.run", "dataflows.activity_alerts", "-r", str(recovery), "-s", str(epoch_s), "-b", "0"]
        already = self.log().count('"watching"')
        with (self.directory / "stdout").open("ab") as out, (self.directory / "stderr").open("ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        if wait:
            self.wait_for(lambda: self.log().count('"watching"') > already, "the job to watch its topics")
        return self

    def wait_for(self, condition: Any, what: str, timeout: float = 60) -> None:
        """Wait for a condition; a job that died meanwhile fails the test with what it said."""

        def met() -> bool:
            if condition():
                return True
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(
                    f"the job ended with {self.process.returncode} before {what}:\n{self.log()[-5000:]}"
                )
            return False

        try:
            wait_until(met, timeout)
        except AssertionError as error:
            raise AssertionError(f"waited for {what}: {error}\n{self.log()[-5000:]}") from None

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 30) -> int:
        """Stop it as an operator would; the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def log(self) -> str:
        """What the job wrote to standard error, in all its lives."""
        path = self.directory / "stderr"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def output(self) -> str:
        return (self.directory / "stdout").read_text(encoding="utf-8", errors="replace")
