"""The `count` rule: at least N distinct events of one key within a window W. Definitions in docs/detection.md.

In order the test is one look at the N-th last timestamp. Everything else (late events, joins, peaks of keys in
breach) happens only for keys that have an episode or an event out of order.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from heapq import heapify, heappop, heappush
from operator import length_hint
from typing import Any

import msgspec

from detection.episodes import Episode, intervals_through, touching
from detection.keys import Key, key_values, shard_of
from detection.rows import Rows
from detection.rules import CountRule, Topic
from detection.transitions import Source, Transition, alert_id
from detection.watermarks import NEVER


class _Part:
    """What is due in one shard. Each of its keys lies in one bucket, by the time at which nothing of it is needed any
    more as known when it was put there; later events move it only when the bucket is visited.
    """

    __slots__ = ("bucket_heap", "buckets", "ends", "floor", "opened")

    def __init__(self) -> None:
        self.opened, self.floor = 0, NEVER
        self.ends: list[tuple[int, int, Key, Episode]] = []
        self.buckets: dict[int, list[Key]] = {}
        self.bucket_heap: list[int] = []


class CountEvaluator:
    """All keys of one count rule. They are counted together, and are due, packed and restored by shard.

    `max_kept`: a key with more timestamps than this is thinned (see `Episode.thin`); None never thins, so that
    every peak is exact. `incomplete` counts accepted events below the floor, `copies` events whose id was
    counted before.
    """

    def __init__(self, rule: CountRule, max_kept: int | None = None, shards: int = 1) -> None:
        self.rule, self.version = rule, rule.version
        self.incomplete = self.copies = 0
        self._max_kept = max_kept
        self._times: dict[Key, array[int]] = {}
        self._episodes: dict[Key, list[Episode]] = {}
        self._seen: dict[Key, dict[Any, int]] = {}
        self._bucket_ms = max(1, rule.window_ms // 2)
        self._floor = NEVER
        self._parts = [_Part() for _ in range(shards)]

    def is_due(self, shard: int, watermark: int, floor: int) -> bool:
        """Whether `advance` would have anything to do."""
        part = self._parts[shard]
        return bool(
            (part.ends and part.ends[0][0] < watermark)
            or (part.bucket_heap and (part.bucket_heap[0] + 1) * self._bucket_ms <= floor)
        )

    def sizes(self) -> tuple[int, int, int]:
        """Keys, timestamps and episodes held."""
        timestamps = sum(len(kept) for kept in self._times.values())
        return len(self._times), timestamps, sum(len(found) for found in self._episodes.values())

    def add(self, rows: Rows, out: list[Transition]) -> None:
        """Count accepted events; append what they caused to `out`."""
        if rows.lowest_ms < self._floor:
            # Some of what these would have met may be freed: they may miss a breach, never invent one.
            self.incomplete += sum(
                key is not None and timestamp < self._part(key).floor
                for key, timestamp in zip(rows.keys, rows.times, strict=True)
            )
        keys = rows.keys if rows.ids is None else self._first_ones(rows)
        known, threshold, window = self._times.get, self.rule.threshold, self.rule.window_ms
        # A pass of its own, in C: while one key is waited for from memory, others are looked up.
        columns = list(map(known, keys))  # type: ignore[arg-type]  # None is no key
        left = iter(rows.times)
        for key, kept, timestamp in zip(keys, columns, left):  # noqa: B905
            if kept is None:
                if key is None:
                    continue
                kept = known(key)  # noqa: PLW2901
                if kept is None:
                    kept = self._times[key] = array("q")  # noqa: PLW2901
                    self._put_in_bucket(self._part(key), key, timestamp)
            if not kept or timestamp >= kept[-1]:
                kept.append(timestamp)
                if len(kept) >= threshold and timestamp - kept[-threshold] < window:
                    place = rows.place(len(keys) - 1 - length_hint(left))
                    self._in_breach(key, kept, timestamp, place, out)  # type: ignore[arg-type]
            else:
                insort(kept, timestamp)
                place = rows.place(len(keys) - 1 - length_hint(left))
                self._late(key, kept, timestamp, place, out)  # type: ignore[arg-type]

    def advance(self, shard: int, watermark: int, floor: int, out: list[Transition]) -> None:
        """Resolve the alerts of a shard whose end is below `watermark`; free what only events below `floor` need."""
        part = self._parts[shard]
        while part.ends and part.ends[0][0] < watermark:
            queued, rank, key, episode = heappop(part.ends)
            if episode.resolved:
                continue
            if episode.end != queued:
                heappush(part.ends, (episode.end, rank, key, episode))
                continue
            episode.resolved = True
            out.append(self._transition("resolved", key, episode))
        part.floor = max(part.floor, floor)
        self._floor = max(self._floor, floor)
        while part.bucket_heap and (part.bucket_heap[0] + 1) * self._bucket_ms <= floor:
            for key in part.buckets.pop(heappop(part.bucket_heap)):
                self._free(part, key, floor, out)

    def cancel(self, out: list[Transition]) -> None:
        """End all open alerts as cancelled: their rule is no more."""
        for key, found in self._episodes.items():
            for episode in found:
                if not episode.resolved:
                    episode.resolved = True
                    out.append(self._transition("resolved", key, episode, cancelled=True))

    # A key in breach

    def _in_breach(
        self, key: Key, kept: array[int], timestamp: int, place: tuple[int, int], out: list[Transition]
    ) -> None:
        """The newest event of a key completed `threshold` events within a window."""
        window = self.rule.window_ms
        end = kept[-self.rule.threshold] + window
        found = self._episodes.get(key)
        episode = found[-1] if found else None
        if episode is None or episode.end < timestamp:
            self._open(key, timestamp, end, (*place, timestamp), out)
            return
        episode.caused_by(*place, timestamp)
        count = len(kept) - bisect_right(kept, timestamp - window)
        episode.peak = max(episode.peak, count)
        episode.stale = episode.resolved
        self._grow(key, episode, end, out)
        if count >= episode.milestone and not episode.resolved:
            while episode.milestone <= count:
                episode.milestone *= 2
            out.append(self._transition("updated", key, episode))
        self._thin(episode, kept)

    def _late(self, key: Key, kept: array[int], timestamp: int, place: tuple[int, int], out: list[Transition]) -> None:
        """An event before the newest one: it may open episodes, make one grow at either end, and join several."""
        window, source = self.rule.window_ms, (*place, timestamp)
        position = bisect_right(kept, timestamp) - 1
        known = self._episodes.get(key, [])
        for start, end in intervals_through(kept, position, self.rule.threshold, window, known):
            touched = touching(known, start, end)
            if not touched:
                self._open(key, start, end, source, out)
                known = self._episodes[key]
                continue
            survivor = min(touched, key=lambda episode: episode.rank)
            for episode in touched:
                if episode is not survivor:
                    self._merge(key, episode, survivor, source, out)
            survivor.start = min(survivor.start, start)
            survivor.caused_by(*source)
            survivor.late_event_at(timestamp)
            self._grow(key, survivor, max(end, *(episode.end for episode in touched)), out)
        for episode in touching(known, timestamp + 1, timestamp + window - 1):
            episode.late_event_at(timestamp)
            self._thin(episode, kept)

    def _open(
        self,
        key: Key,
        start: int,
        end: int,
        source: tuple[int, int, int],
        out: list[Transition],
    ) -> None:
        partition, offset, _ = source
        identity = alert_id(self.rule.name, key_values(key), self.rule.topic.name, partition, offset, start)
        part = self._part(key)
        episode = Episode(part.opened, identity, start, end, self.rule.threshold)
        part.opened += 1
        episode.caused_by(*source)
        insort(self._episodes.setdefault(key, []), episode, key=lambda other: other.start)
        heappush(part.ends, (end, episode.rank, key, episode))
        out.append(self._transition("opened", key, episode))

    def _grow(self, key: Key, episode: Episode, end: int, out: list[Transition]) -> None:
        """Move the end of an episode, which opens its alert again if it had resolved."""
        if end <= episode.end:
            return
        episode.end = end
        if episode.resolved:
            episode.resolved = False
            heappush(self._part(key).ends, (end, episode.rank, key, episode))
            out.append(self._transition("opened", key, episode, reopened=True))

    def _merge(
        self,
        key: Key,
        episode: Episode,
        survivor: Episode,
        source: tuple[int, int, int],
        out: list[Transition],
    ) -> None:
        """End an alert whose episode turned out to be part of another's. The survivor's end is not moved here."""
        had_resolved = episode.resolved
        episode.resolved = True
        episode.caused_by(*source)
        out.append(self._transition("resolved", key, episode, merged_into=survivor.alert_id, told=not had_resolved))
        survivor.absorb(episode)
        self._episodes[key].remove(episode)

    def _transition(self, status: Any, key: Key, episode: Episode, **more: Any) -> Transition:
        kept, window = self._times[key], self.rule.window_ms
        episode.sweep(kept, window)
        episode.sequence += 1
        episode.stale = False
        return Transition(
            alert_id=episode.alert_id,
            sequence=episode.sequence,
            rule=self.rule.name,
            rule_version=self.version,
            status=status,
            key=key_values(key),
            peak=episode.peak,
            peak_exact=episode.exact,
            events=episode.events(kept, window),
            opened_at_ms=episode.start,
            resolves_at_ms=episode.end,
            source=Source(self.rule.topic.name, episode.partition, episode.offset, episode.timestamp),
            **more,
        )

    # Memory

    def _thin(self, episode: Episode, kept: array[int]) -> None:
        if self._max_kept is not None and len(kept) > self._max_kept:
            episode.thin(kept, self.rule.window_ms)

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
        return self._parts[self._shard(key)]

    def _shard(self, key: Key) -> int:
        return 0 if len(self._parts) == 1 else shard_of(key)

    def _put_in_bucket(self, part: _Part, key: Key, newest: int) -> None:
        number = (newest + self.rule.window_ms) // self._bucket_ms
        bucket = part.buckets.get(number)
        if bucket is None:
            part.buckets[number] = [key]
            heappush(part.bucket_heap, number)
        else:
            bucket.append(key)

    def _free(self, part: _Part, key: Key, floor: int, out: list[Transition]) -> None:
        kept, cut = self._times[key], floor - self.rule.window_ms
        found = self._episodes.get(key)
        if found is not None:
            for episode in found:
                if episode.end < floor and episode.stale:
                    # The last word on it, for the record: people were told that it is over.
                    out.append(self._transition("resolved", key, episode, told=False))
                episode.forget(kept, self.rule.window_ms, cut)
            found[:] = [episode for episode in found if episode.end >= floor]
            if not found:
                del self._episodes[key]
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
        part, times = self._parts[shard], self._times
        keys = [key for bucket in part.buckets.values() for key in bucket]
        columns = [times[key] for key in keys]
        episodes, seen = self._episodes, self._seen
        state = _Packed(
            rule=self.rule.name,
            version=self.version,
            topic=self.rule.topic.name,
            threshold=self.rule.threshold,
            window_ms=self.rule.window_ms,
            opened=part.opened,
            floor=part.floor,
            keys=keys,
            lengths=array("q", map(len, columns)).tobytes(),
            timestamps=b"".join(columns),
            episodes=[
                (number, [tuple(getattr(episode, name) for name in Episode.__slots__) for episode in episodes[key]])
                for number, key in enumerate(keys if episodes else ())
                if key in episodes
            ],
            seen=[(number, list(seen[key].items())) for number, key in enumerate(keys if seen else ()) if key in seen],
        )
        return msgspec.msgpack.encode(state)

    def restore(self, packed: bytes, shard: int = 0) -> None:
        """Take over the state that `pack` gave, into a shard that has seen nothing yet."""
        self._take(_decoder.decode(packed), shard)

    @classmethod
    def of_another_rule(cls, packed: bytes) -> CountEvaluator:
        """The state of a rule that is not configured any more, to `cancel` its alerts."""
        state = _decoder.decode(packed)
        rule = CountRule(state.rule, Topic(state.topic), (), state.threshold, state.window_ms)
        evaluator = cls(rule)
        evaluator.version = state.version
        evaluator._take(state, 0)
        return evaluator

    def _take(self, state: _Packed, shard: int) -> None:
        part = self._parts[shard]
        part.opened, part.floor = state.opened, state.floor
        self._floor = max(self._floor, state.floor)
        keys = [tuple(key) if isinstance(key, list) else key for key in state.keys]
        timestamps = array("q", state.timestamps)
        start = 0
        for key, length in zip(keys, array("q", state.lengths), strict=True):
            self._times[key] = kept = timestamps[start : start + length]
            self._put_in_bucket(part, key, kept[-1])
            start += length
        for number, found in state.episodes:
            self._episodes[keys[number]] = episodes = [_episode(fields) for fields in found]
            part.ends += ((one.end, one.rank, keys[number], one) for one in episodes if not one.resolved)
        for number, seen in state.seen:
            self._seen[keys[number]] = dict(seen)
        heapify(part.ends)


class _Packed(msgspec.Struct, array_like=True):
    rule: str
    version: str
    topic: str
    threshold: int
    window_ms: int
    opened: int
    floor: int
    keys: list[Any]
    lengths: bytes
    timestamps: bytes
    episodes: list[tuple[int, list[tuple[Any, ...]]]]
    seen: list[tuple[int, list[tuple[Any, int]]]]


_decoder = msgspec.msgpack.Decoder(_Packed)


def _episode(fields: tuple[Any, ...]) -> Episode:
    episode = Episode.__new__(Episode)
    for name, value in zip(Episode.__slots__, fields, strict=True):
        setattr(episode, name, value)
    return episode
