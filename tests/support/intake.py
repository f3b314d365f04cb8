"""`tua serve` as a subprocess, and clients of it: one for questions, one for bytes that no library would send."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx2

from tests.support.job import ROOT
from tests.support.receivers import free_port
from tests.support.waiting import wait_until

ORDER = {"product": {"id": "17", "name": "Nokia", "price": 153.94}, "action": "add"}
JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}


def configuration(*topics: str, **intake: Any) -> dict[str, Any]:
    """Topics with a rule each, as the shipped one, and the settings of the intake; the first is that of products."""
    names = topics or ("products",)
    rule = {"where": {"action": "add"}, "key": "product.name", "count": {"at_least": 20, "within": "5s"}}
    return {
        "topics": {name: {} for name in names},
        "rules": [{"name": f"hot-{number}", "topic": name, **rule} for number, name in enumerate(names)],
        "intake": {"port": free_port(), "products_topic": names[0], **intake},
    }


class Intake:
    """A server of its own, and `client` for it. Its log goes to a file, so that nothing is lost when it is killed."""

    def __init__(self, directory: Path, config: dict[str, Any], bootstrap: str, **environment: str) -> None:
        self.config = config
        self.config_path = directory / "intake.yaml"
        self.config_path.write_text(json.dumps(config), encoding="utf-8")
        self._log_path = directory / "intake.log"
        self._environment = {**os.environ, "TUA_BOOTSTRAP_SERVERS": bootstrap, **environment}
        self.port: int = config["intake"]["port"]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx2.Client(base_url=self.url, timeout=20)
        self.process: subprocess.Popen[bytes]

    def launch(self) -> Self:
        command = [sys.executable, "-m", "tua", "serve", "--config", str(self.config_path)]
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def start(self, *, ready: bool = True) -> Self:
        self.launch()
        self.wait_for("ready" if ready else "live")
        return self

    def wait_for(self, state: str, status: int = 200) -> None:
        """Until /health/`state` answers with that status."""

        def is_so() -> bool:
            assert self.process.poll() is None, self.log()
            with suppress(httpx2.TransportError):
                return self.client.get(f"/health/{state}").status_code == status
            return False

        wait_until(is_so, 60, f"/health/{state} to be {status}")

    def post(self, topic: str, content: Any, **headers: str) -> httpx2.Response:
        """One event, or several as a list; bytes as they are."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(f"/api/events/{topic}", content=body, headers=JSON | names)

    def talk(self, *parts: bytes) -> socket.socket:
        """A connection on which the parts have been sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        for part in parts:
            connection.sendall(part)
        return connection

    def memory_kb(self) -> int:
        """Resident memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        return self._log_path.read_text(encoding="utf-8", errors="replace")


def answer_of(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    found = b""
    with connection:
        while part := connection.recv(65_536):
            found += part
    return found
