"""Shards that are written in turns: after any crash source and shards together have everything once."""

from __future__ import annotations

import random
from collections import defaultdict
from contextlib import suppress
from zlib import crc32

import msgspec
import pytest

from connectors.exchange import Exchange
from connectors.partition import Partition
from connectors.slot_positions import SlotState
from connectors.source import SLOTS, Arrivals, KafkaSource, Slot
from connectors.turns import Turns
from dataflows.detect import Detect, Detection, Wake
from detection.intake import Record, Records
from detection.keys import SHARDS, shard_of
from detection.rows import Batch, Rows
from detection.rules import CountRule, Topic
from detection.transitions import Transition
from detection.watermarks import NEVER
from scripts.ground_truth import episodes
from tests.connectors.test_source import Brokers

PARTITIONS, KEYS = 3, 24
TOPIC = Topic("products", lateness_ms=50)
RULE = CountRule("hot", TOPIC, ("name",), 4, 100)
SIZE = 400_000


def complete_through(turns: Turns, epoch: int) -> int:
    return min(turns.lack.values(), default=epoch)


def batch(*keys: str, offset: int = 0) -> Batch:
    rows = Rows(keys, [0] * len(keys), range(offset, offset + len(keys)))
    return Batch("products", 0, None, offset + len(keys), {0: rows})


def test_little_state_is_written_in_each_epoch_in_which_it_changed() -> None:
    turns = Turns(lambda: [1_000] * SHARDS)
    for epoch in range(3):
        assert turns.due(epoch) == []
        assert turns.changed(batch("Nokia", "iPad")) == sorted({shard_of("Nokia"), shard_of("iPad")})
        assert turns.changed(batch("Nokia")) == [], "once is enough"
        assert complete_through(turns, epoch) == epoch


def test_much_state_is_written_by_and_by_and_the_source_stays_behind_until_then() -> None:
    turns = Turns(lambda: [SIZE] * SHARDS)
    turns.due(0)
    many = batch(*(f"product {number}" for number in range(1_000)))
    written = turns.changed(many)
    assert 0 < len(written) < SHARDS
    assert complete_through(turns, 0) == -1
    waited = 0
    while complete_through(turns, waited) != waited:
        waited += 1
        assert waited < 300, "it goes on when nothing comes any more"
        now = turns.due(waited)
        assert not set(now) & set(written)
        written += now
    assert waited > 64, "by what a shard takes beyond an epoch's budget the next has less"
    assert sorted(written) == list(range(SHARDS))


def test_shards_of_other_workers_wait_no_longer_than_those_that_are_known() -> None:
    """Of a cluster of two each worker knows the sizes of half of them."""
    turns = Turns(lambda: [10_000_000] * 32 + [0] * 32)
    turns.due(0)
    turns.changed(batch(*(f"product {number}" for number in range(1_000))))
    waited = 0
    while turns.lack:
        waited += 1
        turns.due(waited)
    assert 290 < waited <= 310


def test_a_partition_is_read_from_where_it_began_if_its_records_lie_in_shards_that_are_not_written_yet() -> None:
    """Not from what was committed to the group: that is where the job is."""
    brokers = Brokers(1)
    source = KafkaSource(
        [TOPIC], [RULE], lambda: brokers, now_ms=lambda: 0, monotonic=lambda: 0.0, stopping=lambda: False,
        paused=lambda: False, exchange=Exchange(1), sizes=lambda: [SIZE] * SHARDS,
    )  # type: ignore[arg-type, return-value]  # fmt: skip
    own = [source.build_part("kafka", name, None) for name in source.list_parts()]
    brokers.partitions["products", 0].end_is(0, 0.0, 0.0)
    values = [Record(b'{"name":"product %d"}' % number, 5, 70 + number) for number in range(1_000)]
    brokers.partitions["products", 0].arrived(Records.of(values), 10, 0.0)
    assert sum(len(slot.next_batch()) for slot in own) == 1
    states = [msgspec.msgpack.decode(slot.snapshot(), type=SlotState) for slot in own]
    [[(place, position)]] = [state.positions for state in states if state.positions]
    assert (place, position.next_offset, position.highest_ms, position.passed_to) == (("products", 0), 70, NEVER, 1_070)
    assert set(position.behind.values()) == {70}
    assert 0 < len(position.behind) < SHARDS, "those that were not awoken"


