"""One run of a program, with its standard input and what it prints, in a session of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

ANSWER_BYTES = 4096
LAST_WORDS_S = 1.0
DEATH_S = 1.0


class Printed(asyncio.Protocol):
    """Keeps the start of what a program prints, and reads the rest away, so that no program waits for us."""

    def __init__(self) -> None:
        self.start = b""
        self.cut = False

    def data_received(self, data: bytes) -> None:
        room = ANSWER_BYTES - len(self.start)
        self.cut = self.cut or len(data) > room
        self.start += data[:room]


class _Feed(asyncio.BaseProtocol):
    """Knows whether its transport is still there: it must not be aborted after its end."""

    transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None


class Run:
    """One run of a program. `code` is its exit code, negative for a signal; None with `trouble` if there is none.

    It is started and waited for in a thread of its own: it may lie on a disk that does not answer, and others send
    in the loop. Everything else happens in the loop's thread, so that its group is never killed when it is reaped
    and its number may be another's.
    """

    def __init__(self, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self.code: int | None = None
        self.trouble = ""
        self.printed = Printed()
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._unwanted = False
        self._feed = _Feed()
        self._output: asyncio.ReadTransport | None = None
        threading.Thread(target=self._watch, args=(command, environment), name="exec-action", daemon=True).start()

    async def to_its_end(self, body: bytes) -> None:
        """Feed it, and wait until it has ended."""
        await asyncio.wait([self._started])
        if self._process is None:
            return
        self._output, _ = await self._loop.connect_read_pipe(lambda: self.printed, self._process.stdout)
        feed, _ = await self._loop.connect_write_pipe(lambda: self._feed, self._process.stdin)
        feed.write(body)
        feed.write_eof()
        await asyncio.wait([self._ended])

    async def cut_short(self) -> bool:
        """Kill it and what it has started; whether it was still at work."""
        self._kill()
        await asyncio.wait([self._ended], timeout=DEATH_S)
        return self.code is None or self.code == -signal.SIGKILL

    def close(self) -> None:
        """Leave nothing behind. What has not even started by now is killed as soon as it has."""
        self._kill()
        if self._feed.transport is not None:
            self._feed.transport.abort()
        if self._output is not None:
            self._output.close()
        self._close_pipes()

    def _read_last_words(self) -> None:
        """Read what is left in the pipe. Its end may never come: who has left the group can hold it open."""
        if self._process is None or self._process.stdout is None or self._process.stdout.closed:
            return
        os.set_blocking(self._process.stdout.fileno(), False)
        with suppress(OSError):
            while not self.printed.cut and (data := os.read(self._process.stdout.fileno(), ANSWER_BYTES)):
                self.printed.data_received(data)

    def _kill(self) -> None:
        self._unwanted = True
        if self._process is not None and self._process.returncode is None:
            _kill_group(self._process)

    def _close_pipes(self) -> None:
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with suppress(OSError):
                    pipe.close()

    def _watch(self, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
        # What is blocked here would be blocked in the program, and nothing that it starts could be ended by a SIGTERM.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            trouble = _trouble(command[0], error)
            self._tell(lambda: self._on_no_start(trouble))
            return
        if not self._tell(lambda: self._on_start(process)):
            _kill_group(process)
        try:
            # Not reaped yet: as long as it is a zombie its number is nobody else's.
            end = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            end = None
        code = None if end is None else end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
        if not self._tell(lambda: self._on_end(process, code)):
            process.wait()

    def _tell(self, what: Callable[[], None]) -> bool:
        """Have something done in the loop's thread; False when the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            return False
        return True

    def _on_no_start(self, trouble: str) -> None:
        self.trouble = trouble
        self._started.set_result(None)
        self._ended.set_result(None)

    def _on_start(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._started.set_result(None)
        if self._unwanted:
            self.close()

    def _on_end(self, process: subprocess.Popen[bytes], code: int | None) -> None:
        if code is not None:
            _kill_group(process)
        process.wait()
        self._read_last_words()
        self.code = code
        self.trouble = "it has ended, but how cannot be known: somebody made this process ignore SIGCHLD"
        self._ended.set_result(None)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _trouble(program: str, error: OSError | ValueError) -> str:
    """Why a program cannot be started."""
    if isinstance(error, FileNotFoundError):
        if os.path.exists(program):
            return f"{program} cannot be started: the interpreter that its first line (#!) names is not there"
        return f"{program} is not there"
    if isinstance(error, PermissionError):
        return f"{program} is not executable"
    # The text of any other ValueError may quote what cannot be encoded.
    return f"{program} cannot be started: {error.strerror if isinstance(error, OSError) else type(error).__name__}"


def signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
