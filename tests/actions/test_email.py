"""E-mail through a real SMTP server: what arrives, what the server's answers mean, and where no password goes."""

from __future__ import annotations

import asyncio
import base64
import ssl
import threading
from collections import deque
from collections.abc import Mapping
from email.message import EmailMessage
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import structlog
from aiosmtpd.smtp import AuthResult
from pydantic import SecretStr, ValidationError

from actions.alert import Alert
from actions.base import Delivered, Delivery, Outcome, Refused, Retry
from actions.email import EmailAction, EmailSettings
from settings import Secret
from tests.actions.test_alert import ALERT
from tests.support import delivering
from tests.support.delivering import context, email_action
from tests.support.receivers import MailReceiver, RawServer, accept_mails
from tua.plugin.kit import ActionKit, Target

CERTIFICATE = Path(__file__).parents[1] / "support" / "localhost.pem"
PASSWORD = "correct horse battery"


def delivery(alert: Alert = ALERT, recipient: str = "a@example.com") -> Delivery:
    return delivering.delivery(alert, "mail", recipient)


def mailer(port: int, **more: object) -> EmailAction:
    settings = email_action(port, **more)
    assert isinstance(settings, EmailSettings)
    action = EmailAction("mail", settings, context())
    action.operation_limit_s = 5.0
    return action


@pytest.fixture
def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setenv("SMTP_PASSWORD", PASSWORD)
    return {"username": "tua", "password": Secret(env="SMTP_PASSWORD")}


def trusting(action: EmailAction) -> EmailAction:
    action.tls_context = ssl.create_default_context(cafile=str(CERTIFICATE))
    return action


class Server(MailReceiver):
    """Refuses the next logins with the texts in `refusals`."""

    def __init__(self, tls_context: ssl.SSLContext) -> None:
        super().__init__(tls_context=tls_context, login=("tua@example.com", PASSWORD))
        self.refusals: deque[str] = deque()

    def _authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        if self.refusals:
            return AuthResult(success=False, handled=False, message=self.refusals.popleft())
        return super()._authenticate(server, session, envelope, mechanism, data)


class Mailbox(Target):
    """Behind a server that wants STARTTLS and a login, and repeats the login in what it refuses."""

    def __init__(self) -> None:
        self.environment = {"SMTP_USER": "tua@example.com", "SMTP_PASSWORD": PASSWORD}
        tls_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls_context.load_cert_chain(CERTIFICATE)
        self._server = Server(tls_context)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def settings(self) -> Mapping[str, object]:
        login = {"username": {"env": "SMTP_USER"}, "password": {"env": "SMTP_PASSWORD"}}
        return {
            "host": "127.0.0.1",
            "port": self._server.port,
            "from": "a@example.com",
            "to": ["b@example.org"],
            **login,
        }

    def received(self) -> list[str]:
        return ["\n".join(_texts(mail.message)) for mail in self._server.mails]

    def answer(self, code: int) -> None:
        reply = f"{code} not with {' '.join(self.environment.values())}"
        if code == 535:
            self._server.refusals += [reply, reply]  # to AUTH PLAIN, and then to AUTH LOGIN
        else:
            self._server.plan.append(None if code == 250 else reply)

    def hang(self) -> None:
        self._server.hang = True

    def up(self) -> None:
        self._server.hang = False

    def down(self) -> None:
        self._server.stop()


def _texts(message: EmailMessage) -> list[str]:
    bodies = [message.get_body((kind,)) for kind in ("plain", "html")]
    return [str(message["Subject"]), *(body.get_content() for body in bodies if body is not None)]


class TestEmailKit(ActionKit):
    outcomes: ClassVar = {
        250: Delivered,
        **dict.fromkeys((421, 450, 451, 452, 454, 535), Retry),
        **dict.fromkeys((500, 521, 550, 551, 552, 553, 554), Refused),
    }

    class action_class(EmailAction):
        tls_context = ssl.create_default_context(cafile=str(CERTIFICATE))

    def target(self) -> Target:
        return Mailbox()


