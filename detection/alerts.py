"""The alerts of one count rule: what its episodes are, by key, and what is told of them."""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort
from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Any

import msgspec

from detection.episodes import Episode, intervals_through, touching
from detection.keys import Key, key_values, shard_of
from detection.rules import CountRule
from detection.transitions import Source, Transition, alert_id


class PackedAlerts(msgspec.Struct, array_like=True):
    """Those of one shard. `episodes`: number of the key -> the fields of each."""

    rule: str
    version: str
    threshold: int
    window_ms: int
    opened: int
    episodes: list[tuple[int, list[tuple[Any, ...]]]]

    @property
    def identity(self) -> str:
        """As of `Alerts`."""
        return f"{self.rule}@{self.version}"


class _Part:
    """What is due in one shard: the ends of alerts that are open, and how many were opened."""

    __slots__ = ("ends", "opened")

    def __init__(self) -> None:
        self.opened = 0
        self.ends: list[tuple[int, int, Key, Episode]] = []


class Alerts:
    """`times` is what is kept of each key's events; it belongs to the evaluator, and may be more than this rule needs.

    `max_kept`: a key with more timestamps than this is thinned (see `Episode.thinnable`); None never thins.
    """

    def __init__(self, rule: CountRule, times: Mapping[Key, array[int]], max_kept: int | None, shards: int) -> None:
        self.rule, self.version = rule, rule.version
        self.max_kept = max_kept
        self.episodes: dict[Key, list[Episode]] = {}
        self._times = times
        self._parts = [_Part() for _ in range(shards)]

    @property
    def identity(self) -> str:
        """Of a rule with its meaning: state is kept by it."""
        return f"{self.rule.name}@{self.version}"

    def is_due(self, shard: int, watermark: int) -> bool:
        """Whether an alert ends before `watermark`."""
        ends = self._parts[shard].ends
        return bool(ends) and ends[0][0] < watermark

    def resolve(self, shard: int, watermark: int, out: list[Transition]) -> None:
        """Resolve the alerts whose end is below `watermark`."""
        ends = self._parts[shard].ends
        while ends and ends[0][0] < watermark:
            queued, rank, key, episode = heappop(ends)
            if episode.resolved:
                continue
            if episode.end != queued:
                heappush(ends, (episode.end, rank, key, episode))
                continue
            episode.resolved = True
            out.append(self._transition("resolved", key, episode))

    def cancel(self, out: list[Transition]) -> None:
        """End all open alerts as cancelled: their rule is no more."""
        for key, found in self.episodes.items():
            for episode in found:
                if not episode.resolved:
                    episode.resolved = True
                    out.append(self._transition("resolved", key, episode, cancelled=True))

    def free(self, key: Key, floor: int, cut: int, out: list[Transition]) -> None:
        """Timestamps of a key below `cut` are about to be freed, and episodes that end below `floor` are over."""
        found = self.episodes.get(key)
        if found is None:
            return
        kept = self._times[key]
        for episode in found:
            if episode.end < floor and episode.stale:
                # The last word on it, for the record: people were told that it is over.
                out.append(self._transition("resolved", key, episode, told=False))
            episode.forget(kept, self.rule.window_ms, cut)
        found[:] = [episode for episode in found if episode.end >= floor]
        if not found:
            del self.episodes[key]

    def pack(self, shard: int, keys: list[Key]) -> PackedAlerts:
        """Those of a shard, whose keys these are."""
        rule, episodes = self.rule, self.episodes
        found = [
            (number, [tuple(getattr(episode, name) for name in Episode.__slots__) for episode in episodes[key]])
            for number, key in enumerate(keys if episodes else ())
            if key in episodes
        ]
        opened = self._parts[shard].opened
        return PackedAlerts(rule.name, self.version, rule.threshold, rule.window_ms, opened, found)

    def restore(self, packed: PackedAlerts, shard: int, keys: list[Key]) -> None:
        """Take over what `pack` gave."""
        part = self._parts[shard]
        part.opened = packed.opened
        for number, found in packed.episodes:
            self.episodes[keys[number]] = episodes = [_episode(fields) for fields in found]
            part.ends += ((one.end, one.rank, keys[number], one) for one in episodes if not one.resolved)
        heapify(part.ends)

    # What events do

    def in_breach(
        self, key: Key, kept: array[int], timestamp: int, place: tuple[int, int], out: list[Transition]
    ) -> None:
        """The newest event of a key completed `threshold` events within a window."""
        window = self.rule.window_ms
        end = kept[-self.rule.threshold] + window
        found = self.episodes.get(key)
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

    def late(self, key: Key, kept: array[int], timestamp: int, place: tuple[int, int], out: list[Transition]) -> None:
        """An event before the newest one: it may open episodes, make one grow at either end, and join several."""
        window, source = self.rule.window_ms, (*place, timestamp)
        position = bisect_right(kept, timestamp) - 1
        known = self.episodes.get(key, [])
        for start, end in intervals_through(kept, position, self.rule.threshold, window, known):
            touched = touching(known, start, end)
            if not touched:
                self._open(key, start, end, source, out)
                known = self.episodes[key]
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
        insort(self.episodes.setdefault(key, []), episode, key=lambda other: other.start)
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
        self.episodes[key].remove(episode)

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

    def thinnable(self, key: Key) -> tuple[int, int]:
        """Which timestamps of a key this rule can do without, [first, last): see `Episode.thinnable`."""
        found = self.episodes.get(key)
        return found[-1].thinnable(self._times[key], self.rule.window_ms) if found else (0, 0)

    def thin(self, key: Key, number: int) -> None:
        """So many that are `thinnable` are about to go."""
        self.episodes[key][-1].thin(self._times[key], self.rule.window_ms, number)

    def _thin(self, episode: Episode, kept: array[int]) -> None:
        if self.max_kept is not None and len(kept) > self.max_kept:
            first, last = episode.thinnable(kept, self.rule.window_ms)
            if first < last:
                episode.thin(kept, self.rule.window_ms, last - first)
                del kept[first:last]

    def _part(self, key: Key) -> _Part:
        return self._parts[0 if len(self._parts) == 1 else shard_of(key)]


def _episode(fields: tuple[Any, ...]) -> Episode:
    episode = Episode.__new__(Episode)
    for name, value in zip(Episode.__slots__, fields, strict=True):
        setattr(episode, name, value)
    return episode