def test_rows_that_a_later_slot_brings_in_the_last_round_do_not_send_an_earlier_one_back_to_its_start() -> None:
    brokers = Brokers(2)
    sizes = [0] * SHARDS
    source = KafkaSource(
        [TOPIC], [RULE], lambda: brokers, now_ms=lambda: 0, monotonic=lambda: 0.0, stopping=lambda: False,
        paused=lambda: False, exchange=Exchange(1), sizes=lambda: sizes,
    )  # type: ignore[arg-type, return-value]  # fmt: skip
    slots = [source.build_part("kafka", name, None) for name in source.list_parts()]
    early, late = sorted(brokers.partitions.values(), key=lambda one: (crc32(b"products") + one.number) % SLOTS)

    def bring(partition: Partition, first: int, number: int) -> None:
        values = [Record(b'{"name":"product %d"}' % offset, 5, offset) for offset in range(first, first + number)]
        partition.arrived(Records.of(values), 10, 0.0)

    def epoch() -> int:
        stored: dict[int, int] = {}
        for slot in slots:
            slot.next_batch()
            state = msgspec.msgpack.decode(slot.snapshot(), type=SlotState)
            stored |= {place[1]: position[0] or 0 for place, position in state.positions}
        return stored.get(early.number, 0)

    for partition in (early, late):
        partition.end_is(0, 0.0, 0.0)
    bring(early, 0, 300)
    assert [epoch() for _ in range(3)] == [300] * 3
    sizes[:] = [SIZE] * SHARDS
    bring(late, 0, 1_000)
    assert [epoch() for _ in range(5)] == [300] * 5


