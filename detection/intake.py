"""From the records of a partition, in log order, to rows that evaluators count and records that are rejected.

Judged in this order, before `where` and key: invalid, future, late. Whether a record is accepted depends on its
partition's log alone, so a replay decides the same; but for the future guard, of which a live job remembers what it
decided (`judged_before`).

Records come in columns, and a batch in which nothing is wrong, which is nearly every one, is judged as a whole: a loop
in Python for each of the checks of each record would take most of the job's time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, Literal, NamedTuple

import msgspec

from detection.matching import BatchMatcher, compile_event_id, compile_event_time, compile_rule, fields_of
from detection.rows import Rows
from detection.rules import CountRule, Topic
from detection.times import LAST_MS
from detection.watermarks import NEVER

_DEEPEST = 500
_NESTING = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)


class Record(NamedTuple):
    """`arrival_ms` is what the future guard compares with; None leaves the guard out, NEVER is before any time."""

    value: bytes | None
    timestamp_ms: int
    offset: int
    arrival_ms: int | None = None


class Records(NamedTuple):
    """Records of one partition in log order, a column each. `arrivals` is one for all, or a column."""

    values: Sequence[bytes | None]
    timestamps: Sequence[int]
    offsets: Sequence[int]
    arrivals: Sequence[int | None] | int | None = None

    @classmethod
    def of(cls, records: Iterable[Record]) -> Records:
        rows = list(records)
        values, timestamps, offsets, arrivals = zip(*rows, strict=True) if rows else ((), (), (), ())
        return cls(values, timestamps, offsets, arrivals)

    def part(self, first: int, end: int | None = None) -> Records:
        """Records [first, end) of these."""
        values, timestamps, offsets, arrivals = self
        if not (arrivals is None or isinstance(arrivals, int)):
            arrivals = arrivals[first:end]
        return Records(values[first:end], timestamps[first:end], offsets[first:end], arrivals)

    def rows(self) -> Iterable[Record]:
        arrivals = repeat(self.arrivals) if self.arrivals is None or isinstance(self.arrivals, int) else self.arrivals
        return map(Record, self.values, self.timestamps, self.offsets, arrivals)


def judged_before(records: Records, end: int, future: Sequence[int]) -> Records:
    """Records of which those before `end` were judged before: as future were rejected the offsets in `future`.

    The guard compares with a clock, which has gone on since. A record that it lets pass at the second time would make
    those behind it late.
    """
    rejected = set(future)
    return Records.of(
        record._replace(arrival_ms=NEVER if record.offset in rejected else None) if record.offset < end else record
        for record in records.rows()
    )


class Rejected(msgspec.Struct, frozen=True):
    """A record that does not count for `rules`, and why."""

    reason: Literal["late", "future", "invalid"]
    detail: str
    rules: tuple[str, ...]
    partition: int
    offset: int
    timestamp_ms: int
    value: bytes | None


class Taken(msgspec.Struct):
    """What came of some records of one partition.

    `highest_ms`: the partition's highest accepted timestamp now. `rows`: position of a rule -> its rows; a rule that
    none of the records is about is not in it. `accepted`: how many records are neither late, future nor invalid; the
    others say nothing about event time.
    """

    highest_ms: int
    rows: dict[int, Rows]
    rejected: list[Rejected]
    accepted: int


class _Judged(NamedTuple):
    """The accepted ones of some records: what was decoded, their event times, and the records themselves."""

    events: Sequence[Any]
    times: Sequence[int]
    records: Records
    highest_ms: int
    lowest_ms: int


class TopicIntake:
    """Judges and matches the records of one topic. Of `rules`, those of other topics are passed over."""

    def __init__(self, topic: Topic, rules: Sequence[CountRule]) -> None:
        own = [rule for rule in rules if rule.topic.name == topic.name]
        self.topic = topic
        self._fields = fields_of(topic, own)
        self._time_of = compile_event_time(self._fields, topic.event_time)
        self._id_of = compile_event_id(self._fields, topic.event_id)
        self._names = tuple(rule.name for rule in own)
        # Rules that ask for the same events under the same key share the work.
        self._matchers: dict[Any, tuple[BatchMatcher, list[tuple[int, CountRule]]]] = {}
        for position, rule in enumerate(rules):
            if rule in own:
                alike = self._matchers.setdefault(rule.events, (compile_rule(self._fields, rule), []))
                alike[1].append((position, rule))

    def take(self, partition: int, records: Records, highest_ms: int) -> Taken:
        """Judge records in log order. `highest_ms` is the highest accepted timestamp before them, or NEVER."""
        rejected: list[Rejected] = []
        judged = self._all_accepted(records, highest_ms) or self._judge(partition, records, highest_ms, rejected)
        rows: dict[int, Rows] = {}
        if judged.events:
            ids = None if self._id_of is None else list(map(self._id_of, judged.events))
            for match, alike in self._matchers.values():
                keys, bad = match(judged.events)
                for number in bad:
                    rejected += [self._bad_key(partition, judged.records, number, rule) for _, rule in alike]
                if keys.count(None) < len(keys):
                    found = Rows(keys, judged.times, judged.records.offsets, partition, ids, judged.lowest_ms)
                    rows |= ((position, found) for position, _ in alike)
        return Taken(judged.highest_ms, rows, _one_per_record(rejected), len(judged.events))

    def _all_accepted(self, records: Records, highest_ms: int) -> _Judged | None:
        """The records when all of them are accepted, as can be told by looking at them together; else None."""
        values, times, arrivals = records.values, records.timestamps, records.arrivals
        ahead, lateness = self.topic.max_future_ms, self.topic.lateness_ms
        try:
            # In ASCII, and too short to nest too deeply; the decoder does not look into the texts that it skips.
            if not b"".join(values).isascii() or max(map(len, values)) > _DEEPEST:  # type: ignore[arg-type]
                return None
            events = list(map(self._fields.decode, values))  # type: ignore[arg-type]
            if self._time_of is not None:
                times = list(map(self._time_of, events))
        except (TypeError, ValueError):
            return None
        lowest, highest = min(times), max(times)
        if lowest < 0 or highest > LAST_MS or lowest < max(highest, highest_ms) - lateness:
            return None
        if ahead is not None and arrivals is not None:
            if not isinstance(arrivals, int):
                arrivals = min((arrival for arrival in arrivals if arrival is not None), default=highest)
            if highest > arrivals + ahead:
                return None
        return _Judged(events, times, records, max(highest, highest_ms), lowest)

    def _judge(self, partition: int, records: Records, highest_ms: int, rejected: list[Rejected]) -> _Judged:
        """One by one; appends those that are not accepted to `rejected`."""
        decode, time_of, lateness = self._fields.decode, self._time_of, self.topic.lateness_ms
        ahead = self.topic.max_future_ms
        watermark = lowest = NEVER if highest_ms == NEVER else highest_ms - lateness
        events: list[Any] = []
        times: list[int] = []
        accepted: list[Record] = []
        for record in records.rows():
            value, time, _, arrival = record
            try:
                # The decoder does not look into the texts it skips.
                if not value.isascii():  # type: ignore[union-attr]
                    value.decode()  # type: ignore[union-attr]
                if len(value) > _DEEPEST and _nests_too_deeply(value):  # type: ignore[arg-type]
                    raise ValueError(f"nested more than {_DEEPEST} levels deep")
                try:
                    event = decode(value)  # type: ignore[arg-type]
                except msgspec.ValidationError:
                    event = self._fields.decode_again(value)  # type: ignore[arg-type]
                if time_of is not None:
                    time = time_of(event)
            except (AttributeError, ValueError) as error:
                rejected.append(self._reject("invalid", _why_invalid(value, error), partition, record))
                continue
            if not 0 <= time <= LAST_MS:
                shown = time if abs(time) < 10**18 else "of many digits"
                detail = f"event time {shown} is not between the years 1970 and 9999"
                rejected.append(self._reject("invalid", detail, partition, record))
                continue
            if arrival is not None and ahead is not None and time > arrival + ahead:
                by = "was" if arrival == NEVER else f"is {time - arrival} ms"
                detail = f"event time {by} ahead of its arrival; {ahead} ms are allowed"
                rejected.append(self._reject("future", detail, partition, record))
                continue
            if time < watermark:
                detail = (
                    f"event time is {highest_ms - time} ms behind the partition's newest; {lateness} ms are allowed"
                )
                rejected.append(self._reject("late", detail, partition, record))
                continue
            if time > highest_ms:
                highest_ms = time
                watermark = time - lateness
            if lowest == NEVER:
                lowest = watermark
            events.append(event)
            times.append(time)
            accepted.append(record)
        return _Judged(events, times, Records.of(accepted), highest_ms, lowest)

    def _bad_key(self, partition: int, records: Records, number: int, rule: CountRule) -> Rejected:
        detail = f"key {', '.join(rule.key)}: missing, or no string, (finite) number or boolean"
        record = Record(records.values[number], records.timestamps[number], records.offsets[number])
        return self._reject("invalid", detail, partition, record, (rule.name,))

    def _reject(
        self,
        reason: Literal["late", "future", "invalid"],
        detail: str,
        partition: int,
        record: Record,
        rules: tuple[str, ...] | None = None,
    ) -> Rejected:
        value, timestamp, offset, _ = record
        names = self._names if rules is None else rules
        return Rejected(reason, detail, names, partition, offset, timestamp, value)


def _why_invalid(value: bytes | None, error: Exception) -> str:
    if not value:
        return "empty value"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason} at byte {error.start}"
    if isinstance(error, msgspec.DecodeError):
        half = " (or a text has half of a surrogate pair)" if b"\\ud" in value.lower() else ""
        return f"not one JSON object: {error}{half}"
    return str(error)


def _nests_too_deeply(value: bytes) -> bool:
    """By a bound of its own: the decoder's depends on how deep in calls it is itself, which differs in a backtest."""
    if value.count(b"[") + value.count(b"{") <= _DEEPEST:
        return False
    depth = 0
    for token in _NESTING.finditer(value):
        depth += token[0] in b"[{"
        depth -= token[0] in b"]}"
        if depth > _DEEPEST:
            return True
    return False


def _one_per_record(rejected: list[Rejected]) -> list[Rejected]:
    """A record whose key is bad for several rules is rejected once, naming them all."""
    merged: dict[int, Rejected] = {}
    for item in rejected:
        seen = merged.get(item.offset)
        if seen is not None:
            detail = seen.detail if seen.detail == item.detail else f"{seen.detail}; {item.detail}"
            item = msgspec.structs.replace(seen, rules=seen.rules + item.rules, detail=detail)  # noqa: PLW2901
        merged[item.offset] = item
    return sorted(merged.values(), key=lambda item: item.offset)
