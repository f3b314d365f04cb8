"""How far event time has come in each topic: the watermark that resolves, and the floor that frees.

Built from what each source partition reports about itself. Nothing here reads a clock: the wall clock comes in
with the reports.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from detection.rules import Topic

NEVER = -(1 << 62)
"""Minus infinity, as an event time."""
ENDED = 1 << 62
"""Plus infinity: the highest timestamp of a partition that will bring nothing more."""


class PartitionState(msgspec.Struct, frozen=True):
    """What the reader of one partition knows of it.

    `highest_ms`: highest accepted timestamp, NEVER before the first. `settled_ms`: the same as of when it was last
    known how many partitions the topic has: one that is new since then may bring events of that time. `idle`: read to
    its end, and nothing accepted for the topic's idle timeout. `caught_up`: read to the end offset it had when the job
    started. `partitions`: how many the topic has. `now_ms`: the wall clock of the report. `quiet_ms`: for how long
    nothing was accepted.
    """

    topic: str
    partition: int
    highest_ms: int
    settled_ms: int
    idle: bool
    caught_up: bool
    partitions: int
    now_ms: int
    quiet_ms: int = 0


class Watermarks:
    """The two minima over the partitions of each topic; NEVER until every partition has reported."""

    def __init__(self, topics: Iterable[Topic], retention_ms: int) -> None:
        self._topics = {topic.name: topic for topic in topics}
        self._retention_ms = retention_ms
        self._states: dict[str, dict[int, PartitionState]] = {name: {} for name in self._topics}
        self._partitions = dict.fromkeys(self._topics, 1)
        self._known: dict[str, tuple[int, int]] = {}

    def update(self, state: PartitionState) -> None:
        """Take a report; one about a topic that no rule reads is of no interest."""
        states = self._states.get(state.topic)
        # Each shard brings the same news, so most of it is known.
        if states is None or states.get(state.partition) == state:
            return
        states[state.partition] = state
        for gone in [partition for partition in states if partition >= state.partitions]:
            del states[gone]
        self._partitions[state.topic] = state.partitions
        self._known.pop(state.topic, None)

    def watermark(self, topic: str) -> int:
        """An alert resolves when this is greater than its end. May go back when an idle partition wakes."""
        return self._minima(topic)[0]

    def floor(self, topic: str) -> int:
        """No event below this is expected any more: state that only such an event could need is freed."""
        return self._minima(topic)[1]

    def _minima(self, name: str) -> tuple[int, int]:
        if name not in self._known:
            self._known[name] = self._minima_of(self._topics[name], self._states[name].values())
        return self._known[name]

    def _minima_of(self, topic: Topic, states: Collection[PartitionState]) -> tuple[int, int]:
        if len(states) < self._partitions[topic.name]:
            return NEVER, NEVER
        active = [state.highest_ms for state in states if not state.idle]
        if active:
            watermark = _minus(min(active), topic.lateness_ms)
        else:
            watermark = min(state.now_ms for state in states) - topic.lateness_ms - topic.idle_timeout_ms
        lowest = _minus(min(state.settled_ms for state in states), topic.lateness_ms)
        is_behind = not all(state.caught_up for state in states)
        if is_behind or (not active and any(state.quiet_ms < self._retention_ms for state in states)):
            # A backlog may be older than the retention, and the wall clock far ahead of event time (a replay, a test).
            return watermark, min(watermark, lowest)
        return watermark, min(watermark, max(lowest, watermark - self._retention_ms))


def _minus(timestamp_ms: int, span_ms: int) -> int:
    return NEVER if timestamp_ms == NEVER else timestamp_ms - span_ms
