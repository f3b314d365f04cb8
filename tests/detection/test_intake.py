"""What is accepted, what is rejected and why, and which rows come of a record."""

from __future__ import annotations

import pytest

from detection.intake import Record, Records, Rejected, Taken, TopicIntake
from detection.keys import SHARDS, key_values, shard_of
from detection.rules import CountRule, EventTime, Scalar, Topic
from detection.watermarks import NEVER

TOPIC = Topic("products", lateness_ms=1_000)


def rule(topic: Topic = TOPIC, key: tuple[str, ...] = ("product.name",), **where: Scalar) -> CountRule:
    conditions = tuple((path.replace("__", "."), (value,)) for path, value in where.items())
    return CountRule("hot", topic, key, 20, 5_000, conditions)


def take(*values: bytes | None, of: CountRule | None = None, time_ms: int = 10_000) -> Taken:
    """Records of one partition with these values, all at the same time."""
    of = of or rule(action="add")
    records = [Record(value, time_ms, offset, time_ms) for offset, value in enumerate(values)]
    return TopicIntake(of.topic, [of]).take(0, Records.of(records), NEVER)


def keys(taken: Taken) -> list[tuple[tuple[Scalar, ...], int]]:
    """(key, offset) of all rows of the only rule, in log order."""
    if 0 not in taken.rows:
        return []
    rows = taken.rows[0]
    pairs = zip(rows.keys, rows.offsets, strict=True)
    return [(key_values(key), offset) for key, offset in pairs if key is not None]


def reasons(taken: Taken) -> list[tuple[str, int]]:
    return [(item.reason, item.offset) for item in taken.rejected]


GOOD = b'{"product":{"id":"17","name":"Nokia","price":1.5},"action":"add","more":[1,{"x":null}]}'


@pytest.mark.parametrize(
    ("bad", "detail"),
    [
        pytest.param(None, "empty value", id="a tombstone"),
        pytest.param(b"", "empty value", id="an empty value"),
        pytest.param(b'{"product":', "not one JSON object", id="broken JSON"),
        pytest.param(b'{"action":"add","x":"\\ud83d"}', "half of a surrogate pair", id="half of a pair"),
        pytest.param(b"[1]", "not one JSON object", id="an array"),
        pytest.param(b"17", "not one JSON object", id="a number"),
        pytest.param(GOOD + b"{}", "not one JSON object", id="two objects"),
        pytest.param(b'{"action":"add","product":{"name":"\xff"}}', "not UTF-8", id="invalid UTF-8"),
        pytest.param(b'{"action":"add","more":"\xff","product":{"name":"x"}}', "not UTF-8", id="also where not read"),
        pytest.param(b"\x00\xfe" * 450_000, "not UTF-8", id="900 kB of garbage"),
        pytest.param(b"x" * 900_000, "not one JSON object", id="900 kB of text"),
        pytest.param(b'{"action":"add"}', "missing, or no string", id="a missing key field"),
        pytest.param(b'{"action":"add","product":{"name":null}}', "missing, or no string", id="a null key field"),
        pytest.param(b'{"action":"add","product":{"name":{}}}', "missing, or no string", id="an object as key"),
        pytest.param(b'{"action":"add","product":{"name":1e999}}', "missing, or no string", id="no number"),
        pytest.param(b'{"action":"add","product":["name"]}', "missing, or no string", id="a path through an array"),
    ],
)
def test_a_bad_record_is_rejected_and_its_neighbours_count(bad: bytes | None, detail: str) -> None:
    taken = take(GOOD, bad, GOOD)
    assert keys(taken) == [(("Nokia",), 0), (("Nokia",), 2)]
    (rejected,) = taken.rejected
    assert (rejected.reason, rejected.offset, rejected.value, rejected.rules) == ("invalid", 1, bad, ("hot",))
    assert detail in rejected.detail


def test_values_that_are_valid_only_when_joined_are_each_rejected() -> None:
    halves = (b'{"action":"add","product":{"name":"', b'"}}')
    taken = take(GOOD, *halves, b'{"x":8},{"x":9}', GOOD)
    assert reasons(taken) == [("invalid", 1), ("invalid", 2), ("invalid", 3)]
    assert [offset for _, offset in keys(taken)] == [0, 4]


def test_what_where_does_not_let_pass_neither_counts_nor_is_rejected() -> None:
    taken = take(b'{"product":{"id":"17","name":null,"price":null},"action":"delete"}', b"{}", b'{"action":null}')
    assert (keys(taken), taken.rejected) == ([], [])
    assert taken.highest_ms == 10_000, "it moves event time on all the same"


