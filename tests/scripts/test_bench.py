"""scripts/bench with few orders: what it measures is right, or it says why not. Its figures are for people."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from detection.times import iso
from scripts.bench import app
from scripts.benchmarks import cases, recovery, report
from scripts.benchmarks.alerts import Told
from scripts.benchmarks.cluster import Cluster as Kafka
from scripts.benchmarks.cluster import Commit
from scripts.benchmarks.job import JobFailed
from scripts.benchmarks.latency import percentile
from scripts.benchmarks.orders import SHIPPED, Alert, Made, Orders, Rule, rules, value_of
from scripts.benchmarks.progress import Bar
from scripts.benchmarks.results import Result as Found
from scripts.benchmarks.results import Results, exit_code, this_machine
from scripts.benchmarks.throughput import span
from scripts.ground_truth import episodes
from scripts.load_orders import make_orders
from tests.support.cluster import Cluster

ROOT = Path(__file__).parents[2]


@pytest.fixture
def on_kafka(kafka: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kafka]:
    """The tests' cluster, which the bench takes instead of one of its own."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    return Kafka(kafka.bootstrap)


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def result(case: str = "keys-1000", **values: Any) -> Found:
    figures = {
        "events_per_s": 600_000, "raw_events_per_s": 1_000_000, "ratio": 0.6, "cpu_s": 3.2, "peak_mb": 200,
        "since": "commit", "alerts_true": 3, "alerts_found": 3, "alerts_missing": 0, "alerts_wrong": 0,
    }  # fmt: skip
    return Found("throughput", case, {"orders": 2_000_084}, figures | values, correct=True)


def saved(path: Path, *results: Found) -> Path:
    path.write_bytes(msgspec.json.encode(Results(this_machine(), list(results))))
    return path


