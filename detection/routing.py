"""The way of rows to the workers that have their shards."""

from __future__ import annotations

from detection.keys import Key, shard_of
from detection.rows import Batch

_REMEMBERED, _SHORT = 262_144, 100
"""The shards of so many keys are remembered, if they are no longer than this."""


class Router:
    """Splits batches by shard."""

    def __init__(self) -> None:
        self._shards: dict[Key, int] = {}

    def split(self, batch: Batch) -> dict[int, Batch]:
        """The rows of each shard."""
        found: dict[int, Batch] = {}
        for position, rows in batch.rows.items():
            numbers: dict[int, list[int]] = {}
            for number, key in enumerate(rows.keys):
                if key is not None:
                    shard = self._shards.get(key)
                    if shard is None:
                        shard = self._shard_of(key)
                    numbers.setdefault(shard, []).append(number)
            for shard, own in numbers.items():
                found.setdefault(shard, batch._replace(rows={})).rows[position] = rows.only(own)
        return found

    def _shard_of(self, key: Key) -> int:
        shard = shard_of(key)
        if len(key) <= _SHORT and (isinstance(key, str | bytes) or max(map(len, key)) <= _SHORT):
            if len(self._shards) >= _REMEMBERED:
                self._shards.clear()
            self._shards[key] = shard
        return shard
