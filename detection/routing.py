"""Which shards rows are about: for the snapshots, and for the way to the worker that has them."""

from __future__ import annotations

from collections.abc import Iterable

from detection.keys import SHARDS, Key, shard_of
from detection.rows import Batch

_FEW = 256
_REMEMBERED, _SHORT = 262_144, 100
"""The shards of so many keys are remembered, if they are no longer than this."""


class Touched:
    """The shards that changed since the last snapshot. All of them, once there were so many rows that most did."""

    def __init__(self) -> None:
        self._shards: set[int] = set()
        self._rows = 0

    def add(self, batch: Batch) -> Iterable[int]:
        """Take note of rows; the shards that had not changed before."""
        if len(self._shards) == SHARDS:
            return ()
        columns = {id(rows.keys): rows.keys for rows in batch.values()}
        self._rows += sum(map(len, columns.values()))
        if self._rows > _FEW:
            new = set(range(SHARDS)) - self._shards
        else:
            new = {shard_of(key) for keys in columns.values() for key in keys if key is not None} - self._shards
        self._shards |= new
        return new

    def clear(self) -> None:
        """A snapshot was taken."""
        self._shards.clear()
        self._rows = 0


class Router:
    """Splits batches by shard."""

    def __init__(self) -> None:
        self._shards: dict[Key, int] = {}

    def split(self, batch: Batch) -> dict[int, Batch]:
        """The rows of each shard."""
        found: dict[int, Batch] = {}
        for position, rows in batch.items():
            numbers: dict[int, list[int]] = {}
            for number, key in enumerate(rows.keys):
                if key is not None:
                    shard = self._shards.get(key)
                    if shard is None:
                        shard = self._shard_of(key)
                    numbers.setdefault(shard, []).append(number)
            for shard, own in numbers.items():
                found.setdefault(shard, {})[position] = rows.only(own)
        return found

    def _shard_of(self, key: Key) -> int:
        shard = shard_of(key)
        if len(key) <= _SHORT and (isinstance(key, str | bytes) or max(map(len, key)) <= _SHORT):
            if len(self._shards) >= _REMEMBERED:
                self._shards.clear()
            self._shards[key] = shard
        return shard
