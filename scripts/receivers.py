#!/usr/bin/env python3
"""A mail server and a webhook receiver on this machine that print what they get.

    .venv/bin/python scripts/receivers.py [--mail-port 1025] [--web-port 8090]

Until Ctrl-C, by default on the ports that tua.yaml names. Nothing is kept and nothing is sent on. Needs aiosmtpd:
scripts/install demo.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Annotated

import typer
from aiosmtpd.controller import UnthreadedController
from aiosmtpd.smtp import SMTP, Envelope, Session

from scripts.webhook_receiver import ENDS, WebhookReceiver, listen, spell_post


@dataclass(frozen=True)
class Mail:
    """A mail as it arrived; `at` is wall clock in seconds."""

    message: EmailMessage
    at: float


class MailServer:
    """SMTP on 127.0.0.1, in a thread of its own. Port 0 takes a free one; raises OSError when the port is taken."""

    def __init__(self, got: Callable[[Mail], None], port: int = 0) -> None:
        self._got = got
        self._loop = asyncio.new_event_loop()
        controller = UnthreadedController(self, "127.0.0.1", port, loop=self._loop)
        self._loop.run_until_complete(_begin(controller))
        assert isinstance(controller.server, asyncio.Server)
        self.port: int = controller.server.sockets[0].getsockname()[1]
        threading.Thread(target=self._loop.run_forever, name="mail-server", daemon=True).start()

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        message = message_from_bytes(content, policy=default)
        assert isinstance(message, EmailMessage)
        self._got(Mail(message, time.time()))
        return "250 OK"


async def _begin(controller: UnthreadedController) -> None:
    controller.server = await controller._create_server()


def spell_mail(mail: Mail) -> str:
    """One line: to whom, about what."""
    return f"mail to {mail.message['To']}: {mail.message['Subject']}"


def main(
    mail_port: Annotated[int, typer.Option(min=1, max=65535, help="The job learns it by TUA_SMTP_PORT.")] = 1025,
    web_port: Annotated[int, typer.Option(min=1, max=65535, help="The job learns it by TUA_WEBHOOK_URL.")] = 8090,
) -> None:
    """A mail server and a webhook receiver on this machine that print what they get, until Ctrl-C."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)  # before there are threads, which would get them otherwise
    listen(lambda: MailServer(lambda mail: print(spell_mail(mail), flush=True), mail_port), mail_port, "--mail-port")
    listen(lambda: WebhookReceiver(lambda post: print(spell_post(post), flush=True), web_port), web_port, "--web-port")
    where = f"mail server on port {mail_port}, webhooks on http://localhost:{web_port}/alerts"
    print(f"{where}; Ctrl-C ends", file=sys.stderr)
    signal.sigwait(ENDS)


if __name__ == "__main__":
    typer.run(main)