@pytest.mark.parametrize(
    ("wanted", "value", "passes"),
    [
        (1, b"1", True), (1, b"1.0", True), (1, b"true", False), (1, b'"1"', False),
        ("1", b'"1"', True), ("1", b"1", False), (True, b"true", True), (True, b"1", False),
        (None, b"null", True), (None, b"0", False),
    ],
)  # fmt: skip
def test_where_compares_json_values_with_their_types(wanted: Scalar, value: bytes, passes: bool) -> None:
    taken = take(b'{"k":"x","w":%s}' % value, of=rule(key=("k",), w=wanted))
    assert bool(keys(taken)) is passes


def test_keys_are_told_apart_by_json_type() -> None:
    values = [b'{"k":%s}' % value for value in (b'"17"', b"17", b"true", b"1", b'"true"', b"17.5")]
    found = keys(take(*values, of=rule(key=("k",))))
    assert [repr(key) for (key,), _ in found] == ["'17'", "17", "True", "1", "'true'", "17.5"]
    assert len({shard_of(row[0]) for row in [("17",), (b"17",)]}) <= SHARDS


def test_a_key_of_several_paths_needs_them_all() -> None:
    taken = take(b'{"a":"x","b":2}', b'{"a":"x"}', of=rule(key=("a", "b")))
    assert keys(taken) == [(("x", 2), 0)]
    assert reasons(taken) == [("invalid", 1)]


def test_a_record_that_is_bad_for_two_rules_is_rejected_once_and_names_both() -> None:
    rules = [CountRule(name, TOPIC, (name,), 1, 1) for name in ("a", "b", "c")]
    taken = TopicIntake(TOPIC, rules).take(0, Records.of([Record(b'{"c":"fine"}', 1, 5)]), NEVER)
    (rejected,) = taken.rejected
    assert rejected.rules == ("a", "b")
    assert list(taken.rows) == [2]


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"9" * 5_000, b"[%s]" % (b"9" * 5_000)])
@pytest.mark.parametrize("path", ["n", "n.more"])
def test_a_number_that_is_too_large_matches_nothing_and_leaves_other_rules_alone(path: str, number: bytes) -> None:
    rules = [CountRule("few", TOPIC, ("k",), 1, 1, ((path, (1.5, None)),)), CountRule("all", TOPIC, ("k",), 1, 1)]
    taken = TopicIntake(TOPIC, rules).take(0, Records.of([Record(b'{"k":"x","n":%s}' % number, 1, 0)]), NEVER)
    assert (taken.rejected, list(taken.rows)) == ([], [1])


def test_how_deep_a_record_may_nest_does_not_depend_on_who_asks() -> None:
    def nested(depth: int) -> bytes:
        return b'{"k":"x","text":"[[\\"[{","z":%s%s}' % (b"[" * depth, b"]" * depth)

    def below(frames: int) -> list[tuple[str, int]]:
        if frames:
            return below(frames - 1)
        return reasons(
            take(nested(499), nested(500), b'{"k":"x","z":[%s[]]}' % (b"[],{}," * 5_000), of=rule(key=("k",)))
        )

    assert below(0) == below(300) == [("invalid", 1)]


def test_such_a_number_makes_no_record_valid_that_is_not() -> None:
    values = [b'{"k":"x","n":1e999', b'{"k":"x","n":1e999}{}', b'[{"n":1e999}]', b'{"k":"x","n":1e999,"m":"\\ud800"}']
    assert [reason for reason, _ in reasons(take(*values, of=rule(key=("n",))))] == ["invalid"] * 4


@pytest.mark.parametrize("digits", [17, 300, 4_298, 4_299, 4_300, 5_000])
def test_an_event_time_of_thousands_of_digits_is_a_time_like_others_out_of_range(digits: int) -> None:
    topic = Topic("t", event_time=EventTime("at", "s"))
    taken = take(b'{"k":"x","at":%s}' % (b"9" * digits), of=rule(topic, key=("k",)))
    assert [(item.reason, len(item.detail) < 200) for item in taken.rejected] == [("invalid", True)]


@pytest.mark.parametrize("order", [("a", "a.b", "a.b.c", "a-b"), ("a.b.c", "a.b", "a")])
def test_paths_may_be_the_beginnings_of_others(order: tuple[str, ...]) -> None:
    conditions = (("a.b.c", (1,)), ("a-b", (2,)), ("a.b.c.d", (3,)))
    rules = [CountRule(path, TOPIC, ("k",), 1, 1, ((path, values),)) for path, values in conditions]
    rules += [CountRule(f"key {path}", TOPIC, (path,), 1, 1) for path in order]
    values = [b'{"k":"x","a":{"b":{"c":1}},"a-b":2}', b'{"k":"x","a":{"b":{"c":{"d":3}}},"a-b":2}']
    taken = [TopicIntake(TOPIC, rules).take(0, Records.of([Record(value, 1, 0)]), NEVER) for value in values]
    of = [one.rows.keys() & {0, 1, 2} for one in taken]
    assert of == [{0, 1}, {1, 2}]


