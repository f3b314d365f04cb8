"""Runs the processes of a local cluster as one: they start, stop and die together, and are started again.

It waits for nothing but its children and its signals, in one thread.
"""

from __future__ import annotations

import ctypes
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import structlog

from dataflows.started import STARTED_VARIABLE
from dataflows.stop_request import STOPS

log = structlog.get_logger()

DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
FORGOTTEN_S = 300.0
"""Having lived as long as that, the processes may die as often as at first."""
GRACE_S = 10.0
"""What is left of a cluster in which one died is killed after that."""
_PORTS = range(15_000, 32_000)
"""Below those that systems give to outgoing connections."""
_PR_SET_PDEATHSIG = 1


class Supervisor:
    """Runs `count` processes; `commands` makes their command lines from the ports that they are to listen on.

    When one dies all are ended, and started again on other ports, at most `restarts` times. One that was wrong from the
    start is not: an exit code before any process has told that it started (`dataflows.started`) is final.
    """

    def __init__(
        self,
        count: int,
        commands: Callable[[Sequence[int]], list[list[str]]],
        restarts: int,
        *,
        delays_s: Sequence[float] = DELAYS_S,
    ) -> None:
        self._count, self._commands, self._restarts, self._delays_s = count, commands, restarts, delays_s
        self._children: list[subprocess.Popen[bytes]] = []
        self._stops = 0
        self._last_stop = 0
        self._ever_started = False
        self._signals, signals = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(signals, False)
        signal.set_wakeup_fd(signals, warn_on_full_buffer=False)
        for number in (*STOPS, signal.SIGCHLD):
            # Only so that it comes through the pipe: a wait can't miss it there.
            signal.signal(number, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def run(self) -> int:
        """Until a signal stops it, or there is no use in going on. The exit code."""
        deaths = 0
        while True:
            began_s = time.monotonic()
            try:
                self._live()
                code = self._end()
            finally:
                for child in self._children:
                    child.kill()
            if self._stops:
                return code
            deaths = 1 if time.monotonic() - began_s > FORGOTTEN_S else deaths + 1
            if not self._ever_started and code < 128:
                return code
            if deaths > self._restarts:
                log.error("not started again", restarts=self._restarts, exit_code=code)
                return code
            delay_s = self._delays_s[min(deaths, len(self._delays_s)) - 1]
            log.warning("all processes are started again", after_s=delay_s, restart=deaths, of=self._restarts)
            until_s = time.monotonic() + delay_s
            while not self._stops and (left_s := until_s - time.monotonic()) > 0:
                self._wait(left_s)
            if self._stops:
                return 0

    def _live(self) -> None:
        """Until one has ended or all are to stop.

        The first goes ahead: what is wrong with the configuration is said by one, and one makes what is missing.
        """
        self._children = []
        commands = self._commands(free_ports(self._count))
        started, tell = os.pipe()
        try:
            self._spawn(commands[0], tell)
            while self._go_on() and not self._wait(also=started):
                pass
            if self._go_on():
                self._ever_started = True
                for command in commands[1:]:
                    self._spawn(command, tell)
            while self._go_on():
                self._wait()
        finally:
            os.close(started)
            os.close(tell)

    def _go_on(self) -> bool:
        return not self._stops and all(child.poll() is None for child in self._children)

    def _end(self) -> int:
        """End all. The exit code of the first that was not ended by this, else the worst."""
        dead = [(number, child.returncode) for number, child in enumerate(self._children) if child.poll() is not None]
        for number, code in dead:
            log.error("a process died", process=number, of=self._count, **_how(code))
        for child in self._children:
            child.terminate()
        until_s = time.monotonic() + GRACE_S
        while any(child.poll() is None for child in self._children):
            if self._stops > 1 or (not self._stops and time.monotonic() > until_s):
                for child in self._children:
                    child.kill()
                    child.wait()
            else:
                self._wait(None if self._stops else max(0.0, until_s - time.monotonic()) + 0.01)
        if self._stops > 1:
            return 128 + self._last_stop
        if self._stops:
            return max(map(_exit_code, (child.returncode for child in self._children)), default=0)
        # Another may have died of the same, and more loudly; one that ended by itself is not well either.
        return max(_exit_code(code) for _, code in dead) or 1

    def _spawn(self, command: list[str], tell: int) -> None:
        self._children.append(
            subprocess.Popen(
                command,
                env={**os.environ, STARTED_VARIABLE: str(tell)},
                stdin=subprocess.DEVNULL,
                pass_fds=[tell],
                # A terminal's Ctrl-C comes to the supervisor alone, which passes it on once.
                process_group=0,
                preexec_fn=_before_exec(os.getpid()),  # noqa: PLW1509 - there are no threads here
            )
        )

    def _wait(self, timeout_s: float | None = None, *, also: int | None = None) -> bool:
        """Until a signal, a child's end among them, or for `timeout_s`. True when there is something in `also`."""
        files = [self._signals] if also is None else [self._signals, also]
        ready = select.select(files, [], [], timeout_s)[0]
        if self._signals in ready:
            for number in os.read(self._signals, 4096):
                if number in STOPS:
                    self._stops += 1
                    self._last_stop = number
        return also in ready


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 that nobody listens on now."""
    found: dict[int, socket.socket] = {}
    try:
        for port in random.sample(_PORTS, len(_PORTS)):
            taken = socket.socket()
            try:
                taken.bind(("127.0.0.1", port))
            except OSError:
                taken.close()
                continue
            found[port] = taken
            if len(found) == count:
                break
    finally:
        for taken in found.values():
            taken.close()
    return list(found)


def _before_exec(supervisor: int) -> Callable[[], None]:
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def prepare() -> None:
        # Held back until the job can stop cleanly, as in `tua.__main__`.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        if prctl is not None:
            # When the supervisor is killed the kernel kills the child: prctl(2). Elsewhere it would live on.
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != supervisor:
                os._exit(1)

    return prepare


def _exit_code(code: int) -> int:
    """As a shell has it."""
    return code if code >= 0 else 128 - code


def _how(code: int) -> dict[str, object]:
    return {"exit_code": code} if code >= 0 else {"signal": signal.Signals(-code).name}
