#!/usr/bin/env python3
"""A webhook receiver that prints what it gets.

    .venv/bin/python scripts/webhook_receiver.py [--port 8090] [--host 127.0.0.1]

Until Ctrl-C or SIGTERM, by default where tua.yaml sends to. Nothing is kept. It needs nothing but what the job needs:
docker-compose.yml runs it in the job's image.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

import msgspec
import typer

ENDS = frozenset({signal.SIGINT, signal.SIGTERM})


@dataclass(frozen=True)
class Post:
    """A webhook call as it arrived; `alert` is its data, `at` wall clock in seconds."""

    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def alert(self) -> dict[str, Any]:
        alert: dict[str, Any] = msgspec.json.decode(self.body)["data"]
        return alert


class WebhookReceiver:
    """HTTP that takes every POST, in threads. Port 0 takes a free one; raises OSError when taken."""

    def __init__(self, got: Callable[[Post], None], port: int = 0, host: str = "127.0.0.1") -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                at = time.time()
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(204)
                self.end_headers()
                got(Post({name.lower(): value for name, value in self.headers.items()}, body, at))

            def log_message(self, *_: object) -> None:
                return

        server = ThreadingHTTPServer((host, port), Handler)
        self.port = server.server_port
        threading.Thread(target=server.serve_forever, name="webhook-receiver", daemon=True).start()


def spell_post(post: Post) -> str:
    """One line: what came, and whether it is signed."""
    signed = "signed" if "webhook-signature" in post.headers else "unsigned"
    return f"webhook ({signed}): {post.alert['status']}: {post.alert['message']}"


def listen(make: Callable[[], object], port: int, option: str) -> None:
    """Make a server; where its port cannot be had, end the process with what to do."""
    try:
        make()
    except OSError as error:
        sys.exit(f"port {port}: {os.strerror(error.errno or 0)}. End what has it, or give another with {option}")


def main(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The job learns it by TUA_WEBHOOK_URL.")] = 8090,
    host: Annotated[str, typer.Option(help="0.0.0.0 in a container, where others must reach it.")] = "127.0.0.1",
) -> None:
    """A webhook receiver that prints what it gets, until Ctrl-C."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)  # before there are threads, which would get them otherwise
    listen(lambda: WebhookReceiver(lambda post: print(spell_post(post), flush=True), port, host), port, "--port")
    print(f"webhooks on port {port} of {host}; Ctrl-C ends", file=sys.stderr)
    signal.sigwait(ENDS)


if __name__ == "__main__":
    typer.run(main)
