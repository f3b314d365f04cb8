"""The log action: one line on standard output for each delivery."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Sequence
from typing import Literal, TextIO

from actions.base import Context, Delivered, Delivery, Retry, Tell, TogetherAction
from actions.text import escaped
from settings.actions import ActionSettings

UNREAD = "nobody reads standard output any more"


class LogSettings(ActionSettings):
    """`type: log`, nothing else."""

    type: Literal["log"] = "log"


class LogAction(TogetherAction[LogSettings]):
    """`ALERT! <message>` on a terminal, the alert as one line of JSON anywhere else.

    Control characters are escaped in both.
    """

    settings_type = LogSettings
    concurrency = 64
    time_limit_s = 10.0

    def __init__(self, name: str, settings: LogSettings, context: Context) -> None:
        super().__init__(name, settings, context)
        self._turn = asyncio.Lock()
        self._writing = False
        self._unread = False
        self._late: set[str] = set()  # deliveries that were written when their attempt had been given up

    async def deliver_all(self, deliveries: Sequence[Delivery], tell: Tell) -> None:
        stream, failures = sys.stdout, []
        lines: list[tuple[Delivery, str]] = []
        for delivery in deliveries:
            try:
                lines.append((delivery, _line(stream, delivery)))
            except ValueError as error:  # its body is no alert
                failures.append(error)
        async with self._turn:
            for delivery, _ in lines:
                if delivery.id in self._late:
                    tell(delivery, Delivered("written"))
            lines = [line for line in lines if line[0].id not in self._late]
            self._late.difference_update(one.id for one in deliveries)
            written, outcome = 0, Retry("standard output takes nothing at the moment")
            if self._unread:
                outcome = Retry(UNREAD)
            elif lines and not self._writing:
                written, outcome = await self._write(stream, lines)
        for number, (delivery, _) in enumerate(lines):
            tell(delivery, Delivered("written") if number < written else outcome)
        if failures:
            raise failures[0]

    async def _write(self, stream: TextIO, lines: Sequence[tuple[Delivery, str]]) -> tuple[int, Retry]:
        """How many of the lines were written, and what became of the others."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[tuple[int, Retry]] = loop.create_future()

        def report(written: int, rest: Retry) -> None:
            self._writing = False
            if not ended.done():
                ended.set_result((written, rest))
            else:
                self._late.update(delivery.id for delivery, _ in lines[:written])

        def write() -> None:
            written, rest = 0, Retry(UNREAD)
            try:
                # Each by itself: what is cut off by a kill -9 would be glued to the line that comes after it.
                for _, text in lines:
                    stream.write(text)
                    stream.flush()
                    written += 1
            except BrokenPipeError:
                self._unread = True
                _forget(stream)
            except (OSError, ValueError) as error:
                rest = Retry(f"standard output cannot be written ({type(error).__name__})")
            if not loop.is_closed():
                loop.call_soon_threadsafe(report, written, rest)

        # A pipe that nobody reads blocks the write, perhaps for ever: not in the loop, where others send, and not
        # in a pool, whose threads the interpreter waits for at its end.
        self._writing = True
        threading.Thread(target=write, name="log-action", daemon=True).start()
        return await ended


def _line(stream: TextIO, delivery: Delivery) -> str:
    text = f"ALERT! {delivery.alert.message}" if stream.isatty() else delivery.body.decode()
    return _encodable(escaped(text), stream.encoding) + "\n"


def _encodable(text: str, encoding: str | None) -> str:
    """As it is, or where the stream's encoding lacks a character with `\\uXXXX`, which JSON reads back."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return "".join(char if char.isascii() else json.dumps(char)[1:-1] for char in text)
    return text


def _forget(stream: TextIO) -> None:
    """Python flushes standard output at exit; with what is left in its buffer that would fail, and print so."""
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)
    except (OSError, ValueError):
        return
