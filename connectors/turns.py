"""Which shards are written at the end of an epoch, and from where on the source must be able to read again.

Bytewax writes the state of a shard whole, and of each shard that was awoken in an epoch. Where there is much state, all
of it once a second would be all that the job does. So shards take turns: in an epoch as many are awoken as a budget
allows, those first that have waited longest. The source keeps its position as of the end of the oldest epoch that the
shards lack something of. After a crash it reads again from there, and a shard passes over what it had counted already
(`Detector.add`). A shard that passes over records lacks nothing of them, so that turns go on where they were, however
often the job is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from detection.detector import Detector
from detection.keys import SHARDS, shard_of
from detection.rows import Batch

_MOST_BYTES = 10_000_000
"""In one epoch. To pack so much takes some 35 ms, and it is written on the flow's thread too."""
_LEAST_BYTES = 1_000_000
_BYTES_PER_ROW = 100
"""What an epoch may cost beyond the least. Little is written while little comes: it is read again in no time."""
_EPOCHS = 300
"""About the longest that a shard waits for its turn; what it lacks must still be on Kafka."""
_FEW = 256
_ALL = frozenset(range(SHARDS))


class Turns:
    """Those of one worker, by the sizes of the shards of its detector: 0 where that is not known.

    Epochs are numbered from 0 at the start; each slot counts its own, and they may differ by one for a moment.
    """

    def __init__(self, detector: Callable[[], Detector]) -> None:
        self._detector = detector
        self._epoch = -1
        self._awoken: set[int] = set()
        self._lack: dict[int, int] = {}
        """Shard -> the epoch through which its last snapshot has everything."""
        self._budget = self._rows = 0

    def due(self, epoch: int) -> list[int]:
        """The shards whose turn has come, to be awoken in this epoch. None but at the first call in it."""
        if epoch <= self._epoch:
            return []
        sizes = self._detector().sizes
        least = max(_LEAST_BYTES, sum(sizes) // _EPOCHS)
        self._budget = max(least, min(_MOST_BYTES, least + self._rows * _BYTES_PER_ROW))
        self._epoch, self._rows = epoch, 0
        self._awoken.clear()
        return self._awake(sorted(self._lack, key=self._lack.__getitem__), sizes)

    def changed(self, batch: Batch, epoch: int) -> list[int]:
        """Rows are on their way in a slot's `epoch`; the shards of them that are to be awoken in it."""
        shards = self._shards(batch) - self._awoken
        shards = shards.difference(self._detector().passing_over(batch))
        if not shards:
            return []
        now = self._awake(shards - self._lack.keys(), self._detector().sizes) if epoch == self._epoch else []
        for shard in shards - self._awoken:
            self._lack[shard] = min(epoch - 1, self._lack.get(shard, epoch))
        return now

    def rest(self) -> list[int]:
        """All shards that lack something, to be awoken in this epoch: nothing comes after it."""
        shards = sorted(self._lack)
        self._lack.clear()
        return shards

    def all(self, epoch: int) -> list[int]:
        """All shards, to be awoken in a slot's `epoch`, for what came before cannot be read again."""
        self._lack = {} if epoch == self._epoch else dict.fromkeys(self._lack, epoch)
        shards = sorted(_ALL - self._awoken)
        if epoch == self._epoch:
            self._awoken.update(shards)
        return shards

    def complete_through(self, epoch: int) -> int:
        """The last epoch, not after this one, of which no shard's snapshot lacks anything."""
        return min(self._lack.values(), default=epoch)

    def _awake(self, shards: Iterable[int], sizes: Sequence[int]) -> list[int]:
        known = [size for size in sizes if size]
        usual = sum(known) // max(1, len(known))
        found: list[int] = []
        for shard in shards:
            if self._budget <= 0:
                break
            self._budget -= sizes[shard] or usual  # of one that another worker has, nothing is known
            self._lack.pop(shard, None)
            found.append(shard)
        self._awoken.update(found)
        return found

    def _shards(self, batch: Batch) -> frozenset[int]:
        columns = {id(rows.keys): rows.keys for rows in batch.rows.values()}
        self._rows += sum(map(len, columns.values()))
        if self._rows > _FEW:
            return _ALL
        return frozenset(shard_of(key) for keys in columns.values() for key in keys if key is not None)
