"""ASGI middleware that bounds the body of each request: its size, its time, and the memory of all together."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connectors.intake_api.answers import Refusal, unavailable

_BUFFERED = 64 * 1_048_576
_THROWN_AWAY = 64 * 1_048_576


class BodyGuard:
    """`max_bytes` of one body, which must be complete within `within_s` seconds of its headers.

    What the application does not read is read and thrown away before it answers, within the same time: a client that is
    still sending sees the answer, and not a broken connection. Where that is not enough the connection is closed.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, within_s: float) -> None:
        self._app, self._max_bytes, self._within_s = app, max_bytes, within_s
        self._budget = max(_BUFFERED, 4 * max_bytes)
        self._buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive, self._max_bytes, asyncio.get_running_loop().time() + self._within_s)

        async def guarded_receive() -> Message:
            if body.declared > self._max_bytes:
                raise self._too_large()
            message = await body.next()
            if message is None:
                raise Refusal(408, f"the body was not complete within {self._within_s:g} s")
            part = len(message.get("body", b""))
            if body.size > self._max_bytes:
                raise self._too_large()
            if self._buffered + part > self._budget:
                raise unavailable("too many bodies at once")
            self._buffered += part
            body.buffered += part
            return message

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start" and not body.complete and not await body.throw_away():
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            await self._app(scope, guarded_receive, guarded_send)
        finally:
            self._buffered -= body.buffered

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is larger than {self._max_bytes} bytes")


class _Body:
    """The body of one request while it comes. `size` is what has come, `buffered` what is kept of it."""

    def __init__(self, scope: Scope, receive: Receive, max_bytes: int, deadline: float) -> None:
        headers = dict(scope["headers"])
        self.declared = _length(headers.get(b"content-length", b"0"))
        self.complete = self.declared == 0 and b"transfer-encoding" not in headers
        self.size = self.buffered = 0
        self._waits_for_100 = headers.get(b"expect", b"").lower() == b"100-continue"
        self._receive, self._deadline = receive, deadline

    async def next(self) -> Message | None:
        """The next message; None when it has not come in time."""
        self._waits_for_100 = False
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            return None
        self.size += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        return message

    async def throw_away(self) -> bool:
        """Whether the rest of the body could be read."""
        if self._waits_for_100:  # it has not been sent, and need not be
            return False
        until = self.size + _THROWN_AWAY
        while not self.complete and self.size < until:
            if await self.next() is None:
                return False
        return self.complete


def _length(header: bytes) -> int:
    # The parser has refused what is no number.
    return int(header) if header.isdigit() else 0
