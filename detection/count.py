"""The `count` rule: at least N distinct events of one key within a window W. Definitions in docs/detection.md.

In order the test is one look at the N-th last timestamp. Everything else (late events, joins, peaks of keys in
breach) happens only for keys that have an episode or an event out of order: detection/alerts.py.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from heapq import heappop, heappush
from operator import length_hint
from typing import Any

import msgspec

from detection.alerts import Alerts, PackedAlerts
from detection.keys import Key, shard_of
from detection.rows import Rows
from detection.rules import CountRule, Topic
from detection.transitions import Transition
from detection.watermarks import NEVER


class _Part:
    """What can be freed in one shard. Each of its keys lies in one bucket, by the time at which nothing of it is needed
    any more as known when it was put there; later events move it only when the bucket is visited.
    """

    __slots__ = ("bucket_heap", "buckets", "floor")

    def __init__(self) -> None:
        self.floor = NEVER
        self.buckets: dict[int, list[Key]] = {}
        self.bucket_heap: list[int] = []


class CountEvaluator:
    """All keys of count rules that are about the same events under the same key: equal topic, `where` and key.

    They share what is kept of the events, for as long as the longest window needs it. Keys are counted together, and
    are due, packed and restored by shard.

    `max_kept`: a key with more timestamps than this is thinned (see `Episode.thinnable`); None never thins, so that
    every peak is exact. `incomplete` counts accepted events below the floor, `copies` events whose id was
    counted before.
    """

    def __init__(self, *rules: CountRule, max_kept: int | None = None, shards: int = 1) -> None:
        self.topic = rules[0].topic.name
        self.incomplete = self.copies = 0
        self._times: dict[Key, array[int]] = {}
        self._seen: dict[Key, dict[Any, int]] = {}
        self._window_ms = max(rule.window_ms for rule in rules)
        self._bucket_ms = max(1, self._window_ms // 2)
        self._floor = NEVER
        self._parts = [_Part() for _ in range(shards)]
        # What one rule can do without, another may need.
        alone = max_kept if len(rules) == 1 else None
        self._max_kept = None if len(rules) == 1 else max_kept
        in_order = sorted(rules, key=lambda rule: rule.threshold)
        self.alerts = [Alerts(rule, self._times, alone, shards) for rule in in_order]

    def is_due(self, shard: int, watermark: int, floor: int) -> bool:
        """Whether `advance` would have anything to do."""
        part = self._parts[shard]
        return bool(part.bucket_heap and (part.bucket_heap[0] + 1) * self._bucket_ms <= floor) or any(
            alerts.is_due(shard, watermark) for alerts in self.alerts
        )

    def sizes(self) -> tuple[int, int, int]:
        """Keys, timestamps and episodes held."""
        timestamps = sum(len(kept) for kept in self._times.values())
        episodes = sum(len(found) for alerts in self.alerts for found in alerts.episodes.values())
        return len(self._times), timestamps, episodes

    def add(self, rows: Rows, out: list[Transition]) -> None:
        """Count accepted events; append what they caused to `out`."""
        if rows.lowest_ms < self._floor:
            # Some of what these would have met may be freed: they may miss a breach, never invent one.
            self.incomplete += sum(
                key is not None and timestamp < self._part(key).floor
                for key, timestamp in zip(rows.keys, rows.times, strict=True)
            )
        keys = rows.keys if rows.ids is None else self._first_ones(rows)
        known, first, has_others = self._times.get, self.alerts[0], len(self.alerts) > 1
        threshold, nth_last, window = first.rule.threshold, -first.rule.threshold, first.rule.window_ms
        # A pass of its own, in C: while one key is waited for from memory, others are looked up.
        columns = list(map(known, keys))  # type: ignore[arg-type]  # None is no key
        left = iter(rows.times)
        for kept, timestamp in zip(columns, left):  # noqa: B905
            if kept is None:
                number = len(keys) - 1 - length_hint(left)
                if (key := keys[number]) is None:
                    continue
                kept = known(key)  # noqa: PLW2901
                if kept is None:
                    kept = self._times[key] = array("q", (timestamp,))  # noqa: PLW2901
                    self._put_in_bucket(self._part(key), key, timestamp)
                    if threshold == 1:
                        self._look(key, kept, timestamp, rows.place(number), out)
                    continue
            if timestamp >= kept[-1]:
                kept.append(timestamp)
                if len(kept) >= threshold and (has_others or timestamp - kept[nth_last] < window):
                    number = len(keys) - 1 - length_hint(left)
                    self._look(keys[number], kept, timestamp, rows.place(number), out)  # type: ignore[arg-type]
            else:
                insort(kept, timestamp)
                number = len(keys) - 1 - length_hint(left)
                for alerts in self.alerts:
                    alerts.late(keys[number], kept, timestamp, rows.place(number), out)  # type: ignore[arg-type]
                self._thin(keys[number], kept)  # type: ignore[arg-type]

    def advance(self, shard: int, watermark: int, floor: int, out: list[Transition]) -> None:
        """Resolve the alerts of a shard whose end is below `watermark`; free what only events below `floor` need."""
        for alerts in self.alerts:
            alerts.resolve(shard, watermark, out)
        part = self._parts[shard]
        part.floor = max(part.floor, floor)
        self._floor = max(self._floor, floor)
        while part.bucket_heap and (part.bucket_heap[0] + 1) * self._bucket_ms <= floor:
            for key in part.buckets.pop(heappop(part.bucket_heap)):
                self._free(part, key, floor, out)

    def cancel(self, out: list[Transition]) -> None:
        """End all open alerts as cancelled: their rules are no more."""
        for alerts in self.alerts:
            alerts.cancel(out)

    def _look(self, key: Key, kept: array[int], timestamp: int, place: tuple[int, int], out: list[Transition]) -> None:
        """An event in order: for each rule, is the N-th last timestamp within the window?"""
        size = len(kept)
        for alerts in self.alerts:
            threshold = alerts.rule.threshold
            if size < threshold:
                break
            if timestamp - kept[-threshold] < alerts.rule.window_ms:
                alerts.in_breach(key, kept, timestamp, place, out)
        self._thin(key, kept)

    # Memory

    def _thin(self, key: Key, kept: array[int]) -> None:
        """Of a key with very many timestamps those go that no rule needs."""
        if self._max_kept is None or len(kept) <= self._max_kept:
            return
        ranges = [alerts.thinnable(key) for alerts in self.alerts]
        begin, end = max(begin for begin, _ in ranges), min(end for _, end in ranges)
        if begin < end:
            for alerts in self.alerts:
                alerts.thin(key, end - begin)
            del kept[begin:end]

    def _first_ones(self, rows: Rows) -> list[Key | None]:
        """The keys, but None for an event that was counted under that key before."""
        keys = list(rows.keys)
        for number, (key, timestamp, event_id) in enumerate(zip(rows.keys, rows.times, rows.ids or (), strict=True)):
            if key is None or event_id is None:
                continue
            seen = self._seen.setdefault(key, {})
            if event_id in seen:
                self.copies += 1
                keys[number] = None
            else:
                seen[event_id] = timestamp
        return keys

    def _part(self, key: Key) -> _Part:
        return self._parts[0 if len(self._parts) == 1 else shard_of(key)]

    def _put_in_bucket(self, part: _Part, key: Key, newest: int) -> None:
        number = (newest + self._window_ms) // self._bucket_ms
        bucket = part.buckets.get(number)
        if bucket is None:
            part.buckets[number] = [key]
            heappush(part.bucket_heap, number)
        else:
            bucket.append(key)

    def _free(self, part: _Part, key: Key, floor: int, out: list[Transition]) -> None:
        kept, cut = self._times[key], floor - self._window_ms
        for alerts in self.alerts:
            alerts.free(key, floor, cut, out)
        seen = self._seen.get(key)
        if seen is not None:
            self._seen[key] = {event_id: at for event_id, at in seen.items() if at >= cut}
        del kept[: bisect_left(kept, cut)]
        if kept:
            self._put_in_bucket(part, key, kept[-1])
        else:
            # The newest timestamp is always kept, and no episode ends later than a window after it.
            del self._times[key]
            self._seen.pop(key, None)

    # State

    def pack(self, shard: int = 0) -> bytes:
        """The state of a shard as MessagePack: small, quick to write, and free of code that runs when it is read."""
        part, times, seen = self._parts[shard], self._times, self._seen
        keys = [key for bucket in part.buckets.values() for key in bucket]
        columns = [times[key] for key in keys]
        state = _Packed(
            topic=self.topic,
            floor=part.floor,
            keys=keys,
            lengths=array("q", map(len, columns)).tobytes(),
            timestamps=b"".join(columns),
            seen=[(number, list(seen[key].items())) for number, key in enumerate(keys if seen else ()) if key in seen],
            alerts=[alerts.pack(shard, keys) for alerts in self.alerts],
        )
        return msgspec.msgpack.encode(state)

    def restore(self, packed: bytes, shard: int = 0) -> bool:
        """Take over what `pack` gave of rules that are watched here too, into a shard that has seen nothing yet.

        False if there is none.
        """
        state = _decoder.decode(packed)
        stored = {one.identity: one for one in state.alerts}
        if not any(alerts.identity in stored for alerts in self.alerts):
            return False
        keys = self._take(state, shard)
        for alerts in self.alerts:
            if alerts.identity in stored:
                alerts.restore(stored[alerts.identity], shard, keys)
        return True

    @classmethod
    def cancelled(cls, packed: bytes, known: frozenset[str]) -> list[Transition]:
        """The ends of the alerts of all rules whose identity is not `known` any more."""
        state = _decoder.decode(packed)
        out: list[Transition] = []
        for one in state.alerts:
            if one.identity not in known:
                evaluator = cls(CountRule(one.rule, Topic(state.topic), (), one.threshold, one.window_ms))
                (alerts,) = evaluator.alerts
                alerts.version = one.version
                alerts.restore(one, 0, evaluator._take(state, 0))
                alerts.cancel(out)
        return out

    def _take(self, state: _Packed, shard: int) -> list[Key]:
        part = self._parts[shard]
        part.floor = state.floor
        self._floor = max(self._floor, state.floor)
        keys: list[Key] = [tuple(key) if isinstance(key, list) else key for key in state.keys]
        timestamps = array("q", state.timestamps)
        start = 0
        for key, length in zip(keys, array("q", state.lengths), strict=True):
            self._times[key] = kept = timestamps[start : start + length]
            self._put_in_bucket(part, key, kept[-1])
            start += length
        for number, seen in state.seen:
            self._seen[keys[number]] = dict(seen)
        return keys


class _Packed(msgspec.Struct, array_like=True):
    topic: str
    floor: int
    keys: list[Any]
    lengths: bytes
    timestamps: bytes
    seen: list[tuple[int, list[tuple[Any, int]]]]
    alerts: list[PackedAlerts]


_decoder = msgspec.msgpack.Decoder(_Packed)
