"""Rows on their way to other workers, by hand and through pickle, as Bytewax sends them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections import Counter

import pytest

from connectors.exchange import Exchange, ShardBatch, _siphash13, worker_of_shard
from detection.keys import SHARDS, Key, shard_of
from detection.rows import Batch, Rows

KEYS: list[Key | None] = ["Nokia", b"17", ("Nokia", b"true"), None, "Nokia", "x" * 200, ("a", "b")]


def batch(*, ids: bool = False) -> Batch:
    rows = Rows(KEYS, tuple(range(100, 107)), range(7), 3, list("abcdefg") if ids else None, 100)
    other = Rows(KEYS[:2], (100, 101), range(2), 3, None, 100)
    return Batch("products", 3, "id", 7, {0: rows, 4: rows, 7: other})


def rows_of(part: ShardBatch, position: int) -> list[tuple[object, ...]]:
    rows = part.batch.rows[position]
    ids = rows.ids or [None] * len(rows.keys)
    return list(zip(rows.keys, rows.times, rows.offsets, ids, strict=True))


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_each_row_goes_once_and_in_order_to_the_worker_that_has_its_shard(workers: int, ids: bool) -> None:
    exchange = Exchange(workers)
    for _ in range(2):  # a key that is known takes another way
        parts = [pickle.loads(pickle.dumps(part)) for part in exchange.split(batch(ids=ids))]
        seen = []
        for part in parts:
            assert part.batch[:-1] == ("products", 3, "id", 7)
            for row in rows_of(part, 0):
                if row[0] is not None:
                    assert shard_of(row[0]) in exchange.shards[part.shard]  # type: ignore[arg-type]
                    seen.append(row)
            assert rows_of(part, 0) == rows_of(part, 4)
            assert part.batch.rows[0].lowest_ms == 100
        whole = rows_of(ShardBatch(0, batch(ids=ids)), 0)
        assert sorted(seen, key=lambda row: row[2]) == [row for row in whole if row[0] is not None]  # type: ignore[arg-type, return-value]
        assert all(one[2] < other[2] for part in parts for one, other in zip(rows_of(part, 0), rows_of(part, 0)[1:]))  # type: ignore[operator] # noqa: B905


def test_rules_that_share_rows_share_them_behind_the_exchange_too() -> None:
    """Else what is done once for them would be done for each."""
    (part, *_) = (pickle.loads(pickle.dumps(part)) for part in Exchange(2).split(batch()))
    assert part.batch.rows[0] is part.batch.rows[4]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_that_a_log_was_cut_off_is_news_for_each_worker(workers: int) -> None:
    exchange = Exchange(workers)
    cut = Batch("products", 3, "id", 7, {})
    parts = [pickle.loads(pickle.dumps(part)) for part in exchange.split(cut)]
    assert parts == [ShardBatch(carrier, cut) for carrier in exchange.shards]


@pytest.mark.parametrize(("workers", "each"), [(1, 64), (2, 32), (4, 16), (8, 8), (16, 4)])
def test_shards_are_dealt_out_evenly(workers: int, each: int) -> None:
    assert set(Counter(worker_of_shard(shard, workers) for shard in range(SHARDS)).values()) == {each}
    assert sorted(shard for own in Exchange(workers).shards.values() for shard in own) == list(range(SHARDS))


def test_a_bytewax_that_deals_otherwise_is_noticed() -> None:
    exchange = Exchange(2)
    mine, other = exchange.shards
    exchange.check(exchange.shards[mine][3], mine)
    with pytest.raises(RuntimeError, match="pinned version"):
        exchange.check(mine, other)


def test_the_hash_is_siphash_1_3_with_a_key_of_zeros() -> None:
    """As Python's own is, without a seed."""
    words = [b"", b"a", b"1234567", b"12345678", b"123456789", b"a longer text, of more than one word"]
    code = "import sys; assert sys.hash_info.algorithm == 'siphash13'; print([hash(word) for word in " + f"{words}])"
    said = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True
    )
    assert [number % (1 << 64) for number in json.loads(said.stdout)][1:] == [_siphash13(word) for word in words][1:]
