"""From the records of a partition, in log order, to rows that evaluators count and records that are rejected.

Judged in this order, before `where` and key: invalid, future, late. Whether a record is accepted depends on its
partition's log alone (the future guard apart), so a replay decides the same.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from detection.count import Row
from detection.keys import Key, shard_of
from detection.matching import BAD_KEY, compile_event_id, compile_event_time, compile_rule, fields_of
from detection.rules import CountRule, Topic
from detection.times import LAST_MS
from detection.watermarks import NEVER

_DEEPEST = 500
_NESTING = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)
_SHARD_CACHE, _SHORT = 262_144, 100
"""The shards of so many keys are remembered, if they are no longer than this."""


class Record(NamedTuple):
    """`arrival_ms` is what the future guard compares with; None leaves the guard out."""

    value: bytes | None
    timestamp_ms: int
    offset: int
    arrival_ms: int | None = None


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

    `highest_ms`: the partition's highest accepted timestamp now. `lowest_ms`: no row is older.
    `rows`: shard -> position of the rule -> rows in log order. `accepted`: how many records are neither late, future
    nor invalid; the others say nothing about event time.
    """

    highest_ms: int
    lowest_ms: int
    rows: dict[int, dict[int, list[Row]]]
    rejected: list[Rejected]
    accepted: int


class TopicIntake:
    """Judges and matches the records of one topic. Of `rules`, those of other topics are passed over."""

    def __init__(self, topic: Topic, rules: Sequence[CountRule]) -> None:
        own = [rule for rule in rules if rule.topic.name == topic.name]
        fields = fields_of(topic, own)
        self.topic = topic
        self._fields = fields
        self._time_of = compile_event_time(fields, topic.event_time)
        self._id_of = compile_event_id(fields, topic.event_id)
        self._rules = [
            (position, rule, compile_rule(fields, rule)) for position, rule in enumerate(rules) if rule in own
        ]
        self._names = tuple(rule.name for rule in own)
        self._shards: dict[Key, int] = {}

    def take(  # noqa: PLR0912, PLR0915 - one loop: a call per record would cost more than the judgement
        self, partition: int, records: Sequence[Record], highest_ms: int
    ) -> Taken:
        """Judge records in log order. `highest_ms` is the highest accepted timestamp before them, or NEVER."""
        decode, time_of, lateness = self._fields.decode, self._time_of, self.topic.lateness_ms
        ahead, id_of, shards = self.topic.max_future_ms, self._id_of, self._shards
        watermark = lowest = NEVER if highest_ms == NEVER else highest_ms - lateness
        matchers: list[tuple[Any, defaultdict[int, list[Row]], CountRule]] = [
            (match, defaultdict(list), rule) for _, rule, match in self._rules
        ]
        rejected: list[Rejected] = []
        turned_away = 0
        for record in records:
            value, time, offset, arrival = record
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
                turned_away += 1
                continue
            if not 0 <= time <= LAST_MS:
                shown = time if abs(time) < 10**18 else "of many digits"
                detail = f"event time {shown} is not between the years 1970 and 9999"
                rejected.append(self._reject("invalid", detail, partition, record))
                turned_away += 1
                continue
            if arrival is not None and ahead is not None and time > arrival + ahead:
                detail = f"event time is {time - arrival} ms ahead of its arrival; {ahead} ms are allowed"
                rejected.append(self._reject("future", detail, partition, record))
                turned_away += 1
                continue
            if time < watermark:
                detail = (
                    f"event time is {highest_ms - time} ms behind the partition's newest; {lateness} ms are allowed"
                )
                rejected.append(self._reject("late", detail, partition, record))
                turned_away += 1
                continue
            if time > highest_ms:
                highest_ms = time
                watermark = time - lateness
            if lowest == NEVER:
                lowest = watermark
            for match, rows, rule in matchers:
                key = match(event)
                if key is None:
                    continue
                if key is BAD_KEY:
                    detail = f"key {', '.join(rule.key)}: missing, or no string, (finite) number or boolean"
                    rejected.append(self._reject("invalid", detail, partition, record, (rule.name,)))
                    continue
                shard = shards.get(key)
                if shard is None:
                    shard = self._shard_of(key)
                if id_of is None:
                    rows[shard].append((key, time, offset))
                else:
                    rows[shard].append((key, time, offset, id_of(event)))
        by_shard: dict[int, dict[int, list[Row]]] = {}
        for (position, _, _), (_, all_rows, _) in zip(self._rules, matchers, strict=True):
            for shard, shard_rows in all_rows.items():
                by_shard.setdefault(shard, {})[position] = shard_rows
        return Taken(highest_ms, lowest, by_shard, _one_per_record(rejected), len(records) - turned_away)

    def _shard_of(self, key: Key) -> int:
        shard = shard_of(key)
        if len(key) <= _SHORT and (isinstance(key, str | bytes) or max(map(len, key)) <= _SHORT):
            if len(self._shards) >= _SHARD_CACHE:
                self._shards.clear()
            self._shards[key] = shard
        return shard

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
    return list(merged.values())
