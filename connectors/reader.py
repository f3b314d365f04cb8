"""What the slots of one worker share: the consumer, the compiled rules, and the rounds in which they read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from connectors.epochs import Epochs
from connectors.exchange import Exchange
from connectors.partition import Partition
from connectors.poller import Poller
from connectors.positions import Position
from connectors.turns import Turns
from detection.intake import TopicIntake
from detection.rules import CountRule, Topic
from detection.times import iso
from detection.watermarks import NEVER

log = structlog.get_logger()

BATCHES = 8
"""At most so many of a slot in a round: an item for the flow costs the same whatever is in it."""
_IDLE_S = 0.005
_PLENTY_BYTES = 2 * 1024 * 1024
"""With so much waiting none is asked for: what lies longer has left the processor's cache when its turn comes."""


class Reader:
    """The consumer and the compiled rules that the slots of one worker share."""

    def __init__(
        self,
        poller: Poller,
        topics: Sequence[Topic],
        rules: Sequence[CountRule],
        epochs: Epochs,
        turns: Turns,
        exchange: Exchange,
        monotonic: Callable[[], float],
    ) -> None:
        self.poller, self.epochs, self.turns, self.exchange = poller, epochs, turns, exchange
        self.intakes = {topic.name: TopicIntake(topic, rules) for topic in topics}
        self.open_slots = 0
        self.worked = True
        self._asked: set[int] = set()
        self._until_ms: dict[str, int] = {}
        self._monotonic = monotonic
        self._rules = {rule.name: rule for rule in rules}
        self._stored: dict[str, str] | None = None
        self._reached_ms = NEVER

    def called(self, slot: int, paused: bool) -> None:
        """A slot is asked for more. Each one is asked once in a round, and a round begins with a look for records."""
        if self._stored is not None:
            self._compare_rules()
        if self._asked and slot not in self._asked:
            self._asked.add(slot)
            return
        if not self.worked:
            # No slot had anything to give: wait a moment for a record. Here and not by `next_awake`, which is a time of
            # the wall clock: that may step back by an hour.
            self.poller.wait(_IDLE_S)
        self._asked, self.worked = {slot}, False
        if not paused:
            self._begin_round()

    def _begin_round(self) -> None:
        """Have a look for records; decide how far the backlogs may be passed on in this round.

        A key's events may lie on several partitions. Reading one ahead of another would raise an alert for each part of
        an episode, to be merged when the rest comes. So in a round the partitions of a topic come to the same time.
        What is new since the start never waits.
        """
        now_s, partitions = self._monotonic(), self.poller.partitions.values()
        if sum(partition.waiting_bytes for partition in partitions) < _PLENTY_BYTES or any(
            partition.is_coming(now_s) for partition in partitions
        ):
            self.poller.poll()
        self._until_ms.clear()
        for partition in partitions:
            if partition.caught_up:
                continue
            if partition.waiting:
                until_ms = partition.last_ms(BATCHES)
            elif partition.is_coming(now_s):
                until_ms = NEVER
            else:
                continue
            topic = partition.topic.name
            self._until_ms[topic] = min(until_ms, self._until_ms.get(topic, until_ms))

    def until_ms(self, partition: Partition) -> int | None:
        """How far a partition may be passed on in this round; None is all the way."""
        return None if partition.caught_up else self._until_ms.get(partition.topic.name, NEVER)

    def restored(self, versions: Mapping[str, str], positions: Iterable[Position]) -> None:
        """A slot's stored state was made by rules of these versions, by name. To be called before any slot reads."""
        for position in positions:
            self._stored = dict(versions)
            # Some shards have counted all up to there, and will pass over it.
            self._reached_ms = max(self._reached_ms, position.passed_ms)

    def _compare_rules(self) -> None:
        """Say which rules are not those that the stored state was made by."""
        stored, self._stored = self._stored or {}, None
        for name, rule in self._rules.items():
            if stored.get(name) != rule.version:
                log.warning(
                    "the rule changed" if name in stored else "the rule is new",
                    rule=name,
                    counts="begin anew",
                    complete_from=iso(self._reached_ms + rule.window_ms),
                )
        for name in sorted(stored.keys() - self._rules.keys()):
            log.warning("the rule is gone: its state is dropped, its open alerts end as cancelled", rule=name)