async def test_a_mail_says_what_happened_in_text_and_html(mail: MailReceiver) -> None:
    outcome = await mailer(mail.port).deliver(delivery())
    assert isinstance(outcome, Delivered)
    (got,) = mail.mails
    assert (got.sender, got.recipients) == ("alerts@example.com", ["a@example.com"])
    message = got.message
    assert message["Subject"] == "[warning] hot-product: Nokia"
    assert (message["From"], message["To"]) == ("alerts@example.com", "a@example.com")
    assert message["Message-ID"] == f"<{delivery().id}@example.com>"
    assert message["Date"] == "Sat, 31 Jan 2026 10:00:03 +0000"
    assert message["In-Reply-To"] is None
    text = message.get_body(("plain",))
    html = message.get_body(("html",))
    assert text is not None
    assert html is not None
    for part in (text.get_content(), html.get_content()):
        for fact in ("Nokia", "20 within 5 seconds (threshold 20)", "2026-01-31T10:00:03.120Z", "offset 590"):
            assert fact in part


async def test_every_attempt_is_the_same_message(mail: MailReceiver) -> None:
    action = mailer(mail.port)
    await action.deliver(delivery())
    await action.deliver(delivery())
    first, second = (mail.message for mail in mail.mails)
    assert first["Message-ID"] == second["Message-ID"]
    assert first["Date"] == second["Date"]


async def test_the_end_of_an_alert_answers_its_opening(mail: MailReceiver) -> None:
    action = mailer(mail.port)
    await action.deliver(delivery())
    await action.deliver(delivery(ALERT.model_copy(update={"sequence": 2, "status": "resolved"})))
    opening, end = (mail.message for mail in mail.mails)
    assert end["Subject"] == "[resolved] hot-product: Nokia"
    assert end["In-Reply-To"] == end["References"] == opening["Message-ID"]
    assert end["Message-ID"] != opening["Message-ID"]


def test_each_address_is_a_recipient_of_its_own() -> None:
    assert mailer(25, to=("a@example.com", "b@example.com")).recipients() == (
        "a@example.com",
        "b@example.com",
    )


@pytest.mark.parametrize(
    "name",
    [
        "Nokia\r\nBcc: victim@example.com",
        "Nokia\nBcc: victim@example.com\n\nand a body",
        "Nokia\rBcc: victim@example.com",
        "Nokia\x85Bcc: victim@example.com",
        "Nokia\u2028Bcc: victim@example.com",
        "\x1b[2JNokia\x07\x00",
        "\u202enokia",
        "=?utf-8?q?x=0D=0AReply-To:_evil@example.com=0D=0A=0D=0AClick_here?=",
        "=?utf-7?q?+2AA-?=",
    ],
)
async def test_a_name_cannot_make_a_header_or_a_terminal_escape(mail: MailReceiver, name: str) -> None:
    alert = ALERT.model_copy(update={"key": {"product.name": name}, "message": f"Product {name} was ordered"})
    assert isinstance(await mailer(mail.port).deliver(delivery(alert)), Delivered)
    (got,) = mail.mails
    assert got.recipients == ["a@example.com"]
    assert got.message["Bcc"] is None
    assert got.message["Reply-To"] is None
    assert len(got.message.get_all("Subject") or ()) == 1
    for part in got.message.walk():
        if not part.is_multipart():
            content = part.get_content().replace("\r\n", "\n")
            assert not [char for char in content if not char.isprintable() and char != "\n"]
    assert str(got.message["Subject"]).isprintable()


async def test_markup_in_a_name_is_text_in_the_mail(mail: MailReceiver) -> None:
    name = '<script>alert(1)</script> & "co"'
    alert = ALERT.model_copy(update={"key": {"product.name": name}, "message": f"{name} {{{{ 7 * 7 }}}}"})
    await mailer(mail.port).deliver(delivery(alert))
    html = mail.mails[0].message.get_body(("html",))
    assert html is not None
    assert "<script" not in html.get_content()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;co&#34;" in html.get_content()
    assert "{{ 7 * 7 }}" in html.get_content()


