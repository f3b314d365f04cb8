"""scripts/webhook_receiver.py as docker-compose.yml runs it: on an address of the network, with the job's packages."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.request import Request, urlopen

from tests.support.receivers import free_port

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/webhook_receiver.py"
BODY = b'{"data": {"status": "opened", "message": "fire"}}'


def receiver(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments], env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}, cwd="/",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_it_prints_what_comes_to_any_address_of_its_host() -> None:
    port = free_port()
    with receiver("--host", "0.0.0.0", "--port", str(port)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == f"webhooks on port {port} of 0.0.0.0; Ctrl-C ends\n"
        # All of 127.0.0.0/8 is this machine; who listens on 127.0.0.1 alone is not found on the other.
        with urlopen(Request(f"http://127.0.0.2:{port}/alerts", BODY)):
            assert process.stdout.readline() == "webhook (unsigned): opened: fire\n"
        with urlopen(Request(f"http://127.0.0.2:{port}/alerts", BODY, {"webhook-signature": "v1,x"})):
            assert process.stdout.readline() == "webhook (signed): opened: fire\n"
        process.send_signal(signal.SIGTERM)
        assert (process.wait(30), process.stderr.read()) == (0, "")


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with receiver("--port", str(port)) as process:
            _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said == f"port {port}: Address already in use. End what has it, or give another with --port\n"


def test_it_needs_no_package_that_the_job_does_not() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[^\w-]", one)[0] for one in project["dependencies"]}
    imported = set(re.findall(r"^(?:import|from) (\w+)", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE))
    assert imported - sys.stdlib_module_names <= needed
