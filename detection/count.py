"""The `count` rule: at least N distinct events of one key within a window W. Definitions in docs/detection.md.

In order the test is one look at the N-th last timestamp. Everything else (late events, joins, peaks of keys in
breach) happens only for keys that have an episode or an event out of order.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Any

import msgspec

from detection.episodes import Episode, intervals_through, touching
from detection.keys import Key, key_values
from detection.rules import CountRule, Topic
from detection.transitions import Source, Transition, alert_id
from detection.watermarks import NEVER

Row = tuple[Any, ...]
"""(key, timestamp_ms, offset), and the event's id as a fourth where the topic names a field for it."""


class CountEvaluator:
    """All keys of one count rule within one shard.

    `max_kept`: a key with more timestamps than this is thinned (see `Episode.thin`); None never thins, so that
    every peak is exact. `incomplete` counts accepted events below the floor, `copies` events whose id was
    counted before.
    """

    def __init__(self, rule: CountRule, max_kept: int | None = None) -> None:
        self.rule, self.version = rule, rule.version
        self.incomplete = self.copies = 0
        self._max_kept = max_kept
        self._times: dict[Key, array[int]] = {}
        self._episodes: dict[Key, list[Episode]] = {}
        self._seen: dict[Key, dict[Any, int]] = {}
        self._opened = 0
        self._ends: list[tuple[int, int, Key, Episode]] = []
        # Each key lies in one bucket, by the time at which nothing of it is needed any more as known when it
        # was put there; later events move it only when the bucket is visited.
        self._bucket_ms = max(1, rule.window_ms // 2)
        self._buckets: dict[int, list[Key]] = {}
        self._bucket_heap: list[int] = []
        self._floor = NEVER

    @property
    def next_end(self) -> int | None:
        """A watermark above this resolves an alert (or finds that its end has moved)."""
        return self._ends[0][0] if self._ends else None

    @property
    def next_free(self) -> int | None:
        """A floor at or above this frees state."""
        return (self._bucket_heap[0] + 1) * self._bucket_ms if self._bucket_heap else None

    def sizes(self) -> tuple[int, int, int]:
        """Keys, timestamps and episodes held."""
        timestamps = sum(len(kept) for kept in self._times.values())
        return len(self._times), timestamps, sum(len(found) for found in self._episodes.values())

    def add(self, partition: int, rows: Sequence[Row], out: list[Transition], lowest_ms: int = NEVER) -> None:
        """Count accepted events of one partition in the order of processing; append what they caused to `out`.

        `lowest_ms` is a lower bound of their timestamps.
        """
        if lowest_ms < self._floor:
            # Some of what these would have met may be freed: they may miss a breach, never invent one.
            self.incomplete += sum(1 for row in rows if row[1] < self._floor)
        if self.rule.topic.event_id is not None:
            rows = [row[:3] for row in rows if self._is_first(row)]
        times, threshold, window = self._times, self.rule.threshold, self.rule.window_ms
        for key, timestamp, offset in rows:
            kept = times.get(key)
            if kept is None:
                kept = times[key] = array("q", (timestamp,))
                self._put_in_bucket(key, timestamp)
            elif timestamp >= kept[-1]:
                kept.append(timestamp)
            else:
                insort(kept, timestamp)
                self._late(key, kept, timestamp, partition, offset, out)
                continue
            if len(kept) >= threshold and timestamp - kept[-threshold] < window:
                self._in_breach(key, kept, timestamp, partition, offset, out)

    def advance(self, watermark: int, floor: int, out: list[Transition]) -> None:
        """Resolve the alerts whose end is below `watermark` and free what only events below `floor` need."""
        while self._ends and self._ends[0][0] < watermark:
            queued, rank, key, episode = heappop(self._ends)
            if episode.resolved:
                continue
            if episode.end != queued:
                heappush(self._ends, (episode.end, rank, key, episode))
                continue
            episode.resolved = True
            out.append(self._transition("resolved", key, episode))
        self._floor = max(self._floor, floor)
        while self._bucket_heap and (self._bucket_heap[0] + 1) * self._bucket_ms <= floor:
            for key in self._buckets.pop(heappop(self._bucket_heap)):
                self._free(key, floor, out)

    def cancel(self, out: list[Transition]) -> None:
        """End all open alerts as cancelled: their rule is no more."""
        for key, found in self._episodes.items():
            for episode in found:
                if not episode.resolved:
                    episode.resolved = True
                    out.append(self._transition("resolved", key, episode, cancelled=True))

    # A key in breach

    def _in_breach(
        self, key: Key, kept: array[int], timestamp: int, partition: int, offset: int, out: list[Transition]
    ) -> None:
        """The newest event of a key completed `threshold` events within a window."""
        window = self.rule.window_ms
        end = kept[-self.rule.threshold] + window
        found = self._episodes.get(key)
        episode = found[-1] if found else None
        if episode is None or episode.end < timestamp:
            self._open(key, timestamp, end, (partition, offset, timestamp), out)
            return
        episode.caused_by(partition, offset, timestamp)
        count = len(kept) - bisect_right(kept, timestamp - window)
        episode.peak = max(episode.peak, count)
        episode.stale = episode.resolved
        self._grow(key, episode, end, out)
        if count >= episode.milestone and not episode.resolved:
            while episode.milestone <= count:
                episode.milestone *= 2
            out.append(self._transition("updated", key, episode))
        self._thin(episode, kept)

    def _late(
        self, key: Key, kept: array[int], timestamp: int, partition: int, offset: int, out: list[Transition]
    ) -> None:
        """An event before the newest one: it may open episodes, make one grow at either end, and join several."""
        window, source = self.rule.window_ms, (partition, offset, timestamp)
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
        episode = Episode(self._opened, identity, start, end, self.rule.threshold)
        self._opened += 1
        episode.caused_by(*source)
        insort(self._episodes.setdefault(key, []), episode, key=lambda other: other.start)
        heappush(self._ends, (end, episode.rank, key, episode))
        out.append(self._transition("opened", key, episode))

    def _grow(self, key: Key, episode: Episode, end: int, out: list[Transition]) -> None:
        """Move the end of an episode, which opens its alert again if it had resolved."""
        if end <= episode.end:
            return
        episode.end = end
        if episode.resolved:
            episode.resolved = False
            heappush(self._ends, (end, episode.rank, key, episode))
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

    def _is_first(self, row: Row) -> bool:
        key, timestamp, _, event_id = row
        if event_id is None:
            return True
        seen = self._seen.setdefault(key, {})
        if event_id in seen:
            self.copies += 1
            return False
        seen[event_id] = timestamp
        return True

    def _put_in_bucket(self, key: Key, newest: int) -> None:
        number = (newest + self.rule.window_ms) // self._bucket_ms
        bucket = self._buckets.get(number)
        if bucket is None:
            self._buckets[number] = [key]
            heappush(self._bucket_heap, number)
        else:
            bucket.append(key)

    def _free(self, key: Key, floor: int, out: list[Transition]) -> None:
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
            self._put_in_bucket(key, kept[-1])
        else:
            # The newest timestamp is always kept, and no episode ends later than a window after it.
            del self._times[key]
            self._seen.pop(key, None)

    # State

    def pack(self) -> bytes:
        """The whole state as MessagePack: small, quick to write, and free of code that runs when it is read."""
        keys = list(self._times)
        index = {key: number for number, key in enumerate(keys)} if self._episodes or self._seen else {}
        state = _Packed(
            rule=self.rule.name,
            version=self.version,
            topic=self.rule.topic.name,
            threshold=self.rule.threshold,
            window_ms=self.rule.window_ms,
            opened=self._opened,
            floor=self._floor,
            keys=keys,
            lengths=array("q", map(len, self._times.values())).tobytes(),
            timestamps=b"".join(kept.tobytes() for kept in self._times.values()),
            episodes=[
                (
                    index[key],
                    [tuple(getattr(episode, name) for name in Episode.__slots__) for episode in found],
                )
                for key, found in self._episodes.items()
            ],
            seen=[(index[key], list(seen.items())) for key, seen in self._seen.items()],
        )
        return msgspec.msgpack.encode(state)

    def restore(self, packed: bytes) -> None:
        """Take over the state that `pack` gave, into an evaluator that has seen nothing yet."""
        self._take(_decoder.decode(packed))

    @classmethod
    def of_another_rule(cls, packed: bytes) -> CountEvaluator:
        """The state of a rule that is not configured any more, to `cancel` its alerts."""
        state = _decoder.decode(packed)
        rule = CountRule(state.rule, Topic(state.topic), (), state.threshold, state.window_ms)
        evaluator = cls(rule)
        evaluator.version = state.version
        evaluator._take(state)
        return evaluator

    def _take(self, state: _Packed) -> None:
        self._opened, self._floor = state.opened, state.floor
        keys = [tuple(key) if isinstance(key, list) else key for key in state.keys]
        timestamps = array("q", state.timestamps)
        start = 0
        for key, length in zip(keys, array("q", state.lengths), strict=True):
            self._times[key] = kept = timestamps[start : start + length]
            self._put_in_bucket(key, kept[-1])
            start += length
        for number, found in state.episodes:
            self._episodes[keys[number]] = [_episode(fields) for fields in found]
        for number, seen in state.seen:
            self._seen[keys[number]] = dict(seen)
        self._ends = [
            (episode.end, episode.rank, key, episode)
            for key, found in self._episodes.items()
            for episode in found
            if not episode.resolved
        ]
        heapify(self._ends)


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
