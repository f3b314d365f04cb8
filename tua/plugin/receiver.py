"""An HTTP receiver in the test's own process, which behaves as badly as it is told to. Standard library only."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Self


def free_port() -> int:
    """A port of the loopback interface that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Request:
    """What the HTTP receiver got. `answered` is the status that it was answered with; 0 while it has none."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)
    answered: int = 0


@dataclass
class Reply:
    """What the HTTP receiver answers, and how.

    `hang` never answers; `drip_s` sends the head one byte at a time with that pause; `body_bytes` sends a body
    of so many bytes (whatever of it the other side takes); `delay_s` waits before the answer; `echo` repeats in
    the body what was asked: the path, the headers and the body, beginning at another of the three each time.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    delay_s: float = 0.0
    hang: bool = False
    drip_s: float | None = None
    body_bytes: int | None = None
    echo: bool = False


class HttpReceiver:
    """An HTTP/1.1 server on 127.0.0.1. `plan` holds the next replies; when it is empty, `default` answers.

    `requests` are those read whole; `bytes_sent` counts body bytes that left for the wire; `connections` how
    many were accepted. `stop` and `start` keep the port.
    """

    def __init__(self, port: int | None = None, default: Reply | None = None) -> None:
        self.port = port or free_port()
        self.default = default or Reply()
        self.plan: deque[Reply] = deque()
        self.requests: list[Request] = []
        self.connections = 0
        self.bytes_sent = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/alerts"

    def ids(self) -> list[str]:
        """The webhook-id of every request, in the order they came."""
        return [request.headers["webhook-id"] for request in self.requests]

    def start(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def stop(self) -> None:
        """Close the port and every connection."""
        if self._thread is not None and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)
        self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            task = asyncio.ensure_future(self._talk(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", self.port)
        started.set()
        await self._stop.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            try:
                while await self._answer(reader, writer):
                    pass
            finally:
                writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(head[0].split(" ")[1], headers, body)
        self.requests.append(request)
        reply = self.plan.popleft() if self.plan else self.default
        if reply.hang:
            await reader.read()
            return False
        await asyncio.sleep(reply.delay_s)
        request.answered = reply.status
        said = self._echo(request) if reply.echo else reply.body
        if reply.status in (204, 304):
            said = b""  # no body follows these (RFC 9110), and one that did would be taken for the next answer
        length = len(said) if reply.body_bytes is None else reply.body_bytes
        lines = [f"HTTP/1.1 {reply.status} {_phrase(reply.status)}", f"content-length: {length}"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        start = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if reply.drip_s is not None:
            for byte in start:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(reply.drip_s)
        else:
            writer.write(start)
        if reply.body_bytes is None:
            writer.write(said)
        else:
            for _ in range(reply.body_bytes // 1024):
                writer.write(b"x" * 1024)
                await writer.drain()
                self.bytes_sent += 1024
        await writer.drain()
        return True

    def _echo(self, request: Request) -> bytes:
        parts = [request.path.encode(), str(request.headers).encode(), request.body[:2_000]]
        first = len(self.requests) % len(parts)  # who keeps only the start of an answer gets each of them in time
        return b" ".join(parts[first:] + parts[:first])


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Of Its Own"
