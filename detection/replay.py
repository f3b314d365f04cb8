"""A backtest: the live job's own intake and evaluators over records that are all there already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby, islice
from typing import NamedTuple

import msgspec

from detection.detector import Detector
from detection.intake import Record, Records, Rejected, TopicIntake
from detection.rows import Batch
from detection.rules import CountRule, Topic
from detection.transitions import Transition
from detection.watermarks import ENDED, NEVER, PartitionState, Watermarks

Place = tuple[str, int]
"""(topic, partition)"""

_BATCH = 1000


class Replayed(NamedTuple):
    """`episodes`: the final ones, ordered by opening, rule and key; alerts merged into another are left out.
    `matched`: rule -> number of events that its `where` and key let count.
    """

    episodes: list[Transition]
    matched: dict[str, int]


def replay(
    rules: Sequence[CountRule],
    topics: Iterable[Topic],
    sizes: Mapping[Place, int],
    records: Iterable[tuple[Place, Record]],
    on_rejected: Callable[[str, Rejected], None],
) -> Replayed:
    """What the rules say about `records`.

    `sizes` says how many records each partition has, so that state can be freed while later ones are read. The
    log order of a partition is its order in `records`. Nothing is idle, nothing is thinned, and all episodes are
    resolved at the end. `on_rejected` gets the topic and each record that does not count.
    """
    intakes = {topic.name: TopicIntake(topic, rules) for topic in topics}
    # No retention: an event below the floor can't come.
    watermarks = Watermarks((intake.topic for intake in intakes.values()), retention_ms=0)
    watermarks_index = _dense(sizes)
    detector = Detector(rules, shards=1, thinning=False)
    left, highest = dict(sizes), dict.fromkeys(sizes, NEVER)
    matched = dict.fromkeys((rule.name for rule in rules), 0)
    transitions: list[Transition] = []
    episodes: list[Transition] = []
    for place, run in groupby(records, key=lambda item: item[0]):
        topic, partition = place
        while batch := [record for _, record in islice(run, _BATCH)]:
            taken = intakes[topic].take(partition, Records.of(batch), highest[place])
            highest[place] = taken.highest_ms
            left[place] -= len(batch)
            for rejected in taken.rejected:
                on_rejected(topic, rejected)
            detector.add([Batch(topic, partition, None, batch[-1].offset + 1, taken.rows)], transitions)
            for position, of_rule in taken.rows.items():
                matched[rules[position].name] += sum(key is not None for key in of_rule.keys)
            index, partitions = watermarks_index[place]
            reached = taken.highest_ms if left[place] else ENDED
            watermarks.update(PartitionState(topic, index, reached, reached, False, True, partitions, 0))
            detector.advance(0, watermarks, transitions)
            episodes += (item for item in transitions if item.status == "resolved" and item.merged_into is None)
            transitions.clear()
    episodes.sort(key=lambda item: (item.opened_at_ms, item.rule, _key_json(item, rules)))
    return Replayed(episodes, matched)


def _key_json(transition: Transition, rules: Sequence[CountRule]) -> bytes:
    paths = next(rule.key for rule in rules if rule.name == transition.rule)
    return msgspec.json.encode(dict(zip(paths, transition.key, strict=True)))


def _dense(sizes: Mapping[Place, int]) -> dict[Place, tuple[int, int]]:
    """(topic, partition) -> (position among the partitions that are there, their number)."""
    partitions: dict[str, list[int]] = {}
    for topic, partition in sorted(sizes):
        partitions.setdefault(topic, []).append(partition)
    return {
        (topic, partition): (index, len(numbers))
        for topic, numbers in partitions.items()
        for index, partition in enumerate(numbers)
    }
