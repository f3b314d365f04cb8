"""Which shards are written at the end of an epoch, and from where on the source must be able to read again.

Bytewax writes the state of a shard whole, and of each shard that was awoken in an epoch. Where there is much state, all
of it once a second would be all that the job does. So shards take turns: in an epoch as many are awoken as a budget
allows, those first that have waited longest. The source keeps its position as of the end of the oldest epoch that the
shards lack something of. After a crash it reads again from there, and a shard passes over what it had counted already
(`Detector.add`). A shard that passes over records lacks nothing of them, so that turns go on where they were, however
often the job is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from detection.keys import SHARDS, shard_of
from detection.rows import Batch

_MOST_BYTES = 5_000_000
"""In one epoch. To pack so much takes some 20 ms, and it is written on the flow's thread too."""
_LEAST_BYTES = 250_000
_BYTES_PER_ROW = 100
"""What an epoch may cost beyond the least. Little is written while little comes: it is read again in no time."""
_EPOCHS = 300
"""About the longest that a shard waits for its turn; what it lacks must still be on Kafka."""
_FEW = 256
_ALL = frozenset(range(SHARDS))


class Turns:
    """Those of one worker. `sizes` gives the bytes of each shard when it was packed last, 0 where that is not known.

    Epochs are numbered from 0 at the start. No slot is asked for more in the next one before all have ended theirs.
    """

    def __init__(self, sizes: Callable[[], Sequence[int]]) -> None:
        self._sizes = sizes
        self._epoch = -1
        self._awoken: set[int] = set()
        self.lack: dict[int, int] = {}
        """Shard -> the epoch through which its last snapshot has everything, of those that lack something."""
        self._budget = self._rows = 0

    def due(self, epoch: int) -> list[int]:
        """The shards whose turn has come, to be awoken in this epoch. None but at the first call in it."""
        if epoch <= self._epoch:
            return []
        sizes = self._sizes()
        least = max(_LEAST_BYTES, _usual(sizes) * SHARDS // _EPOCHS)
        # A shard is written whole: what that took beyond a budget is taken off the next.
        self._budget = min(self._budget, 0) + max(least, min(_MOST_BYTES, least + self._rows * _BYTES_PER_ROW))
        self._epoch, self._rows = epoch, 0
        self._awoken.clear()
        return self._awake(sorted(self.lack, key=self.lack.__getitem__), sizes)

    def changed(self, batch: Batch, passing_over: Collection[int] = ()) -> list[int]:
        """Rows are on their way, not for the shards that pass over them; the shards that are to be awoken for them."""
        shards = self._shards(batch).difference(self._awoken, passing_over)
        if not shards:
            return []
        now = self._awake(shards - self.lack.keys(), self._sizes())
        for shard in shards - self._awoken:
            self.lack.setdefault(shard, self._epoch - 1)
        return now

    def rest(self) -> list[int]:
        """All shards that lack something: there will be no other epoch for them."""
        return self._awake_all(self.lack.keys())

    def all(self) -> list[int]:
        """All shards, for what came before cannot be read again. None lacks anything then."""
        return self._awake_all(_ALL - self._awoken)

    def _awake_all(self, shards: Iterable[int]) -> list[int]:
        found = sorted(shards)
        self._awoken.update(found)
        self.lack.clear()
        return found

    def _awake(self, shards: Iterable[int], sizes: Sequence[int]) -> list[int]:
        usual = _usual(sizes)
        found: list[int] = []
        for shard in shards:
            if self._budget <= 0:
                break
            self._budget -= sizes[shard] or usual
            self.lack.pop(shard, None)
            found.append(shard)
        self._awoken.update(found)
        return found

    def _shards(self, batch: Batch) -> frozenset[int]:
        columns = {id(rows.keys): rows.keys for rows in batch.rows.values()}
        self._rows += sum(map(len, columns.values()))
        if self._rows > _FEW:
            return _ALL
        return frozenset(shard_of(key) for keys in columns.values() for key in keys if key is not None)


def _usual(sizes: Sequence[int]) -> int:
    """The mean of those that are known: those that other workers have are not."""
    known = [size for size in sizes if size]
    return sum(known) // max(1, len(known))