def test_missing_java_ends_it_with_what_to_install(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "scripts.bench", "latency"], cwd=ROOT, env={"PATH": str(tmp_path)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 1
    assert answer.stderr.startswith("Java is not installed")
    assert len(answer.stderr.splitlines()) == 1


# Orders, and the alerts that are true


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rule", [Rule("one", 1, 700), Rule("few", 3, 500), SHIPPED], ids=lambda rule: rule.name)
def test_true_alerts_are_those_of_the_plain_definition(rule: Rule, seed: int) -> None:
    made = Orders(1_500, 7, 3, pace=40, disorder_ms=900, seed=seed).made(10**12)
    expected = set()
    for product in range(7 + 3):
        times = made.times[made.products == product].tolist()
        for found in episodes(times, rule.window_ms, rule.threshold):
            name = f"product {product}"
            expected.add(Alert(rule.name, name, found.opened_at_ms, found.resolves_at_ms, found.events))
    assert expected, "the test shows nothing"
    assert made.true_alerts((rule,)) == expected


def test_no_order_is_late_and_none_from_the_future() -> None:
    made = Orders(20_000, 100, 4, pace=500, disorder_ms=5_000, hot=0.9).made(10**12)
    for partition in range(4):
        times = made.times[made.partitions == partition]
        assert np.all(times >= np.maximum.accumulate(times) - 10_000)
    assert made.times.max() < 10**12
    assert 0.89 < np.mean(made.partitions == 0) < 0.91
    assert sum(made.ends.values()) == len(made.times)


def test_an_order_has_the_form_of_the_shops() -> None:
    add, delete = (
        next(order for order in make_orders(100, ["Nokia"], 1, 10, 0) if (order.name is None) == deleted)
        for deleted in (False, True)
    )
    ours = json.loads(value_of(7, 12, 5_555)), json.loads(value_of(7, -1, 5_555))
    assert ours[0] == {"product": {"id": "7", "name": "product 12", "price": 55.55}, "action": "add"}
    for mine, theirs in zip(ours, (add, delete), strict=True):
        shops = json.loads(theirs.value)
        assert (list(mine), list(mine["product"]), mine["action"]) == (
            list(shops),
            list(shops["product"]),
            shops["action"],
        )
    assert value_of(7, 12, 5_555).encode() == msgspec.json.encode(ours[0])


def test_rules_beyond_the_first_alert_together_less_than_it_alone() -> None:
    made = Orders(160_000, 1_000, pace=1_600).made(10**12)
    counts = [len(made.true_alerts((rule,))) for rule in rules(20)]
    assert rules(1) == (SHIPPED,)
    assert len({(rule.threshold, rule.window_ms) for rule in rules(20)}) == 20
    assert 0 < sum(counts[1:]) < counts[0] < 200, counts


# What a figure is made from


def told(at_ms: int, product: int, evidence_ms: int) -> Told:
    evidence = {"partition": 0, "offset": 0, "timestamp": iso(evidence_ms)}
    name = {"product.name": f"product {product}"}
    return Told(at_ms, {"rule": SHIPPED.name, "status": "opened", "key": name, "evidence": evidence})


def two_partitions() -> Made:
    return Orders(1_000, 10, 2, pace=100).made(10**12)


def test_a_figure_goes_from_the_first_commit_to_the_alert_of_the_last_order() -> None:
    """commits:  0@1000 1@1010 ............ 0+1@4990;  the ends' alerts: 3500, 4000"""
    made = two_partitions()
    commits = [Commit(1_000, 0, 100), Commit(1_010, 1, 150), *(Commit(4_990, p, end) for p, end in made.ends.items())]
    part = span(commits, [told(3_500, 10, 0), told(4_000, 11, 0)], made, 0)
    assert (part.begin_ms, part.end_ms, part.counted) == (1_010, 4_000, len(made.times) - 250)


def test_an_alert_that_waited_in_the_outbox_does_not_make_the_job_slower() -> None:
    made = two_partitions()
    commits = [Commit(1_000, 0, 100), Commit(1_010, 1, 150), *(Commit(4_990, p, end) for p, end in made.ends.items())]
    assert span(commits, [told(3_500, 10, 0), told(9_000, 11, 0)], made, 0).end_ms == 4_990


def test_without_a_commit_on_the_way_a_figure_begins_with_the_first_alert() -> None:
    made = two_partitions()
    commits = [Commit(10_000, partition, end) for partition, end in made.ends.items()]
    middle = int(made.times[500])
    part = span(commits, [told(1_500, 3, middle), told(4_000, 10, 0), told(4_100, 11, 0)], made, 0)
    assert (part.begin_ms, part.end_ms) == (1_500, 4_100)
    assert part.counted == np.count_nonzero(made.times > middle)


def test_what_is_through_within_an_epoch_is_measured_from_its_start() -> None:
    made = two_partitions()
    commits = [Commit(1_000, partition, end) for partition, end in made.ends.items()]
    part = span(commits, [told(900, 10, 10**13), told(950, 11, 10**13)], made, 400)
    assert (part.begin_ms, part.end_ms, part.counted, part.since) == (400, 950, len(made.times), "start")


def test_a_job_that_has_not_read_all_has_no_figure() -> None:
    made = two_partitions()
    with pytest.raises(JobFailed, match="ends of all partitions"):
        span([Commit(1_000, 0, made.ends[0])], [], made, 0)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100)], ids=["p50", "p99", "p99.9", "max"]
)
def test_percentiles_of_one_to_a_hundred(share: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == expected


# Cases


def test_cases_are_chosen_by_name_or_by_how_they_begin() -> None:
    assert [case.name for case in cases.chosen(["keys-1"])] == ["keys-1"]
    assert [case.name for case in cases.chosen(["rules", "keys-1"])] == ["rules-5", "rules-20", "keys-1"]
    assert cases.chosen([]) == list(cases.CASES)
    assert len({case.name for case in cases.CASES}) == len(cases.CASES)


def test_each_product_has_20_orders_or_more() -> None:
    assert all(case.orders(2_000_000, False).count >= 20 * case.products for case in cases.CASES)


def test_an_unknown_case_is_said_before_anything_is_started() -> None:
    answer = bench("throughput", "--case", "kesy")
    assert answer.exit_code == 2
    assert "no case 'kesy'" in answer.output


# On a real Kafka


@pytest.mark.kafka
def test_throughput_finds_the_true_alerts_and_says_so(on_kafka: Kafka, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    answer = bench("throughput", "--case", "keys-1000", "--orders", 60_000, "--json", path)
    assert answer.exit_code == 0, answer.output
    (found,) = msgspec.json.decode(path.read_bytes(), type=Results).results
    assert found.correct
    assert found.values["alerts_found"] == found.values["alerts_true"] > 4, "none but those of the ends"
    assert found.values["events_per_s"] > 0
    assert found.values["raw_events_per_s"] > 0
    assert found.values["cpu_s"] > 0
    assert os.uname().nodename not in path.read_text(encoding="utf-8")
    assert str(ROOT) not in path.read_text(encoding="utf-8")


@pytest.mark.kafka
def test_an_alert_that_is_not_true_gives_exit_code_1(on_kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    true_alerts = Made.true_alerts

    def one_less(made: Made, of: tuple[Rule, ...]) -> set[Alert]:
        return set(sorted(true_alerts(made, of))[1:])

    monkeypatch.setattr(Made, "true_alerts", one_less)
    monkeypatch.setattr("scripts.benchmarks.throughput._QUIET_S", 4.0)
    answer = bench("throughput", "--case", "keys-1000", "--orders", 20_000)
    assert answer.exit_code == 1
    assert "WRONG: 0 missing, 1 not true" in answer.output


@pytest.mark.kafka
def test_a_job_that_does_not_start_is_a_failed_case(on_kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.benchmarks.throughput.SHIPPED", SHIPPED)
    monkeypatch.setattr("scripts.benchmarks.throughput.rules", lambda _: (SHIPPED._replace(threshold=0),))
    answer = bench("throughput", "--case", "keys-1000", "--orders", 20_000)
    assert answer.exit_code == 1
    assert "failed: the job ended with 1" in answer.output


@pytest.mark.kafka
def test_latency_stands_beside_a_plain_consumer(on_kafka: Kafka, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    answer = bench("latency", "--rate", 1_000, "--seconds", 8, "--json", path)
    assert answer.exit_code == 0, answer.output
    (found,) = msgspec.json.decode(path.read_bytes(), type=Results).results
    assert found.values["alerts"] > 10
    for prefix in ("plain", "alert", "webhook"):
        assert 0 <= found.values[f"{prefix}_p50_ms"] <= found.values[f"{prefix}_p99_ms"] < 5_000


@pytest.mark.kafka
def test_a_key_that_went_quiet_is_seen_to_be_freed(on_kafka: Kafka, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    answer = bench("memory", "--keys", 10_000, "--hot-seconds", 1, "--json", path)
    assert answer.exit_code == 0, answer.output
    per_key, hot_key = msgspec.json.decode(path.read_bytes(), type=Results).results
    # 100,000 timestamps and their keys; then 64 empty shards.
    assert 0.8 < per_key.values["state_mb"] < 3
    assert per_key.values["state_mb_once_quiet"] < 0.02
    assert 1_000 < hot_key.values["most_state_bytes"] < 65_536
    assert hot_key.values["state_mb_once_quiet"] < 0.02


@pytest.mark.kafka
def test_the_next_alert_after_a_kill_is_waited_for(on_kafka: Kafka, tmp_path: Path) -> None:
    with Bar() as bar:
        found = recovery._kill(on_kafka, tmp_path, 8, bar)
    assert found.failed is None
    assert 0 < found.values["to_next_alert_s"] <= found.values["to_new_alert_s"] < 60


# The report


def test_a_failed_case_and_a_wrong_one_give_exit_code_1() -> None:
    assert exit_code([result()]) == 0
    assert exit_code([result(), msgspec.structs.replace(result(), correct=False)]) == 1
    assert exit_code([msgspec.structs.replace(result(), failed="no")]) == 1


def test_the_report_writes_tables_between_their_marks_and_nothing_else(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text((ROOT / "docs/performance.md").read_text(encoding="utf-8"), encoding="utf-8")
    before = document.read_text(encoding="utf-8")
    files = saved(tmp_path / "a.json", result(ratio=0.1)), saved(tmp_path / "b.json", result(), result("rules-20"))
    for _ in range(2):
        answer = bench("report", *files, "--into", document)
        assert answer.exit_code == 0, answer.output
        after = document.read_text(encoding="utf-8")
        assert after.count("| keys-1000 | 2.0 M | 600,000 | 1,000,000 | 0.60 | 3.2 | 200 | 3 of 3 |") == 1
        assert "| rules-20 |" in after
    unmarked = report._MARKED.sub("", before)
    assert report._MARKED.sub("", after) == unmarked


def test_a_drawing_is_made_and_is_the_same_every_time(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.json", result(), result("rules-20", ratio=0.2))
    drawings = []
    for name in ("one.svg", "two.svg"):
        assert bench("plot", file, "--out", tmp_path / name).exit_code == 0
        drawings.append((tmp_path / name).read_bytes())
    assert drawings[0] == drawings[1]
    assert b"<svg" in drawings[0]
    assert bench("plot", file, "--out", tmp_path / "three.png").exit_code == 0


@pytest.mark.parametrize(("content", "says"), [("{}", "machine"), ("x", "malformed")], ids=["other JSON", "no JSON"])
def test_a_file_of_no_results_is_said_in_one_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")
    answer = bench("report", path)
    assert answer.exit_code == 1
    assert len(answer.output.splitlines()) == 1
    assert str(path) in answer.output
    assert says in answer.output
