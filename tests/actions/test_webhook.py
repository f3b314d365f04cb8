"""The webhook against a receiver that behaves badly, and against the standardwebhooks library as an oracle."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import ClassVar

import httpx2
import pytest
from pydantic import SecretStr, ValidationError
from standardwebhooks.webhooks import Webhook

import actions.http
from actions.base import ActionError, Delivered, Outcome, Refused, Retry
from actions.http import retry_after_ms
from actions.webhook import WebhookAction, WebhookSettings, signing_key
from settings import Secret
from tests.actions.test_alert import ALERT
from tests.support.delivering import action, clock_ms, context, delivery
from tests.support.receivers import HttpReceiver, RawServer, Reply, free_port
from tua.plugin.kit import ActionKit, HttpTarget, Target

CERTIFICATE = Path(__file__).parents[1] / "support" / "localhost.pem"
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
URL_WITH_PASSWORD = "https://tua:hunter2@example.com/x"
OTHER = "whsec_" + base64.b64encode(b"another secret, twenty-four").decode()


DELIVERY = delivery(ALERT, "web")


def webhook(url: str, *, now_ms: Callable[[], int] = clock_ms, **more: object) -> WebhookAction:
    settings = action("webhook", url=url, **more)
    assert isinstance(settings, WebhookSettings)
    return WebhookAction("web", settings, context(now_ms))


class TestWebhookKit(ActionKit):
    action_class = WebhookAction
    outcomes: ClassVar = {
        **dict.fromkeys((200, 201, 202, 204), Delivered),
        **dict.fromkeys((408, 425, 429, 500, 502, 503, 504, 507, 599), Retry),
        **dict.fromkeys((300, 301, 302, 307, 308, 400, 401, 403, 404, 405, 409, 410, 413, 422), Refused),
    }

    def target(self) -> Target:
        settings = {"url": {"env": "HOOK_URL"}, "secret": [{"env": "HOOK_SECRET"}]}
        return HttpTarget(settings, {"HOOK_URL": "{url}/T0kenInTheUrl?key=T0kenInTheQuery", "HOOK_SECRET": SECRET})


async def attempt(hook: WebhookAction) -> Outcome:
    try:
        return await hook.deliver(DELIVERY)
    finally:
        await hook.close()


async def test_the_body_is_the_alert_in_the_envelope_of_the_interface(web: HttpReceiver) -> None:
    assert await attempt(webhook(web.url)) == Delivered("200 ok")
    (request,) = web.requests
    assert json.loads(request.body) == {
        "type": "alert.opened",
        "timestamp": "2026-01-31T10:00:03.500Z",
        "data": json.loads(ALERT.to_json()),
    }
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == DELIVERY.id
    assert "." not in DELIVERY.id
    assert "webhook-signature" not in request.headers


@pytest.mark.parametrize("secrets", [(SECRET,), (SECRET, OTHER)])
async def test_receivers_with_any_of_the_secrets_can_verify_it(
    web: HttpReceiver, monkeypatch: pytest.MonkeyPatch, secrets: tuple[str, ...]
) -> None:
    for n, secret in enumerate(secrets):
        monkeypatch.setenv(f"HOOK_{n}", secret)
    references = tuple(Secret(env=f"HOOK_{n}") for n in range(len(secrets)))
    await attempt(webhook(web.url, secret=references))
    (request,) = web.requests
    for secret in secrets:
        assert Webhook(secret).verify(request.body, request.headers) == json.loads(request.body)


async def test_the_timestamp_is_that_of_the_attempt(web: HttpReceiver) -> None:
    times = iter([1_000_999, 5_000_000])
    hook = webhook(web.url, now_ms=lambda: next(times))
    await hook.deliver(DELIVERY)
    await attempt(hook)
    assert [request.headers["webhook-timestamp"] for request in web.requests] == ["1000", "5000"]
    assert web.connections == 1


@pytest.mark.parametrize("status", [404, 410])
async def test_the_status_is_in_the_audit_and_gone_disables_the_target(web: HttpReceiver, status: int) -> None:
    web.plan.append(Reply(status, body=b"because"))
    assert await attempt(webhook(web.url)) == Refused(f"{status} because", disable=status == 410)


async def test_a_redirect_is_not_followed(web: HttpReceiver) -> None:
    with HttpReceiver() as elsewhere:
        web.plan.append(Reply(307, {"location": elsewhere.url}))
        outcome = await attempt(webhook(web.url))
        assert isinstance(outcome, Refused)
        assert "put the final URL into url" in outcome.detail
        assert elsewhere.requests == []


async def test_an_answer_of_a_gigabyte_is_not_read(web: HttpReceiver) -> None:
    web.plan.append(Reply(200, body_bytes=1_000_000_000))
    outcome = await attempt(webhook(web.url))
    assert isinstance(outcome, Delivered)
    assert len(outcome.detail) <= 4_200
    web.stop()
    assert web.bytes_sent < 50_000_000  # what fits into the buffers between the two


async def test_a_status_that_came_counts_also_when_the_time_is_over_before_the_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nx")
        await reader.read()

    status_came = asyncio.Event()
    read_body = actions.http._start_of

    async def answer(response: httpx2.Response) -> str:
        status_came.set()
        return await read_body(response)

    monkeypatch.setattr(actions.http, "_start_of", answer)
    with RawServer(dripping) as server:
        running = asyncio.create_task(attempt(webhook(f"http://127.0.0.1:{server.port}/")))
        await asyncio.wait_for(status_came.wait(), 10)
        running.cancel()
        assert isinstance(await running, Delivered)


async def test_a_compressed_answer_is_not_unpacked(web: HttpReceiver) -> None:
    web.plan.append(Reply(200, {"content-encoding": "gzip"}, body=b"\x1f\x8bnothing of the kind"))
    assert isinstance(await attempt(webhook(web.url)), Delivered)


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://127.0.0.1:{closed}/", "the connection was refused"),
        ("https://no-such-host.invalid/", "there is no host of that name"),
        ("https://localhost:{tls}/", "its certificate is not trusted"),
        ("https://127.0.0.1:{plain}/", "it does not speak TLS as we do"),
    ],
)
async def test_why_there_is_no_connection_is_said(url: str, cause: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        await reader.read()

    server = await tls_server()
    with RawServer(talk) as plain:
        ports = {"closed": free_port(), "plain": plain.port, "tls": server.sockets[0].getsockname()[1]}
        async with server:
            assert await attempt(webhook(url.format(**ports))) == Retry(f"cannot connect: {cause}")


async def test_an_authority_that_the_environment_names_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    async with await tls_server() as server:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
        assert await attempt(webhook(url)) == Delivered("204")


async def tls_server() -> asyncio.Server:
    """One that accepts everything over TLS, under the name localhost."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)