def test_lateness_is_judged_by_the_partition_in_log_order() -> None:
    intake = TopicIntake(TOPIC, [rule()])
    records = [Record(GOOD, time_ms, offset) for offset, time_ms in enumerate([5_000, 4_000, 3_999, 9_000, 7_999])]
    taken = intake.take(0, Records.of(records), NEVER)
    assert [offset for _, offset in keys(taken)] == [0, 1, 3]
    assert reasons(taken) == [("late", 2), ("late", 4)]
    assert (taken.highest_ms, taken.rows[0].lowest_ms) == (9_000, 4_000)
    assert reasons(intake.take(1, Records.of(records[:1]), NEVER)) == [], "another partition has its own watermark"


def test_a_batch_goes_on_from_the_highest_time_before_it() -> None:
    taken = TopicIntake(TOPIC, [rule()]).take(0, Records.of([Record(GOOD, 3_999, 8), Record(GOOD, 4_000, 9)]), 5_000)
    assert reasons(taken) == [("late", 8)]
    assert taken.highest_ms == 5_000


def test_an_event_in_the_future_is_rejected_and_does_not_make_the_rest_late() -> None:
    now = 1_000_000
    records = [Record(GOOD, time_ms, offset, now) for offset, time_ms in enumerate([now, now + 60_000, now + 60_001])]
    taken = TopicIntake(TOPIC, [rule()]).take(0, Records.of([*records, Record(GOOD, now + 59_000, 3, now)]), NEVER)
    assert reasons(taken) == [("future", 2)]
    assert taken.highest_ms == now + 60_000
    free = Topic("products", max_future_ms=None)
    assert TopicIntake(free, [rule(free)]).take(0, Records.of(records), NEVER).rejected == []
    without_arrival = [record._replace(arrival_ms=None) for record in records]
    assert TopicIntake(TOPIC, [rule()]).take(0, Records.of(without_arrival), NEVER).rejected == []


@pytest.mark.parametrize(
    ("unit", "written", "time_ms"),
    [
        ("ms", b"1500", 1500), ("ms", b"1500.9", 1500), ("s", b"1.5", 1500), ("s", b"2", 2000), ("s", b"0.0019", 1),
        ("iso", b'"1970-01-01T00:00:01.500Z"', 1500), ("iso", b'"1970-01-01T02:00:01.5+02:00"', 1500),
        ("ms", b'"1500"', None), ("ms", b"null", None), ("ms", b"-1", None), ("ms", b"1e300", None),
        ("ms", b"true", None),
        ("iso", b'"1970-01-01T00:00:01"', None), ("iso", b'"yesterday"', None), ("iso", b"1500", None),
    ],
)  # fmt: skip
def test_event_time_from_a_field(unit: str, written: bytes, time_ms: int | None) -> None:
    topic = Topic("t", event_time=EventTime("at", unit))  # type: ignore[arg-type]
    taken = take(b'{"k":"x","at":%s}' % written, of=rule(topic, key=("k",)), time_ms=99)
    if time_ms is None:
        assert reasons(taken) == [("invalid", 0)]
    else:
        assert taken.highest_ms == time_ms


def test_an_event_time_of_a_megabyte_is_not_quoted_whole() -> None:
    topic = Topic("t", event_time=EventTime("at", "iso"))
    (rejected,) = take(b'{"k":"x","at":"%s"}' % (b"x" * 1_000_000), of=rule(topic, key=("k",))).rejected
    assert len(rejected.detail) < 300


def test_what_is_accepted_is_counted_whether_a_rule_matches_it_or_not() -> None:
    taken = take(GOOD, b"", b'{"action":"delete"}', b'{"action":"add"}')
    assert taken.accepted == 3, "a bad key is a matter of the rule"


def test_without_its_event_time_field_a_record_is_invalid() -> None:
    topic = Topic("t", event_time=EventTime("at", "ms"))
    rejected: list[Rejected] = take(b'{"k":"x"}', of=rule(topic, key=("k",))).rejected
    assert [item.reason for item in rejected] == ["invalid"]
    assert "at" in rejected[0].detail
