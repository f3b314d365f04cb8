"""The event loop that deliveries run in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


class DeliveryLoop(asyncio.SelectorEventLoop):
    """A loop whose look-ups of names have a thread each, of which nobody waits for the end.

    The usual loop shares a few threads among all, which the interpreter waits for when it ends: one target's name
    server that does not answer would hold up all other targets, and the end of the process.
    """

    def run_in_executor(self, executor: Executor | None, func: Callable[..., T], *args: object) -> asyncio.Future[T]:
        if executor is not None:
            return super().run_in_executor(executor, func, *args)
        future: asyncio.Future[T] = self.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(error)

        def work() -> None:
            result, problem = None, None
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001 - it is for who awaits it
                problem = error
            try:
                self.call_soon_threadsafe(settle, result, problem)
            except RuntimeError:
                return  # the loop is closed

        threading.Thread(target=work, name="look-up", daemon=True).start()
        return future
