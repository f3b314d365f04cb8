"""What is right, by brute force and straight from the definition; shares nothing with the code under test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple


class Episode(NamedTuple):
    opened_at_ms: int
    resolves_at_ms: int
    peak: int
    events: int


def episodes(timestamps: Iterable[int], window: int, threshold: int) -> list[Episode]:
    """The maximal intervals of the union over i of [s_{i+N-1}, s_i + W); intervals that touch are one."""
    s = sorted(timestamps)
    intervals: list[list[int]] = []
    for i in range(len(s) - threshold + 1):
        start, end = s[i + threshold - 1], s[i] + window
        if start < end:
            if intervals and start <= intervals[-1][1]:
                intervals[-1][1] = max(intervals[-1][1], end)
            else:
                intervals.append([start, end])
    return [
        Episode(
            start,
            end,
            max(sum(t - window < x <= t for x in s) for t in s if start <= t < end),
            sum(start - window < x < end for x in s),
        )
        for start, end in intervals
    ]


def accepted(records: Iterable[tuple[int, int]], lateness: int) -> list[bool]:
    """For (partition, timestamp) in log order: whether it is not late by its partition's watermark."""
    highest: dict[int, int] = {}
    verdicts = []
    for partition, timestamp in records:
        late = partition in highest and timestamp < highest[partition] - lateness
        verdicts.append(not late)
        if not late:
            highest[partition] = max(highest.get(partition, timestamp), timestamp)
    return verdicts


def intervals_by_key(
    events: Iterable[tuple[str, int, int]], lateness: int, window: int, threshold: int
) -> set[tuple[str, int, int]]:
    """(key, opened_at_ms, resolves_at_ms) of all episodes of events (key, partition, timestamp) in log order.

    Every event counts here: leave out those that `where` does not let pass, they are assumed not to be newest.
    """
    events = list(events)
    by_key: dict[str, list[int]] = defaultdict(list)
    verdicts = accepted([(partition, timestamp) for _, partition, timestamp in events], lateness)
    for (key, _, timestamp), good in zip(events, verdicts, strict=True):
        if good:
            by_key[key].append(timestamp)
    found = set()
    for key, timestamps in by_key.items():
        s = sorted(timestamps)
        tuples = [(s[i + threshold - 1], s[i] + window) for i in range(len(s) - threshold + 1)]
        start = end = None
        for a, b in [(a, b) for a, b in tuples if a < b]:
            if end is None or a > end:
                if end is not None:
                    found.add((key, start, end))
                start, end = a, b
            else:
                end = max(end, b)
        if end is not None:
            found.add((key, start, end))
    return found
