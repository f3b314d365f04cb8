"""The slots of one worker, side by side, without Bytewax and Kafka."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import msgspec
import pytest

from connectors.exchange import Exchange
from connectors.partition import Partition
from connectors.positions import Position
from connectors.slot_positions import pack, unpack
from connectors.source import SLOTS, Arrivals, KafkaSource, Slot
from detection.intake import Record, Records
from detection.keys import SHARDS
from detection.rules import CountRule, Topic
from detection.watermarks import NEVER

TOPIC = Topic("products")
RULE = CountRule("hot", TOPIC, ("name",), 2, 1_000)


class Brokers:
    """In place of a Poller: partitions are filled by hand."""

    def __init__(self, partitions: int) -> None:
        self.counts = {"products": partitions}
        self.partitions: dict[tuple[str, int], Partition] = {}
        self.looked_s = 0.0
        self.waits = 0

    def add(self, topic: str, number: int, position: Position | None) -> Partition:
        place = (position.next_offset, position.highest_ms, position.topic_id) if position else (0, NEVER, None)
        partition = self.partitions[topic, number] = Partition(TOPIC, number, *place, 0.0)
        if position:
            partition.resume(position.passed_to, position.passed_ms)
        return partition

    def fill(self, number: int, *times: int) -> None:
        records = Records.of(Record(b'{"name":"Nokia"}', time, offset) for offset, time in enumerate(times))
        self.partitions["products", number].arrived(records, 10, 0.0)

    def poll(self) -> None:
        return

    def wait(self, seconds: float) -> None:
        self.waits += 1

    def commit(self, partitions: Iterable[Partition]) -> None:
        return

    def close(self) -> None:
        return


def slots(brokers: Brokers, paused: bool = False) -> list[Slot]:
    source = KafkaSource(
        [TOPIC], [RULE], lambda: brokers, now_ms=lambda: 0, monotonic=lambda: 0.0, stopping=lambda: False,
        paused=lambda: paused, exchange=Exchange(1), sizes=lambda: [0] * SHARDS,
    )  # type: ignore[arg-type, return-value]  # fmt: skip
    return [source.build_part("kafka", name, None) for name in source.list_parts()]


def passed_on(found: list[list[Arrivals]]) -> list[int]:
    return [batch.partition for arrivals in found for item in arrivals for _, batch in item.batches]


def test_what_is_new_does_not_wait_behind_a_backlog_of_the_same_slot() -> None:
    """Partitions 0 and 16 share a slot. 0 waits for what 1 is about to bring; 16 has been read to its end."""
    brokers = Brokers(17)
    own = slots(brokers)
    for (_, number), partition in brokers.partitions.items():
        partition.end_is(10 if number < 2 else 0, 0.0, 0.0)
    brokers.fill(0, 1_000)
    brokers.fill(16, 5_000)
    assert passed_on([slot.next_batch() for slot in own]) == [16]


def test_a_backlog_of_another_topic_holds_nothing_back() -> None:
    brokers = Brokers(1)
    own = slots(brokers)
    brokers.partitions["products", 0].end_is(10, 0.0, 0.0)
    other = Partition(Topic("clicks"), 0, 0, NEVER, None, 0.0)
    other.end_is(10, 0.0, 0.0)
    brokers.partitions["clicks", 0] = other
    brokers.fill(0, 1_000)
    assert passed_on([slot.next_batch() for slot in own]) == [0]


def test_when_no_slot_has_anything_they_wait_together_and_by_no_clock_that_can_be_set() -> None:
    brokers = Brokers(2)
    own = slots(brokers)
    for _ in range(4):
        for slot in own:
            slot.next_batch()
    assert brokers.waits == 3, "before each round but the first"
    brokers.partitions["products", 1].end_is(1, 0.0, 0.0)
    brokers.partitions["products", 0].end_is(0, 0.0, 0.0)
    for _ in range(3):
        brokers.fill(1, 1_000)
        for slot in own:
            slot.next_batch()
    assert brokers.waits == 4, "not after a round in which somebody had something"
    assert all((slot.next_awake() or dt.datetime.max) < dt.datetime(2000, 1, 1, tzinfo=dt.UTC) for slot in own)


def test_a_source_that_is_paused_gives_nothing_and_does_not_spin() -> None:
    brokers = Brokers(2)
    own = slots(brokers, paused=True)
    brokers.fill(0, 1_000)
    for _ in range(2):
        assert [slot.next_batch() for slot in own] == [[]] * SLOTS
    assert brokers.waits == 1


def test_a_new_rule_is_complete_from_behind_what_some_shards_pass_over(capsys: pytest.CaptureFixture[str]) -> None:
    brokers = Brokers(2)
    source = KafkaSource(
        [TOPIC], [RULE], lambda: brokers, now_ms=lambda: 0, monotonic=lambda: 0.0, stopping=lambda: False,
        paused=lambda: False, exchange=Exchange(1), sizes=lambda: [0] * SHARDS,
    )  # type: ignore[arg-type, return-value]  # fmt: skip
    slots = []
    for number, passed_ms in ((0, 1_000), (1, 61_000)):
        position = Position(5, 1_000, None, passed_to=50, passed_ms=passed_ms)
        state = pack({}, {}, [(("products", number), position)])
        slots.append(source.build_part("kafka", f"in0{number}", state))
    slots[0].next_batch()
    assert "complete_from=1970-01-01T00:01:02.000Z" in capsys.readouterr().out


def test_state_of_another_format_is_refused_and_it_is_said_what_to_do() -> None:
    old = msgspec.msgpack.encode((1, {"hot": RULE.version}, [(("products", 0), (5, 1_000, None))]))
    with pytest.raises(ValueError, match=r"has format 1.*move the recovery store"):
        unpack(old)


@pytest.mark.parametrize(
    ("version", "lateness_ms", "passes"), [(RULE.version, 10_000, 64), ("other", 10_000, 0), (RULE.version, 9, 0)]
)
def test_under_other_rules_no_shard_is_taken_to_have_counted_what_is_read_again(
    version: str, lateness_ms: int, passes: int
) -> None:
    """What is new may bring it rows that it did not have, and that are nowhere else then."""
    position = Position(5, 1_000, None, passed_to=50, passed_ms=1_000)
    state = pack({"hot": version}, {"products": lateness_ms}, [(("products", 0), position)])
    source = KafkaSource(
        [TOPIC], [RULE], lambda: Brokers(1), now_ms=lambda: 0, monotonic=lambda: 0.0, stopping=lambda: False,
        paused=lambda: False, exchange=Exchange(1), sizes=lambda: [0] * SHARDS,
    )  # type: ignore[arg-type, return-value]  # fmt: skip
    slot = source.build_part("kafka", "in00", state)
    assert len(slot._positions.passing_over(("products", 0), 50)) == passes
