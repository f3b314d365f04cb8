"""One source partition as the job reads it: how far it is, what waits, and whether it is idle."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple
from zlib import crc32

from detection.intake import Records
from detection.rules import Topic
from detection.watermarks import NEVER, PartitionState

VERIFIED_FOR_S = 15.0
"""How long a broker's answer that there is nothing more may be relied on."""
PROMPT_S = 2.0
"""An answer that took longer came from a broker that could not be reached at first."""
_COMING_S = 0.5


class _Waiting(NamedTuple):
    records: Records
    size: int
    topic_id: str | None
    replayed_to: int


class Break(NamedTuple):
    """The log lost all from offset `at` on, or, where it `begins` anew, all. What was read before it comes first."""

    at: int
    begins: bool
    topic_id: str | None


class _Read(NamedTuple):
    """Records [first, end) that came together, told by the first of them."""

    first: int
    end: int
    timestamp_ms: int
    checksum: int


class Partition:
    """Position and event time of one partition. Times named `_s` are of a monotonic clock.

    `next_offset` and `highest_ms` are what has been passed on to the flow, and what a snapshot holds: next_offset is
    None before anything is known. `expected` is the next offset to come from the broker; what lies between is in
    `waiting`. `topic_id` is the id of the topic that next_offset belongs to, `reading_id` of the one being read;
    `logs` counts the logs that have been read under this name. `settled_ms` is highest_ms as of when it was last known
    that the topic has no more partitions than those that are read. What comes from before `replayed_to` was passed on
    before the job started, and of the records taken last what lies before `taken_again_to`.
    """

    def __init__(
        self, topic: Topic, number: int, next_offset: int | None, highest_ms: int, topic_id: str | None, now_s: float
    ) -> None:
        self.topic, self.number = topic, number
        self.topic_id = self.reading_id = topic_id
        self.next_offset, self.highest_ms = next_offset, highest_ms
        self.expected = next_offset
        self.waiting: deque[_Waiting | Break] = deque()
        self.waiting_bytes = 0
        self.committed: int | None = None
        self.paused = False
        self.replayed_to = self._passed_to = next_offset or 0
        self.taken_again_to = 0
        self._passed_ms = highest_ms
        self.logs = 0
        self.settled_ms = highest_ms
        self._unconfirmed: deque[_Read] = deque()
        self._read_before: deque[_Read] = deque()
        self._skip_to = 0
        self._arrived_s = self._accepted_s = self._reachable_since_s = now_s
        self._asked_s = -1.0e9
        self._end_at_start: int | None = None
        self._end: int | None = None
        self._seen_to = -1

    def resume(self, passed_to: int, passed_ms: int) -> None:
        """Before the job started it had been passed on up to there, further than next_offset and highest_ms."""
        self.replayed_to = self._passed_to = passed_to
        self._passed_ms = passed_ms

    @property
    def passed_to(self) -> int:
        """Up to where some shards may have counted, in the log of next_offset."""
        return max(self.next_offset or 0, self._passed_to)

    @property
    def passed_ms(self) -> int:
        """The highest timestamp accepted before passed_to."""
        return max(self.highest_ms, self._passed_ms)

    def arrived(self, records: Records, size: int, now_s: float) -> None:
        """Records came, in log order; `size` is what they take in memory, about, in bytes."""
        if self.reading_id is not None:
            first, end = records.offsets[0], records.offsets[-1] + 1
            self._unconfirmed.append(_Read(first, end, records.timestamps[0], crc32(records.values[0] or b"")))
        self.waiting.append(_Waiting(records, size, self.reading_id, self.replayed_to))
        self.waiting_bytes += size
        self.expected = records.offsets[-1] + 1
        self._arrived_s = now_s

    @property
    def next_ms(self) -> int:
        """The record timestamp of what has waited longest; a break is due at once."""
        first = self.waiting[0]
        return NEVER if isinstance(first, Break) else first.records.timestamps[0]

    def last_ms(self, runs: int) -> int:
        """The record timestamp of the last of so many runs of records that have waited longest."""
        last = self.waiting[min(runs, len(self.waiting)) - 1]
        return self.next_ms if isinstance(last, Break) else max(self.next_ms, last.records.timestamps[-1])

    def take(self, until_ms: int | None = None) -> Records | Break:
        """The records that have waited longest, now passed on; `highest_ms` is still the value before them.

        With `until_ms` only those before the first with a later record timestamp.
        """
        waiting = self.waiting.popleft()
        if isinstance(waiting, Break):
            self._passed_to = min(self._passed_to, waiting.at)
            if waiting.begins:
                self.next_offset, self.topic_id = 0, waiting.topic_id
                self.highest_ms = self.settled_ms = self._passed_ms = NEVER
            elif self.next_offset is not None:
                self.next_offset = min(self.next_offset, waiting.at)
            return waiting
        times = waiting.records.timestamps
        if until_ms is not None and times[-1] > until_ms:
            count = next(index for index, timestamp_ms in enumerate(times) if timestamp_ms > until_ms)
            now, later = waiting.records.part(0, count), waiting.records.part(count)
            size = waiting.size * count // len(times)
            self.waiting.appendleft(waiting._replace(records=later, size=waiting.size - size))
            waiting = waiting._replace(records=now, size=size)
        self.waiting_bytes -= waiting.size
        self.topic_id, self.taken_again_to = waiting.topic_id, waiting.replayed_to
        self.next_offset = waiting.records.offsets[-1] + 1
        return waiting.records

    def resumed(self, now_s: float) -> None:
        """It was held back; what comes next is about to be sent."""
        self.paused = False
        self._arrived_s = now_s

    def accepted(self, now_s: float) -> None:
        """Some of what was passed on counts. A partition that brings nothing but what is rejected is quiet."""
        self._accepted_s = now_s

    def reached_end(self, offset: int) -> None:
        """The broker had nothing at `offset` and beyond; transaction markers may lie before it."""
        self._seen_to = offset

    def end_is(self, offset: int, asked_s: float, answered_s: float) -> None:
        """The broker's end offset."""
        if self._end_at_start is None:
            self._end_at_start = offset
        self._end, self._asked_s = offset, asked_s
        if answered_s - asked_s > PROMPT_S:
            self.unanswered(answered_s)

    def unanswered(self, now_s: float) -> None:
        """The broker could not be reached up to now: what producers had to say meanwhile is yet to come."""
        self._reachable_since_s = now_s

    def confirmed(self, expected: int | None, highest_ms: int) -> None:
        """When these were its `expected` and highest_ms, the topic was the one being read, with all its partitions."""
        self.settled_ms = highest_ms
        while self._unconfirmed and self._unconfirmed[0].first < (expected or 0):
            self._unconfirmed.popleft()

    def begin_anew(self, topic_id: str | None, now_s: float) -> None:
        """What comes next is the log of another topic of the same name, from its beginning.

        If that log is longer than the position in the old one, then the consumer has gone on in it, and what came
        since the old one was last confirmed may be of the new one.
        """
        self._read_before, self._unconfirmed, self._skip_to = self._unconfirmed, deque(), 0
        self.logs += 1
        self.replayed_to = 0
        self.reading_id = topic_id
        self.waiting.append(Break(0, True, topic_id))
        self.expected = self._end = self._end_at_start = None
        self._seen_to = -1
        self._arrived_s = self._accepted_s = now_s

    def cut_off(self, offset: int) -> None:
        """What lay at this offset and beyond is not in the log any more; it goes on from there."""
        self.waiting.append(Break(offset, False, self.reading_id))
        self.replayed_to = min(offset, self.replayed_to)
        self._end, self._seen_to = None, -1
        if self._end_at_start is not None:
            self._end_at_start = min(offset, self._end_at_start)

    def without_counted(self, records: Records) -> Records:
        """Those that did not come before, at a position of the old log."""
        if not self._read_before and not self._skip_to:
            return records
        kept = []
        for record in records.rows():
            value, timestamp_ms, offset, _ = record
            while self._read_before and self._read_before[0].first <= offset:
                read = self._read_before.popleft()
                if (offset, timestamp_ms, crc32(value or b"")) == (read.first, read.timestamp_ms, read.checksum):
                    self._skip_to = read.end
            if offset >= self._skip_to:
                self._skip_to = 0
                kept.append(record)
        return Records.of(kept)

    def wants_verifying(self, now_s: float) -> bool:
        """Whether the broker should be asked for the end offset.

        Asked more often than idleness needs, so that no outage within the idle timeout goes unnoticed.
        """
        if self._end_at_start is None:
            return True
        every_s = min(VERIFIED_FOR_S, self.topic.idle_timeout_ms / 1000) / 3
        return now_s - self._accepted_s >= every_s and now_s - self._asked_s >= every_s

    def is_idle(self, now_s: float) -> bool:
        """Nothing that counts for the idle timeout, and the broker, reachable all that time, says that this is all.

        A broker that can't be reached says nothing, and silence is not taken for calm.
        """
        calm_since_s = max(self._accepted_s, self._reachable_since_s)
        calm = now_s - calm_since_s >= self.topic.idle_timeout_ms / 1000
        verified = now_s - self._asked_s <= VERIFIED_FOR_S and self._asked_s > calm_since_s
        return calm and verified and not self.waiting and self._end is not None and self._read_to() >= self._end

    @property
    def caught_up(self) -> bool:
        """All that was there when the job started has been passed on."""
        return self._end_at_start is not None and self._passed_on() >= self._end_at_start

    def is_coming(self, now_s: float) -> bool:
        """The broker has more of what was there at the start, and is about to send it."""
        if self.waiting or now_s - self._arrived_s > _COMING_S:
            return False
        return self._end_at_start is None or self._read_to() < self._end_at_start

    def state(self, partitions: int, now_ms: int, looked_s: float) -> PartitionState:
        """What the watermark is made of, by what was known when the broker was last looked to, at `looked_s`."""
        quiet_ms = int((looked_s - max(self._accepted_s, self._reachable_since_s)) * 1000)
        idle = self.is_idle(looked_s)
        return PartitionState(
            self.topic.name,
            self.number,
            self.highest_ms,
            # An embedded broker has no ids, and its topics do not grow.
            self.settled_ms if self.reading_id is not None else self.highest_ms,
            idle,
            self.caught_up,
            partitions,
            now_ms,
            max(0, quiet_ms),
        )

    def _read_to(self) -> int:
        return max(self.expected or 0, self._seen_to)

    def _passed_on(self) -> int:
        return self.next_offset or 0 if self.waiting else self._read_to()