async def test_a_connection_that_breaks_is_a_retry() -> None:
    async def hang_up(reader: object, writer: object) -> None: ...

    with RawServer(hang_up) as server:
        assert isinstance(await attempt(webhook(f"http://127.0.0.1:{server.port}/")), Retry)


async def test_an_answer_that_is_no_http_is_a_retry() -> None:
    async def talk(reader: object, writer: object) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")  # type: ignore[attr-defined]

    with RawServer(talk) as server:
        assert isinstance(await attempt(webhook(f"http://127.0.0.1:{server.port}/")), Retry)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("120", 120_000),
        ("0", 0),
        (format_datetime(datetime.fromtimestamp(1_090, UTC), usegmt=True), 90_000),
        (format_datetime(datetime.fromtimestamp(10, UTC), usegmt=True), 0),
        ("99999999999999999999", 999_999_999_000),
        ("soon", None),
        ("-5", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, expected: int | None) -> None:
    assert retry_after_ms(header, 1_000_000) == expected


async def test_retry_after_is_passed_on(web: HttpReceiver) -> None:
    web.plan.append(Reply(429, {"retry-after": "7"}))
    outcome = await attempt(webhook(web.url))
    assert isinstance(outcome, Retry)
    assert outcome.after_ms == 7_000


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x",
        "http://10.0.0.1/x",
        "ftp://localhost/x",
        "https:///token",
        "nonsense",
        "https://a:99999999/",
        "https://a:0/",
        "https://ex ample.com/",
        "https://a%2fb/",
    ],
)
def test_an_url_that_is_not_safe_or_none_is_a_mistake_that_does_not_quote_it(url: str) -> None:
    with pytest.raises(ValidationError) as error:
        action("webhook", url=url)
    assert url not in str(error.value)
    assert "https://host" in str(error.value) or "write https://" in str(error.value)


