"""Events on their way from intake to the evaluators, in columns: a loop in C over a column costs a fraction of one in
Python over objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from detection.keys import Key
from detection.watermarks import NEVER


class Rows(NamedTuple):
    """Accepted events in the order in which they are counted, a column each: the key, None for one that does not count;
    the event time in milliseconds, never below `lowest_ms`; the offset; the partition, one for all or a column; and the
    event's id where the topic names a field for it.
    """

    keys: Sequence[Key | None]
    times: Sequence[int]
    offsets: Sequence[int]
    partition: int | Sequence[int] = 0
    ids: Sequence[Any] | None = None
    lowest_ms: int = NEVER

    @classmethod
    def of(cls, rows: Iterable[tuple[Any, ...]], partition: int = 0, lowest_ms: int = NEVER) -> Rows:
        """Columns of rows (key, timestamp_ms, offset) or (key, timestamp_ms, offset, id)."""
        keys, times, offsets, *ids = zip(*rows, strict=True)
        return cls(keys, times, offsets, partition, ids[0] if ids else None, lowest_ms)

    def place(self, number: int) -> tuple[int, int]:
        """(partition, offset) of a row."""
        partition = self.partition if isinstance(self.partition, int) else self.partition[number]
        return partition, self.offsets[number]


class Batch(NamedTuple):
    """What some records of a partition, those before `next_offset`, bring to count: position of a rule -> its rows.

    `log` tells topics of the same name apart, of which one was deleted; None where that is not known. One without rows
    says that the log was cut off at `next_offset`: other records follow there, which nobody has counted.
    """

    topic: str
    partition: int
    log: str | None
    next_offset: int
    rows: dict[int, Rows]

    @property
    def is_cut(self) -> bool:
        """Whether it says that the log was cut off."""
        return not self.rows


def side_by_side(parts: Sequence[Rows]) -> Sequence[Rows]:
    """Rows of several partitions that came together; as one in the order of time where partitions share a key.

    Counted one partition after the other, an episode of such a key could be found in pieces, with an alert for each.
    """
    keys: dict[Any, set[Key | None]] = {}
    for rows in parts:
        keys.setdefault(rows.partition, {None}).update(rows.keys)
    if len(keys) == 1 or sum(map(len, keys.values())) - len(keys) == len(set().union(*keys.values())) - 1:
        return parts
    times = [time for rows in parts for time in rows.times]
    order = itemgetter(*sorted(range(len(times)), key=times.__getitem__))
    ids = None if parts[0].ids is None else [one for rows in parts for one in rows.ids or ()]
    return [
        Rows(
            order([key for rows in parts for key in rows.keys]),
            order(times),
            order([offset for rows in parts for offset in rows.offsets]),
            order([rows.partition for rows in parts for _ in rows.keys]),
            None if ids is None else order(ids),
            min(rows.lowest_ms for rows in parts),
        )
    ]