async def test_any_text_and_a_very_long_one_arrive(mail: MailReceiver) -> None:
    name = "Ж手机📱" * 30_000
    alert = ALERT.model_copy(update={"key": {"product.name": name}, "message": "Ж手机📱 wurde bestellt"})
    assert isinstance(await mailer(mail.port).deliver(delivery(alert)), Delivered)
    subject = str(mail.mails[0].message["Subject"])
    assert subject.startswith("[warning] hot-product: Ж手机📱")
    assert len(subject) == 150


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("450 busy", Retry),
        ("421 later", Retry),
        ("452 full", Retry),
        ("550 no such user", Refused),
        ("552 big", Refused),
    ],
)
@pytest.mark.parametrize("step", ["recipient", "data"])
async def test_the_answer_decides(mail: MailReceiver, reply: str, kind: type[Outcome], step: str) -> None:
    if step == "recipient":
        mail.refuse["a@example.com"] = reply
    else:
        mail.plan.append(reply)
    outcome = await mailer(mail.port).deliver(delivery())
    assert isinstance(outcome, kind)
    assert outcome.detail == reply


@pytest.mark.parametrize(
    ("step", "reply"),
    [
        ("greeting", b"554 no service"),
        ("EHLO", b"550 go away"),
        ("MAIL", b"530 authentication required"),
        ("MAIL", b"550 sender unknown"),
        ("DATA", b"999 what"),
    ],
)
async def test_what_a_server_refuses_before_it_knows_the_recipient_is_final_for_nobody(step: str, reply: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply + b"\r\n" if step == "greeting" else b"220 hello\r\n")
        while line := await reader.readline():
            said = line[:4].decode().strip().upper()
            refused = said == step or (step == "EHLO" and said == "HELO")
            writer.write(reply + b"\r\n" if refused else b"250 ok\r\n")

    with RawServer(talk) as server, structlog.testing.capture_logs() as logs:
        outcome = await mailer(server.port).deliver(delivery())
    assert isinstance(outcome, Retry)
    assert step == "DATA" or [line["log_level"] for line in logs] == ["error"]


async def test_a_server_that_hangs_up_is_a_retry() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...

    with RawServer(hang_up) as server:
        assert isinstance(await mailer(server.port).deliver(delivery()), Retry)


async def test_a_server_that_says_nothing_is_a_retry() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    with RawServer(say_nothing) as server:
        action = mailer(server.port)
        action.operation_limit_s = 0.2
        assert isinstance(await action.deliver(delivery()), Retry)