@pytest.mark.parametrize(
    "url",
    ["https://example.com/x", "http://localhost:8090/x", "http://127.0.0.1/x", "http://127.9.9.9/", "http://[::1]/"],
)
def test_https_and_loopback_are_fine(url: str) -> None:
    action("webhook", url=url)


@pytest.mark.parametrize("url", [URL_WITH_PASSWORD, Secret(env="X", default=SecretStr(URL_WITH_PASSWORD))])
def test_a_password_in_the_url_is_a_mistake_that_does_not_quote_it(url: object) -> None:
    with pytest.raises(ValidationError, match="a password must not stand in the configuration") as error:
        action("webhook", url=url)
    assert "hunter2" not in str(error.value)


def test_insecure_is_allowed_on_request() -> None:
    action("webhook", url="http://example.com/x", allow_insecure=True)


def test_a_secret_url_is_judged_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_URL", "http://example.com/token")
    with pytest.raises(ActionError, match="must be https") as error:
        webhook(Secret(env="HOOK_URL"))  # type: ignore[arg-type]
    assert "token" not in str(error.value)
    monkeypatch.delenv("HOOK_URL")
    with pytest.raises(ActionError, match="the environment variable HOOK_URL, which is not set"):
        webhook(Secret(env="HOOK_URL"))  # type: ignore[arg-type]


def test_recipients_show_the_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_URL", "https://user:pass@example.com:8443/token?key=1")
    hook = webhook(Secret(env="HOOK_URL"))  # type: ignore[arg-type]
    assert hook.recipients() == ("https://example.com:8443",)


def test_a_secret_of_no_use_is_said_without_quoting_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "whsec_my password!")
    with pytest.raises(
        ActionError, match="the environment variable HOOK is of no use: a webhook secret is whsec_"
    ) as error:
        webhook("https://example.com", secret=Secret(env="HOOK"))
    assert "my password" not in str(error.value)


@pytest.mark.parametrize("secret", ["whsec_MDEyMzQ=", "whsec_MDEyMzQ", "MDEyMzQ="])
def test_padding_and_prefix_of_a_secret_are_optional(secret: str) -> None:
    assert signing_key(secret) == b"01234"


def test_without_a_secret_check_has_something_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def notes(*secret: Secret) -> tuple[str, ...]:
        return action("webhook", url="https://example.com", secret=secret).notes()

    assert "not signed" in notes()[0]
    monkeypatch.delenv("HOOK_X", raising=False)
    monkeypatch.setenv("HOOK_Y", "")
    assert "HOOK_X is not set here" in notes(Secret(env="HOOK_X"))[0]
    assert "not signed" in notes(Secret(env="HOOK_Y"), Secret(env="HOOK_X"))[0]
    monkeypatch.setenv("HOOK_Y", SECRET)
    assert notes(Secret(env="HOOK_Y")) == notes(Secret(env="HOOK_X"), Secret(env="HOOK_Y")) == ()
    assert notes(Secret(file=Path("nowhere"))) == ()  # a file is not looked at


@pytest.mark.parametrize(
    ("url", "noted"),
    [
        ("https://hooks.slack.com/services/T0000/B0000/XXXXXXXXXXXXXXXXXXXXXXXX", True),
        ("https://example.com/x?token=0123456789abcdef0123", True),
        ("https://example.com/0123456789abcdef012", False),
        ("https://a-rather-long-name.example.com:8443/alerts-of-the-whole-shop/", False),
        (Secret(env="X"), False),
    ],
)
def test_what_looks_like_a_token_in_the_url_is_noted_without_quoting_it(url: object, noted: bool) -> None:
    notes = action("webhook", url=url, secret=Secret(file=Path("k"))).notes()
    assert [note.partition(" in the url")[0] for note in notes] == ["there seems to be a token"] * noted
