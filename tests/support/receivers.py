"""A real SMTP server in the test's process, which behaves as badly as it is told to; the HTTP one is tua.plugin's."""

from __future__ import annotations

import asyncio
import email
import email.policy
import logging
import ssl
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from tua.plugin.receiver import HttpReceiver, Reply, Request, free_port

__all__ = [
    "HttpReceiver",
    "Mail",
    "MailReceiver",
    "RawServer",
    "Reply",
    "Request",
    "accept_mails",
    "free_port",
]

logging.getLogger("mail.log").setLevel(logging.CRITICAL)  # aiosmtpd logs every command, also when a test is over


@dataclass
class Mail:
    """One accepted message."""

    sender: str
    recipients: list[str]
    message: EmailMessage
    raw: bytes


class MailReceiver:
    """An SMTP server on 127.0.0.1. `stop` and `start` keep the port.

    `refuse` maps a recipient to the reply it gets, `plan` holds the next replies to DATA (None accepts), `hang`
    leaves every DATA without a reply. With `tls_context` it offers STARTTLS (or speaks TLS from the start with
    `implicit`); with `login` it wants this (username, password). `commands` are all lines that it was sent.
    """

    def __init__(
        self,
        port: int | None = None,
        *,
        tls_context: ssl.SSLContext | None = None,
        implicit: bool = False,
        login: tuple[str, str] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.mails: list[Mail] = []
        self.refuse: dict[str, str] = {}
        self.plan: deque[str | None] = deque()
        self.hang = False
        self.commands: list[str] = []
        self._tls_context, self._implicit, self._login = tls_context, implicit, login
        self._controller: Controller | None = None

    def start(self) -> Self:
        options: dict[str, Any] = {}
        if self._tls_context is not None:
            options = {"ssl_context": self._tls_context} if self._implicit else {"tls_context": self._tls_context}
        if self._login is not None:
            options |= {"authenticator": self._authenticate, "auth_require_tls": not self._implicit}
        self._controller = Controller(_Handler(self), hostname="127.0.0.1", port=self.port, **options)
        self._controller.start()
        return self

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop(no_assert=True)
            self._controller = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def subjects(self) -> list[str]:
        """The subjects of the accepted messages, in the order they came."""
        return [str(mail.message["Subject"]) for mail in self.mails]

    def _authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        given = (data.login.decode(), data.password.decode())
        return AuthResult(success=given == self._login, handled=given == self._login)


class _Handler:
    def __init__(self, receiver: MailReceiver) -> None:
        self._receiver = receiver

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if reply := self._receiver.refuse.get(address):
            return reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self._receiver.hang:
            await asyncio.Event().wait()
        if self._receiver.plan and (reply := self._receiver.plan.popleft()):
            return reply
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self._receiver.mails.append(Mail(envelope.mail_from, list(envelope.rcpt_tos), message, envelope.content))
        return "250 Accepted"


async def accept_mails(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    goodbye: threading.Event,
    answer: bytes = b"250 accepted",
) -> None:
    """For a RawServer: takes mails with that answer, and answers no QUIT, which sets `goodbye`."""
    writer.write(b"220 hello\r\n")
    while line := await reader.readline():
        if line.upper().startswith(b"QUIT"):
            goodbye.set()
        elif line.upper().startswith(b"DATA"):
            writer.write(b"354 go on\r\n")
            await reader.readuntil(b"\r\n.\r\n")
            writer.write(answer + b"\r\n")
        elif line.upper().startswith(b"RCPT") and not answer.startswith(b"2"):
            writer.write(answer + b"\r\n")
        else:
            writer.write(b"250 ok\r\n")


class RawServer:
    """Runs a coroutine for each connection to a port of 127.0.0.1, for servers that no library would make."""

    def __init__(self, talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]) -> None:
        self.port = free_port()
        self._talk = talk
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async def talk() -> None:
                with suppress(OSError, asyncio.IncompleteReadError):
                    try:
                        await self._talk(reader, writer)
                    finally:
                        writer.close()

            task = asyncio.ensure_future(talk())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        await asyncio.start_server(accept, "127.0.0.1", self.port)
        started.set()
        await self._stop.wait()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
