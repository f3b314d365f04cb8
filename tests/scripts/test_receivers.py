"""scripts/receivers.py as a person runs it."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.support.receivers import free_port

SCRIPT = Path(__file__).parents[2] / "scripts/receivers.py"


def receivers(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments], env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_they_print_what_comes_to_the_ports_that_were_given(number: signal.Signals) -> None:
    mail_port, web_port = free_port(), free_port()
    with receivers("--mail-port", str(mail_port), "--web-port", str(web_port)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert f"http://localhost:{web_port}/alerts" in process.stderr.readline()
        with smtplib.SMTP("127.0.0.1", mail_port) as client:
            client.sendmail("a@x.com", "b@x.com", "To: b@x.com\nSubject: fire\n\nin the shop")
        assert process.stdout.readline() == "mail to b@x.com: fire\n"
        body = b'{"data": {"status": "opened", "message": "fire"}}'
        with urlopen(Request(f"http://127.0.0.1:{web_port}/alerts", body)):
            assert process.stdout.readline() == "webhook (unsigned): opened: fire\n"
        process.send_signal(number)
        assert (process.wait(30), process.stderr.read()) == (0, "")


def test_help_starts_nothing() -> None:
    with receivers("--help") as process:
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "1025" in said
    assert "8090" in said


@pytest.mark.parametrize("taken", ["--mail-port", "--web-port"])
def test_a_port_that_is_taken_is_named(taken: str) -> None:
    other = "--web-port" if taken == "--mail-port" else "--mail-port"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with receivers(taken, str(port), other, str(free_port())) as process:
            _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said == f"port {port}: Address already in use. End what has it, or give another with {taken}\n"
