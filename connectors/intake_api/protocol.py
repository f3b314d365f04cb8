"""uvicorn's HTTP/1.1, with what it lacks: bounds on the time and size of headers, on connections, on requests sent in
advance, and on the time for which a client reads nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_HEADER_BYTES = 65_536
_PIPELINED = 16
"""Requests of one connection that wait for those before them. No common client sends any so."""


def bounded_protocol(headers_within_s: float, max_connections: int) -> type[asyncio.Protocol]:
    """The class of a connection, for uvicorn's `http`."""

    class BoundedProtocol(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _stuck: asyncio.TimerHandle | None = None
        _header_bytes = 0
        _is_cut = False

        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            self._cycles: deque[RequestResponseCycle] = deque(maxlen=_PIPELINED + 2)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                self._answer(b"503 Service Unavailable", b"too many connections", b"retry-after: 1\r\n")
                return
            self._timer = self.loop.call_later(headers_within_s, self._too_slow)

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            self._goes_on()
            super().connection_lost(exc)

        # A client that does not read its answers would keep its place, and the bodies of its requests, for ever.

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._stuck is None:
                self._stuck = self.loop.call_later(headers_within_s, self._cut)

        def resume_writing(self) -> None:
            self._goes_on()
            super().resume_writing()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._stuck = self._stuck or self.loop.call_later(headers_within_s, self._cut)

        def data_received(self, data: bytes) -> None:
            if self._timer is not None:
                # Headers are still coming, and what is read of them is kept.
                self._header_bytes += len(data)
            super().data_received(data)
            if self._timer is not None and self._header_bytes > _HEADER_BYTES:
                self._refuse(b"431 Request Header Fields Too Large", b"the headers are too large")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._timer is None:
                self._timer = self.loop.call_later(headers_within_s, self._too_slow)

        def on_headers_complete(self) -> None:
            self._disarm()
            if self._is_cut:
                return  # the rest of what had come
            super().on_headers_complete()
            self._cycles.append(self.cycle)
            if len(self.pipeline) > _PIPELINED:
                self.pipeline.clear()
                self._cut()

        def send_400_response(self, msg: str) -> None:
            if self._is_answering():
                self._cut()
            else:
                super().send_400_response(msg)

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._header_bytes = 0

        def _too_slow(self) -> None:
            self._timer = None
            self._refuse(b"408 Request Timeout", b"the headers were not complete in time")

        def _cut(self) -> None:
            self._is_cut = True
            for cycle in self._cycles:
                cycle.disconnected = True  # it learns of it later, and would write meanwhile
            self.transport.abort()

        def _goes_on(self) -> None:
            if self._stuck is not None:
                self._stuck.cancel()
                self._stuck = None

        def _refuse(self, status: bytes, text: bytes) -> None:
            if self.transport.is_closing():
                return
            if self._is_answering():
                self._cut()
            else:
                self._answer(status, text)

        def _is_answering(self) -> bool:
            """A request before this one is still being answered: another answer would come in its place."""
            return self.cycle is not None and not self.cycle.response_complete

        def _answer(self, status: bytes, text: bytes, more: bytes = b"") -> None:
            head = b"HTTP/1.1 %s\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
            self.transport.write(head % (status, len(text)) + more + b"connection: close\r\n\r\n" + text)
            self.transport.close()

    return BoundedProtocol
