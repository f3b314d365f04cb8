"""Secrets are in nothing that was printed, stored or sent elsewhere, also when everything goes wrong."""

from __future__ import annotations

import asyncio
import base64
import logging
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes

import prometheus_client
import pytest
import structlog

from settings import RetrySettings, Secret
from tests.actions.conftest import Start
from tests.support.delivering import Broker, action, email_action, opened
from tests.support.receivers import HttpReceiver, MailReceiver, RawServer, Reply, free_port
from tests.support.waiting import wait_until

TOKEN = "T0kenInTheUrl"
USER_INFO = "pa55InUserInfo"
HOOK = "whsec_" + base64.b64encode(b"the key of the webhook!!").decode()
PASSWORD = "M4ilPassword"
NAME = "m4iluser"


def forms(secret: str) -> list[bytes]:
    plain = secret.encode()
    return [plain, plain.hex().encode(), base64.b64encode(plain)[:-4]]


def test_secrets_are_found_nowhere(
    start: Start,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    async def nonsense(reader: object, writer: object) -> None:
        writer.write(b"HTTP/1.1 two hundred\r\n\r\n")  # type: ignore[attr-defined]

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        target = head.split(b" ")[1]
        said = b" ".join((target, unquote_to_bytes(target), target.replace(b"/", b"\\/"), head))
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n" % len(said) + said)

    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    hang = RetrySettings(delays=(10,), give_up=400)
    with (
        HttpReceiver(default=Reply(500)) as failing,
        HttpReceiver() as fine,
        HttpReceiver(default=Reply(404)) as refusing,
        RawServer(nonsense) as broken,
        RawServer(echo) as echoing,
        MailReceiver(login=("other", "other")) as mail,
    ):
        hosts = {
            "failing": f"http://user:{USER_INFO}@127.0.0.1:{failing.port}/{TOKEN}?key={TOKEN}",
            "fine": f"{fine.url}/{TOKEN}",
            "echoing": f"http://user:{USER_INFO}@127.0.0.1:{echoing.port}/of%20{TOKEN}?key={TOKEN}",
            "broken": f"http://127.0.0.1:{broken.port}/{TOKEN}",
            "refusing": f"{refusing.url}/{TOKEN}",
            "down": f"http://127.0.0.1:{free_port()}/{TOKEN}",
            "unknown": f"https://does-not-exist.invalid/{TOKEN}",
        }
        for name, url in hosts.items():
            monkeypatch.setenv(f"URL_{name}", url)
        monkeypatch.setenv("HOOK", HOOK)
        monkeypatch.setenv("MAIL_NAME", NAME)
        monkeypatch.setenv("MAIL_PASSWORD", PASSWORD)
        login = {"username": Secret(env="MAIL_NAME"), "password": Secret(env="MAIL_PASSWORD"), "retry": hang}
        actions = {
            name: action("webhook", url=Secret(env=f"URL_{name}"), secret=Secret(env="HOOK"), retry=hang)
            for name in hosts
        }
        actions["mail"] = email_action(mail.port, **login)
        actions["maildown"] = email_action(free_port(), **login)
        run = start(actions)
        run.dispatcher.put([opened(run.settings)])
        wait_until(lambda: run.dispatcher.pending() == 0)
        run.dispatcher.close()
        assert fine.requests[0].path.endswith(TOKEN)
    assert len(broker.on("tua.dead-letters")) == len(actions) - 1
    out, err = capfd.readouterr()
    assert "A delivery is given up" in out + err
    places = {
        "printed": (out + err).encode(),
        "stored": b"".join(file.read_bytes() for file in (tmp_path / "state").rglob("*") if file.is_file()),
        "published": str(broker.messages).encode(),
        "metrics": prometheus_client.generate_latest(),
        "shown": repr((run.settings, actions, structlog.get_config())).encode(),
    }
    for place, content in places.items():
        for secret in (TOKEN, USER_INFO, HOOK.removeprefix("whsec_"), PASSWORD, NAME):
            for form in forms(secret):
                assert form not in content, f"{secret} was {place}"