class Job:
    """The flow of one worker in memory: slots, detection, epochs, a store, crashes."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.logs: list[list[tuple[str, int]]] = [[] for _ in range(PARTITIONS)]
        self.positions: dict[str, bytes] = {}
        self.shards: dict[int, bytes] = {}
        self.told: dict[tuple[str, int], Transition] = {}
        self.writes = self.behind = self.cuts = 0
        self.start()

    def start(self) -> None:
        self.brokers = Brokers(PARTITIONS)
        self.detection = Detection([RULE], [TOPIC], 0, Exchange(1))
        self.stopping = False
        source = KafkaSource(
            [TOPIC], [RULE], lambda: self.brokers, now_ms=lambda: 0, monotonic=lambda: 0.0,
            stopping=lambda: self.stopping, paused=lambda: False, exchange=Exchange(1), sizes=lambda: [SIZE] * SHARDS,
        )  # type: ignore[arg-type, return-value]  # fmt: skip
        self.steps = {shard: self.detection.detect(packed) for shard, packed in self.shards.items()}
        self.slots: dict[str, Slot] = {}
        for name in source.list_parts():
            self.slots[name] = source.build_part("kafka", name, self.positions.get(name))
        self.read = dict.fromkeys(range(PARTITIONS), 0)
        for (_, number), partition in self.brokers.partitions.items():
            self.read[number] = partition.next_offset or 0
            partition.end_is(0, 0.0, 0.0)
            self.look_at(partition)
        self.epoch = dict.fromkeys(self.slots, 0)
        self.ended = 0
        self.items: dict[int, list[Arrivals]] = defaultdict(list)
        self.new_positions: dict[int, dict[str, bytes]] = defaultdict(dict)

    def look_at(self, partition: Partition) -> None:
        """What `Positions` does where a log may have been cut off."""
        end = len(self.logs[partition.number])
        if max(self.read[partition.number], partition.replayed_to) > end:
            partition.cut_off(end)
            self.read[partition.number] = min(self.read[partition.number], end)

    def cut_off(self, number: int, *, read: bool) -> None:
        """A log gets records that nobody misses, which are `read` and counted; then they are gone."""
        log = self.logs[number]
        end = len(log)
        log += [(f"lost {number} {end} {more}", log[-1][1] if log else 1_000) for more in range(300)]
        if read:
            for _ in range(3):
                self.round(ends=True, all_of_it=True)
        del log[end:]
        self.cuts += 1

    def produce(self, now_ms: int) -> None:
        for _ in range(self.chance.randint(0, 40)):
            key = self.chance.randrange(KEYS)
            self.logs[key % PARTITIONS].append((f"product {key}", now_ms - self.chance.randint(0, 50)))

    def round(self, *, ends: bool, all_of_it: bool = False) -> None:
        """Each slot is asked for more; when the epoch `ends`, some are asked once more before theirs does."""
        for number, partition in self.brokers.partitions.items():
            log, at = self.logs[number[1]], self.read[number[1]]
            upto = len(log) if all_of_it else self.chance.randint(at, len(log))
            if upto > at:
                values = [
                    Record(b'{"name":"%s"}' % key.encode(), time, offset)
                    for offset, (key, time) in enumerate(log[at:upto], at)
                ]
                partition.arrived(Records.of(values), 10, 0.0)
                self.read[number[1]] = upto
        for name, slot in self.slots.items():
            self.items[self.epoch[name]] += slot.next_batch()
            is_last = self.epoch[name] == self.ended and self.chance.random() < 0.5
            if ends and not is_last:
                self.new_positions[self.epoch[name]][name] = slot.snapshot()
                self.epoch[name] += 1
        if ends:
            for name, slot in self.slots.items():
                if self.epoch[name] == self.ended:
                    self.items[self.epoch[name]] += slot.next_batch()
                    self.new_positions[self.epoch[name]][name] = slot.snapshot()
                    self.epoch[name] += 1
            self.end_epoch()

    def end_epoch(self) -> None:
        """What all slots brought in the epoch is counted; then what was awoken is written."""
        arrivals, awoken = self.items.pop(self.ended), set[int]()
        work = [item for one in arrivals for item in one.batches]
        if work:
            self.tell(self.step(0).on_batch(work)[0])
        awoken |= {shard for one in arrivals for shard in one.touched}
        for one in arrivals:
            for tick in self.detection.ticks(one):
                due: list[Wake] = list(self.detection.clock(None).on_batch([tick])[0])
                for wake in due:
                    awoken.add(wake.shard)
                    self.tell(self.step(wake.shard).on_batch([wake])[0])
        self.positions = self.new_positions.pop(self.ended)
        for shard in awoken | ({0} if work else set()):
            self.step(shard)._shard = shard
            self.shards[shard] = self.step(shard).snapshot()
            self.writes += 1
        self.ended += 1

    def step(self, shard: int) -> Detect:
        if shard not in self.steps:
            self.steps[shard] = self.detection.detect(None)
        return self.steps[shard]

    def tell(self, transitions: list[Transition]) -> None:
        for transition in transitions:
            before = self.told.setdefault((transition.alert_id, transition.sequence), transition)
            assert before == transition, "what is told again is the same"


@pytest.mark.parametrize("cuts", [False, True], ids=["", "logs that are cut off"])
@pytest.mark.parametrize("seed", range(40))
def test_after_crashes_each_episode_is_told_once_with_its_true_facts(seed: int, cuts: bool) -> None:
    job = Job(seed)
    now_ms = 1_000
    for _ in range(60):
        now_ms += 10
        job.produce(now_ms)
        job.round(ends=job.chance.random() < 0.4)
        number = job.chance.randrange(PARTITIONS)
        if cuts and job.chance.random() < 0.1:
            # While the job runs, or while it is down.
            job.cut_off(number, read=True)
            if job.chance.random() < 0.5:
                job.look_at(job.brokers.partitions["products", number])
            else:
                job.start()
            # What is written before the cut is noticed cannot be told from what was lost.
            job.produce(now_ms)
            job.round(ends=True, all_of_it=True)
        if job.chance.random() < 0.1:
            job.behind += len(job.shards) > 0
            job.start()
    for number, log in enumerate(job.logs):
        log.append((f"end {number}", now_ms + 10_000))
    for _ in range(80):
        job.round(ends=True)
    truth = set()
    for key in range(KEYS):
        times = [time for name, time in job.logs[key % PARTITIONS] if name == f"product {key}"]
        truth |= {(f"product {key}", *episode) for episode in episodes(times, RULE.window_ms, RULE.threshold)}
    ends = [
        (of.key[0], of.opened_at_ms, of.resolves_at_ms, of.peak, of.events)
        for of in job.told.values()
        if of.status == "resolved" and of.merged_into is None
    ]
    assert sorted(ends) == sorted(truth)


def began_at(job: Job) -> int:
    return job.brokers.partitions["products", 0].next_offset or 0


def test_a_clean_stop_leaves_nothing_to_be_read_again() -> None:
    job = Job(1)
    job.logs[0] = [(f"product {number}", 1_000) for number in range(1_000)]
    job.round(ends=True, all_of_it=True)
    job.stopping = True
    awoken = 0
    for name, slot in job.slots.items():
        with suppress(StopIteration):
            while True:
                given = slot.next_batch()
                awoken += sum(len(one.touched) for one in given)
                job.items[job.epoch[name]] += given
        job.new_positions[job.epoch[name]][name] = slot.snapshot()
    assert 0 < awoken < SHARDS
    job.end_epoch()
    job.start()
    assert began_at(job) == 1_000
    job.stopping = True
    with pytest.raises(StopIteration):
        next(iter(job.slots.values())).next_batch()


def test_a_job_that_is_killed_again_and_again_gets_on_with_its_turns() -> None:
    job = Job(1)
    job.logs[0] = [(f"product {number}", 1_000) for number in range(1_000)]
    runs = 0
    while began_at(job) < 1_000:
        runs += 1
        assert runs < 3 * SHARDS, "each run writes some shards that the one before did not"
        # Every other time before it has read as far as the time before.
        job.round(ends=True, all_of_it=runs % 2 == 1)
        job.start()
    assert runs > 1


def test_a_record_rejected_as_future_is_rejected_again_when_it_is_read_again() -> None:
    """Else it would be accepted, for the clock has gone on, and those behind it would be late."""
    guarded = Topic("products", lateness_ms=50, max_future_ms=60_000)

    def run(states: dict[str, bytes], arrival_ms: int) -> tuple[list[int], list[int], dict[str, bytes]]:
        """The offsets that were rejected, those that count, and what is stored."""
        brokers = Brokers(1)
        source = KafkaSource(
            [guarded], [RULE], lambda: brokers, now_ms=lambda: 0, monotonic=lambda: 0.0, stopping=lambda: False,
            paused=lambda: False, exchange=Exchange(1), sizes=lambda: [SIZE] * SHARDS,
        )  # type: ignore[arg-type, return-value]  # fmt: skip
        slots = {name: source.build_part("kafka", name, states.get(name)) for name in source.list_parts()}
        partition = brokers.partitions["products", 0]
        partition.topic = guarded
        partition.end_is(0, 0.0, 0.0)
        times = [1_000_000] * 998 + [9_000_000, 1_000_000]
        first = partition.next_offset or 0
        read = [Record(b'{"name":"product %d"}' % at, times[at], at, arrival_ms) for at in range(first, 1_000)]
        partition.arrived(Records.of(read), 10, 0.0)
        given = [one for slot in slots.values() for one in slot.next_batch()]
        rejected = [one.offset for arrivals in given for _, one in arrivals.rejected]
        counted = [batch.rows[0].offsets for arrivals in given for _, batch in arrivals.batches]
        return rejected, [*counted[0]], {name: slot.snapshot() for name, slot in slots.items()}

    first = run({}, 1_000_000)
    assert (first[0], first[1]) == ([998], [*range(998), 999])
    again = run(first[2], 8_999_000)
    assert (again[0], again[1]) == ([], first[1]), "it is on the rejected topic"
    assert run(again[2], 8_999_000)[:2] == again[:2], "and once more"


def test_what_was_rejected_as_future_is_known_also_if_a_later_slot_sends_the_position_back() -> None:
    """An early slot ends an epoch with nothing lacking; in the same round a later one brings more than can be written.
    So in the next epoch the early slot stores an older position than it did before.
    """
    guarded = Topic("products", lateness_ms=50, max_future_ms=60_000)

    def source_of(brokers: Brokers) -> KafkaSource:
        return KafkaSource(
            [guarded], [RULE], lambda: brokers, now_ms=lambda: 0, monotonic=lambda: 0.0, stopping=lambda: False,
            paused=lambda: False, exchange=Exchange(1), sizes=lambda: [SIZE] * SHARDS,
        )  # type: ignore[arg-type, return-value]  # fmt: skip

    brokers = Brokers(2)
    source = source_of(brokers)
    slots = [source.build_part("kafka", name, None) for name in source.list_parts()]
    early, late = sorted(brokers.partitions.values(), key=lambda one: (crc32(b"products") + one.number) % SLOTS)
    for partition in (early, late):
        partition.topic = guarded
        partition.end_is(0, 0.0, 0.0)
    times = [1_000_000] * 5 + [9_000_000] + [1_000_000] * 4
    some = [Record(b'{"name":"Nokia"}', time, at, 1_000_000) for at, time in enumerate(times)]
    early.arrived(Records.of(some), 10, 0.0)
    many = [Record(b'{"name":"product %d"}' % at, 1_000_000, at, 1_000_000) for at in range(1_000)]
    late.arrived(Records.of(many), 10, 0.0)
    for _ in range(2):
        states = []
        for slot in slots:
            slot.next_batch()
            states.append(msgspec.msgpack.decode(slot.snapshot(), type=SlotState))
    stored = {place[1]: position for state in states for place, position in state.positions}
    position = stored[early.number]
    assert (position.next_offset, position.passed_to, position.future) == (0, 10, [5])
