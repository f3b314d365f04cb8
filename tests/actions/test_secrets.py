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

from settings import ActionSettings, RetrySettings, Secret
from tests.actions.conftest import Start
from tests.support.delivering import Broker, action, email_action, opened
from tests.support.receivers import HttpReceiver, MailReceiver, RawServer, Reply, free_port
from tests.support.waiting import wait_until

TOKEN = "T0kenInTheUrl"
USER_INFO = "pa55InUserInfo"
HOOK = "whsec_" + base64.b64encode(b"the key of the webhook!!").decode()
PASSWORD = "M4ilPassword"
NAME = "m4iluser"
SLACK = "S1ackTokenInTheUrl"
TEAMS = "T3amsSignatureInTheUrl"
DISCORD = "D1scordTokenInTheUrl"
TELEGRAM = "T3legramSecretHalfOfTheToken"
PAGERDUTY = "P4gerDutyRoutingKeyInTheBody"
SECRETS = (TOKEN, USER_INFO, HOOK.removeprefix("whsec_"), PASSWORD, NAME, SLACK, TEAMS, DISCORD, TELEGRAM, PAGERDUTY)


def forms(secret: str) -> list[bytes]:
    plain = secret.encode()
    return [plain, plain.hex().encode(), base64.b64encode(plain)[:-4]]


def channels(monkeypatch: pytest.MonkeyPatch, where: str, server: str, **more: object) -> dict[str, ActionSettings]:
    """The actions that tell people, with the server in the place of each service."""
    urls = {
        "slack": f"{server}/services/T0/B0/{SLACK}",
        "teams": f"{server}/workflows/1/triggers/manual/paths/invoke?sig={TEAMS}",
        "discord": f"{server}/api/webhooks/1/{DISCORD}?thread_id=1",
    }
    for name, url in urls.items():
        monkeypatch.setenv(f"{name}_{where}", url)
    monkeypatch.setenv("TELEGRAM", f"123456:{TELEGRAM}")
    monkeypatch.setenv("PAGERDUTY", PAGERDUTY)
    return {
        **{f"{name}_{where}": action(name, url=Secret(env=f"{name}_{where}"), **more) for name in urls},
        f"telegram_{where}": action("telegram", token=Secret(env="TELEGRAM"), chat_id="1", api_url=server, **more),
        f"pagerduty_{where}": action("pagerduty", routing_key=Secret(env="PAGERDUTY"), api_url=server, **more),
    }


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
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        said = b" ".join((body[:60], target, unquote_to_bytes(target), target.replace(b"/", b"\\/"), head))
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
        servers = {"failing": failing, "fine": fine, "echoing": echoing, "broken": broken, "refusing": refusing}
        for name, server in servers.items():
            actions |= channels(monkeypatch, name, f"http://127.0.0.1:{server.port}", retry=hang)
        actions |= channels(monkeypatch, "down", f"http://127.0.0.1:{free_port()}", retry=hang)
        actions["mail"] = email_action(mail.port, **login)
        actions["maildown"] = email_action(free_port(), **login)
        run = start(actions)
        run.dispatcher.put([opened(run.settings)])
        wait_until(lambda: run.dispatcher.pending() == 0)
        run.dispatcher.close()
        reached = b" ".join(request.path.encode() + request.body for request in fine.requests).decode()
        assert all(secret in reached for secret in (TOKEN, SLACK, TEAMS, DISCORD, TELEGRAM, PAGERDUTY))
    assert len(fine.requests) == 6
    assert len(broker.on("tua.dead-letters")) == len(actions) - len(fine.requests)
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
        for secret in SECRETS:
            for form in forms(secret):
                assert form not in content, f"{secret} was {place}"
