"""The e-mail action: one message for each recipient, through an SMTP server."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from email.headerregistry import Address
from functools import cache
from typing import Annotated, Literal

import aiosmtplib
import structlog
from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from actions.base import Action, ActionError, Context, Delivered, Delivery, Outcome, Refused, Retry, is_loopback
from actions.email_message import MailTemplates, Writer, compose_email, mistakes_in
from actions.http import HOST
from settings.actions import NotifySettings
from settings.base import NoRepeats, NotEmpty
from settings.problems import Mistake, Mistakes
from settings.secrets import MaybeSecret, Secret, SecretError, SecretRef, notes_on_defaults

_log = structlog.get_logger()

_ABOUT_THE_LOGIN = (530, 534, 535, 538)
# Others come before there is a recipient, and are the same for every mail.
_ABOUT_THE_MAIL = (aiosmtplib.SMTPRecipientRefused, aiosmtplib.SMTPDataError)
_PORTS = {"starttls": 587, "implicit": 465, "none": 25}


def _address(text: str) -> str:
    try:
        address = Address(addr_spec=text)
    except Exception as error:
        raise Mistake("this is no e-mail address", "a bare address such as support@example.com") from error
    if not address.domain or not text.isprintable():
        raise Mistake("this is no e-mail address", "a bare address such as support@example.com")
    return text


def _host(text: str) -> str:
    if not HOST.fullmatch(text.encode()):
        raise Mistake("this is no name of a host", "such as smtp.example.com; the port is a setting of its own")
    return text


Host = Annotated[str, AfterValidator(_host)]
MailAddress = Annotated[str, AfterValidator(_address)]


class EmailSettings(NotifySettings):
    """`port` None: 587 for starttls, 465 for implicit TLS, 25 without TLS. `templates`: see MailTemplates."""

    type: Literal["email"] = "email"
    host: Host = "localhost"
    port: int | None = Field(default=None, ge=1, le=65535)
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    username: MaybeSecret | None = None
    password: SecretRef | None = Field(default=None, validate_default=True)
    sender: MailAddress = Field(alias="from")
    to: Annotated[tuple[MailAddress, ...], NotEmpty, NoRepeats]
    templates: MailTemplates = MailTemplates()

    @field_validator("password")
    @classmethod
    def _login_is_whole_and_safe(cls, password: Secret | None, info: ValidationInfo) -> Secret | None:
        known = info.data  # without the fields that are wrong themselves
        if "username" in known and (known["username"] is None) != (password is None):
            missing = "password" if password is None else "username"
            raise Mistake(f"{missing} is missing: username and password go together")
        if password is not None and known.get("tls") == "none" and not is_loopback(known.get("host", "localhost")):
            raise Mistake(
                "with tls: none the password would cross the network in clear",
                "use tls: starttls or tls: implicit, or leave username and password out",
            )
        return password

    @field_validator("templates")
    @classmethod
    def _templates_work(cls, templates: MailTemplates, info: ValidationInfo) -> MailTemplates:
        if mistakes := tuple(mistakes_in(templates, summaries=info.data.get("flood") is not None)):
            raise Mistakes(mistakes)
        return templates

    def notes(self) -> tuple[str, ...]:
        return tuple(notes_on_defaults("password", self.password))


class EmailAction(Action[EmailSettings]):
    """One connection for each message. The password is read at each attempt, so a new one is used at once."""

    settings_type = EmailSettings
    time_limit_s = 60.0
    operation_limit_s = 30.0
    tls_context: ssl.SSLContext | None = None

    def __init__(self, name: str, settings: EmailSettings, context: Context) -> None:
        super().__init__(name, settings, context)
        self._write = Writer(name, settings.templates)
        self._login()

    def recipients(self) -> tuple[str, ...]:
        return self.settings.to

    def secrets(self) -> Iterable[str]:
        try:
            login = self._login()
        except ActionError:
            return ()
        # The last is what AUTH PLAIN sends, in base64.
        return () if login is None else (*login, f"\0{login[0]}\0{login[1]}")

    async def deliver(self, delivery: Delivery) -> Outcome:
        settings = self.settings
        if delivery.recipient not in settings.to:
            return Refused("it is no longer among the recipients of the action")
        mail = compose_email(delivery, settings.sender, "opened" in settings.send, self._write)
        client = aiosmtplib.SMTP(
            hostname=settings.host,
            port=settings.port or _PORTS[settings.tls],
            timeout=self.operation_limit_s,
            # Both explicitly: the default would go on in clear where a server does not offer STARTTLS.
            use_tls=settings.tls == "implicit",
            start_tls=settings.tls == "starttls",
            tls_context=self.tls_context,
            # Else it is looked up anew for each mail.
            local_hostname=_own_name(),
        )
        try:
            await client.connect()
            if login := self._login():
                await client.login(*login)
            _, answer = await client.send_message(mail, sender=settings.sender, recipients=[delivery.recipient])
        except ActionError as error:
            _log.error("The login of the mail server cannot be had", action=self.name, error=str(error))
            return Retry("the username or password cannot be read")
        except aiosmtplib.SMTPException as error:
            return self._judge(error)
        except OSError as error:
            return Retry(f"the connection failed ({type(error).__name__})")
        else:
            # It is accepted; how the good-bye goes changes nothing, the end of the attempt's time neither.
            with suppress(aiosmtplib.SMTPException, OSError, asyncio.CancelledError):
                await client.quit(timeout=2)
            return Delivered(f"250 {answer}")
        finally:
            client.close()

    def _judge(self, error: aiosmtplib.SMTPException) -> Outcome:
        if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
            error = error.recipients[0]
        code = error.code if isinstance(error, aiosmtplib.SMTPResponseException) else 0
        if isinstance(error, aiosmtplib.SMTPAuthenticationError) or code in _ABOUT_THE_LOGIN:
            # For every mail the same, and mended by a person: none is given up for it before its time.
            _log.error(
                "The mail server does not accept the username and password; no mail goes out until that is mended",
                action=self.name,
                code=code,
            )
            return Retry(f"{code} the login was refused")
        if isinstance(error, aiosmtplib.SMTPResponseException) and code >= 400:
            answer = f"{code} {error.message}"
            if isinstance(error, _ABOUT_THE_MAIL):
                return Refused(answer) if 500 <= code < 600 else Retry(answer)
            if code >= 500:
                _log.error(
                    "The mail server wants nothing of us; no mail goes out until that is mended", action=self.name
                )
            return Retry(answer)
        if "STARTTLS" in str(error):
            _log.error("The mail server does not offer STARTTLS; nothing is sent in clear", action=self.name)
            return Retry("the server does not offer STARTTLS")
        return Retry(f"{type(error).__name__}: {error}")

    def _login(self) -> tuple[str, str] | None:
        settings = self.settings
        if settings.username is None or settings.password is None:
            return None
        try:
            name = settings.username.resolve() if isinstance(settings.username, Secret) else settings.username
            password = settings.password.resolve()
        except SecretError as error:
            raise ActionError(f"action {self.name}: {error}") from None
        if name is None or password is None:
            raise ActionError(f"action {self.name}: {settings.password.source} or that of the username is not set")
        return name if isinstance(name, str) else name.get_secret_value(), password.get_secret_value()


@cache
def _own_name() -> str:
    """How we greet: by a full name, or by an address where this host has none (RFC 5321, 4.1.3)."""
    name = socket.gethostname()
    return name if "." in name else "[127.0.0.1]"
