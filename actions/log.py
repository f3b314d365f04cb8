"""The log action: one line on standard output for each delivery."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from typing import Literal, TextIO

from actions.base import Action, Context, Delivered, Delivery, Outcome, Retry
from actions.text import escaped
from settings.actions import ActionSettings

UNREAD = "nobody reads standard output any more"


class LogSettings(ActionSettings):
    """`type: log`, nothing else."""

    type: Literal["log"] = "log"


class LogAction(Action[LogSettings]):
    """`ALERT! <message>` on a terminal, the alert as one line of JSON anywhere else.

    Control characters are escaped in both.
    """

    settings_type = LogSettings
    time_limit_s = 10.0

    def __init__(self, name: str, settings: LogSettings, context: Context) -> None:
        super().__init__(name, settings, context)
        self._turn = asyncio.Lock()
        self._writing = False
        self._unread = False

    async def deliver(self, delivery: Delivery) -> Outcome:
        stream = sys.stdout
        line = f"ALERT! {delivery.alert.message}" if stream.isatty() else delivery.body.decode()
        async with self._turn:
            if self._unread:
                return Retry(UNREAD)
            if self._writing:
                return Retry("standard output takes nothing at the moment")
            return await self._write(stream, _encodable(escaped(line), stream.encoding))

    async def _write(self, stream: TextIO, line: str) -> Outcome:
        loop = asyncio.get_running_loop()
        written: asyncio.Future[Outcome] = loop.create_future()

        def report(outcome: Outcome) -> None:
            self._writing = False
            if not written.done():
                written.set_result(outcome)

        def write() -> None:
            try:
                stream.write(line + "\n")
                stream.flush()
                outcome: Outcome = Delivered("written")
            except BrokenPipeError:
                self._unread = True
                _forget(stream)
                outcome = Retry(UNREAD)
            except (OSError, ValueError) as error:
                outcome = Retry(f"standard output cannot be written ({type(error).__name__})")
            if not loop.is_closed():
                loop.call_soon_threadsafe(report, outcome)

        # A pipe that nobody reads blocks the write, perhaps for ever: not in the loop, where others send, and not
        # in a pool, whose threads the interpreter waits for at its end.
        self._writing = True
        threading.Thread(target=write, name="log-action", daemon=True).start()
        return await written


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