async def test_a_mail_that_was_accepted_is_delivered_however_the_goodbye_goes() -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        for answer in (b"250 hello", b"250 ok", b"250 ok", b"354 go on"):
            await reader.readline()
            writer.write(answer + b"\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        writer.write(b"250 accepted\r\n")
        await reader.readline()

    with RawServer(rude) as server:
        assert await mailer(server.port).deliver(delivery()) == Delivered("250 accepted")


async def test_a_mail_that_was_accepted_is_delivered_also_when_the_time_is_over_by_then() -> None:
    goodbye = threading.Event()

    async def slow_to_say_goodbye(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_mails(reader, writer, goodbye)

    with RawServer(slow_to_say_goodbye) as server:
        attempt = asyncio.create_task(mailer(server.port).deliver(delivery()))
        assert await asyncio.to_thread(goodbye.wait, 10)
        attempt.cancel()
        assert await attempt == Delivered("250 accepted")


async def test_starttls_and_login(server_tls: ssl.SSLContext, login: dict[str, object]) -> None:
    with MailReceiver(tls_context=server_tls, login=("tua", PASSWORD)) as server:
        action = trusting(mailer(server.port, tls="starttls", **login))
        assert isinstance(await action.deliver(delivery()), Delivered)


async def test_implicit_tls_and_login(server_tls: ssl.SSLContext, login: dict[str, object]) -> None:
    with MailReceiver(tls_context=server_tls, implicit=True, login=("tua", PASSWORD)) as server:
        action = trusting(mailer(server.port, tls="implicit", **login))
        assert isinstance(await action.deliver(delivery()), Delivered)


async def test_a_certificate_that_nobody_vouches_for_is_no_server_to_talk_to(
    server_tls: ssl.SSLContext, login: dict[str, object]
) -> None:
    with MailReceiver(tls_context=server_tls, login=("tua", PASSWORD)) as server:
        assert isinstance(await mailer(server.port, tls="starttls", **login).deliver(delivery()), Retry)
        assert server.mails == []


async def test_bad_credentials_alarm_and_are_tried_again(server_tls: ssl.SSLContext, login: dict[str, object]) -> None:
    with MailReceiver(tls_context=server_tls, login=("tua", "another password")) as server:
        with structlog.testing.capture_logs() as logs:
            outcome = await trusting(mailer(server.port, tls="starttls", **login)).deliver(delivery())
        assert outcome == Retry("535 the login was refused")
        (line,) = [line for line in logs if line["log_level"] == "error"]
        assert "does not accept the username and password" in line["event"]
        assert PASSWORD not in str(logs)


async def test_a_server_stripped_of_starttls_gets_no_byte_of_the_credentials(login: dict[str, object]) -> None:
    heard = bytearray()

    async def stripped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        while line := await reader.readline():
            heard.extend(line)
            greeting = line[:4].upper() in (b"EHLO", b"HELO")
            writer.write(b"250-hello\r\n250 AUTH PLAIN LOGIN\r\n" if greeting else b"250 ok\r\n")

    with RawServer(stripped) as server, structlog.testing.capture_logs() as logs:
        outcome = await mailer(server.port, tls="starttls", **login).deliver(delivery())
    assert outcome == Retry("the server does not offer STARTTLS")
    assert [line["log_level"] for line in logs] == ["error"]
    assert b"EHLO" in heard.upper()
    for secret in (b"tua", PASSWORD.encode(), base64.b64encode(f"\0tua\0{PASSWORD}".encode()), b"AUTH", b"MAIL"):
        assert secret not in heard


async def test_a_recipient_that_was_taken_out_is_refused(mail: MailReceiver) -> None:
    outcome = await mailer(mail.port).deliver(delivery(recipient="former@example.com"))
    assert isinstance(outcome, Refused)
    assert mail.mails == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"host": "mail.example.com", "username": "u", "password": Secret(env="P")}, "in clear"),
        ({"username": "u"}, "password is missing"),
        ({"password": Secret(env="P")}, "username is missing"),
        ({"to": ()}, "this list is empty"),
        ({"to": ("a@example.com", "a@example.com")}, "here a second time"),
        ({"host": ""}, "this is no name of a host"),
        ({"host": "smtp://mail.example.com"}, "the port is a setting of its own"),
        ({"host": "mail.example.com:587"}, "the port is a setting of its own"),
        ({"to": ("support",)}, "no e-mail address"),
        ({"from": "a@example.com\r\nBcc: b@example.com"}, "no e-mail address"),
        ({"from": "Somebody <a@example.com>"}, "no e-mail address"),
        ({"tls": "always"}, "starttls"),
    ],
)
def test_mistakes_in_the_settings_are_said(more: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        email_action(25, **more)


def test_a_login_without_tls_is_fine_on_loopback() -> None:
    email_action(25, username="u", password=Secret(env="P"))


def test_a_password_that_stands_in_the_file_as_a_default_is_mentioned_and_not_shown() -> None:
    settings = email_action(1025, username="tua", password=Secret(env="A", default=SecretStr("hunter2")))
    assert settings.notes() == ("the default of 'password' is a secret that stands in the file",)
    assert "hunter2" not in repr(settings)


def test_the_default_is_starttls() -> None:
    settings = EmailSettings.model_validate({"type": "email", "from": "a@example.com", "to": ("b@example.com",)})
    assert settings.tls == "starttls"
