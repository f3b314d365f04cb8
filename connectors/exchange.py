"""The way of rows to the workers that have their shards.

Bytewax gives an item to the worker that its key's hash points to. An item for each of 64 shards of each batch would
cost more than the counting, so the rows for one worker go together, under the name of one of its shards, its carrier.
To know which shards a worker has, the hash is repeated here. `Exchange.check` sees if that goes wrong, and the last
step of the flow if there are not as many workers as this was told.
"""

from __future__ import annotations

from itertools import compress, repeat
from operator import eq
from typing import Any, NamedTuple

import msgspec

from detection.keys import SHARDS, Key, shard_of
from detection.rows import Batch, Rows

# By the numbers alone the shards would be dealt out unevenly; with these each of 2, 4, 8 or 16 workers gets as many.
# fmt: off
_SUFFIXES = (
    167758, 110916, 5554, 792636, 839167, 97809, 850496, 117951, 363856, 2196362, 425102, 667001, 435136, 672878,
    1157122, 326144, 180858, 1479001, 821373, 93248, 427125, 1005368, 379182, 925339, 1840384, 260566, 1665466, 1290269,
    337483, 977997, 376897, 1254397, 57742, 211454, 1475176, 447469, 602855, 582104, 12504, 1103178, 131973, 331070,
    2116834, 147031, 1252851, 965098, 276327, 1543768, 344534, 551278, 3096211, 369817, 1583309, 1373240, 676068,
    772075, 21188, 274537, 6392, 2283255, 2231787, 481126, 702578, 3342932,
)
# fmt: on
SHARD_NAMES = tuple(f"s{shard:02}.{suffix}" for shard, suffix in enumerate(_SUFFIXES))
"""The shards' keys in the flow; part of the recovery format."""

_REMEMBERED, _SHORT = 262_144, 100
"""The workers of so many keys are remembered, if they are no longer than this."""
_MASK = (1 << 64) - 1


class ShardBatch(NamedTuple):
    """Rows on their way to the worker that has `shard`, which is the carrier for all shards of that worker."""

    shard: int
    batch: Batch

    def __reduce__(self) -> tuple[Any, ...]:
        """For the way to another process: columns in MessagePack take a fraction of what pickle would."""
        columns = {id(rows): tuple(rows) for rows in self.batch.rows.values()}
        order = list(columns)
        numbers = {position: order.index(id(rows)) for position, rows in self.batch.rows.items()}
        packed = msgspec.msgpack.encode((self.shard, self.batch[:-1], numbers, [_plain(c) for c in columns.values()]))
        return _unpacked, (packed,)


def _plain(columns: tuple[Any, ...]) -> list[Any]:
    return [list(column) if isinstance(column, range) else column for column in columns]


def _unpacked(packed: bytes) -> ShardBatch:
    shard, of, numbers, columns = msgspec.msgpack.decode(packed)
    found = []
    for keys, *rest in columns:
        if any(key.__class__ is list for key in keys):
            keys = [tuple(key) if key.__class__ is list else key for key in keys]  # noqa: PLW2901
        found.append(Rows(keys, *rest))
    topic, partition, log, next_offset = of
    rows = {position: found[number] for position, number in numbers.items()}
    return ShardBatch(shard, Batch(topic, partition, log, next_offset, rows))


class Exchange:
    """Which of `workers` has which shard, and the parts of a batch that go to each."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._worker_of_shard = [worker_of_shard(shard, workers) for shard in range(SHARDS)]
        self.shards: dict[int, tuple[int, ...]] = {}
        """Carrier -> the shards of its worker."""
        self._carriers: dict[int, int] = {}
        for worker in sorted(set(self._worker_of_shard)):
            own = tuple(shard for shard in range(SHARDS) if self._worker_of_shard[shard] == worker)
            self.shards[own[0]], self._carriers[worker] = own, own[0]
        self._workers: dict[Key | None, int] = {None: -1}

    def check(self, shard: int, other: int) -> None:
        """Raise RuntimeError if two shards that one worker was given do not belong together."""
        if self._worker_of_shard[shard] != self._worker_of_shard[other]:
            raise RuntimeError(
                f"one worker of {self.workers} was given {SHARD_NAMES[shard]} and {SHARD_NAMES[other]}: this version of"
                " Bytewax deals out keys in another way than connectors/exchange.py says. Install the pinned version"
            )

    def split(self, batch: Batch) -> list[ShardBatch]:
        """The rows for each worker; of keys that do not count, none. That a log was cut off is news for all."""
        if self.workers == 1 or batch.is_cut:
            return [ShardBatch(carrier, batch) for carrier in self.shards]
        found: dict[int, dict[int, Rows]] = {}
        parts: dict[int, dict[int, Rows]] = {}
        for position, rows in batch.rows.items():
            if id(rows) not in parts:
                parts[id(rows)] = self._split(rows)
            for worker, part in parts[id(rows)].items():
                found.setdefault(worker, {})[position] = part
        return [ShardBatch(self._carriers[worker], batch._replace(rows=rows)) for worker, rows in found.items()]

    def _split(self, rows: Rows) -> dict[int, Rows]:
        workers: list[Any] = list(map(self._workers.get, rows.keys))
        if None in workers:
            workers = [self._worker(key) for key in rows.keys]
        found: dict[int, Rows] = {}
        for worker in set(workers) - {-1}:
            own = list(map(eq, workers, repeat(worker)))
            ids = None if rows.ids is None else list(compress(rows.ids, own))
            times, offsets = list(compress(rows.times, own)), list(compress(rows.offsets, own))
            keys = list(compress(rows.keys, own))
            found[worker] = Rows(keys, times, offsets, rows.partition, ids, rows.lowest_ms)
        return found

    def _worker(self, key: Key | None) -> int:
        known = self._workers.get(key)
        if known is not None or key is None:
            return -1 if known is None else known
        worker = self._worker_of_shard[shard_of(key)]
        if len(key) <= _SHORT and (isinstance(key, str | bytes) or max(map(len, key)) <= _SHORT):
            if len(self._workers) >= _REMEMBERED:
                self._workers = {None: -1}
            self._workers[key] = worker
        return worker


def worker_of_shard(shard: int, workers: int) -> int:
    """Bytewax: the hash of the key, modulo the number of workers. Rust ends the bytes of a string with 0xff."""
    return _siphash13(SHARD_NAMES[shard].encode() + b"\xff") % workers


def _siphash13(data: bytes) -> int:
    """SipHash-1-3 with a key of zeros: Rust's DefaultHasher. https://www.aumasson.jp/siphash/siphash.pdf"""
    v = [0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573]

    def rounds(number: int) -> None:
        for _ in range(number):
            v[0] = v[0] + v[1] & _MASK
            v[1] = _rotated(v[1], 13) ^ v[0]
            v[0] = _rotated(v[0], 32)
            v[2] = v[2] + v[3] & _MASK
            v[3] = _rotated(v[3], 16) ^ v[2]
            v[0] = v[0] + v[3] & _MASK
            v[3] = _rotated(v[3], 21) ^ v[0]
            v[2] = v[2] + v[1] & _MASK
            v[1] = _rotated(v[1], 17) ^ v[2]
            v[2] = _rotated(v[2], 32)

    whole = len(data) // 8 * 8
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, whole, 8)]
    for word in [*words, (len(data) & 0xFF) << 56 | int.from_bytes(data[whole:], "little")]:
        v[3] ^= word
        rounds(1)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(3)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> 64 - bits) & _MASK
