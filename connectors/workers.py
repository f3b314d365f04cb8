"""What the parts of one Bytewax worker share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerWorker(Generic[T]):
    """One object for each worker, made when the worker first asks for it.

    A worker is a thread of Bytewax's own, so it is told by its number: `threading.local` forgets between two calls
    from a thread that Python has not started.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}

    def get(self) -> T:
        """The object of the calling worker."""
        worker = threading.get_ident()
        if worker not in self._made:
            self._made[worker] = self._make()
        return self._made[worker]
