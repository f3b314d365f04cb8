"""`scripts/bench throughput`: orders a second of the real job over a filled topic, beside a plain loop over the same.

The job's figure begins where the consumer group's first commit stands, which is exact in offset and (by the broker's
record of it) in time, and leaves out the start and the first epoch. It ends when the last order has been counted: by
the alert that this order opens, as the job hands it to its producer. That is late by what the alert takes through the
outbox of a job that has nothing else to do any more, some tens of milliseconds, and never later than the commit after
it. Where a job commits nothing before it is through (recovery off, in a short run: an epoch is 10 s there), the figure
begins with its first alert: late by that alert's way through the outbox of a busy job, perhaps 0.2 s. Where that, too,
leaves less than a fifth of the orders to measure, it begins when the job said that it watches: with what it takes to
get going. A result names its beginning (`since`); longer runs make all of this smaller.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from confluent_kafka import KafkaException
from rich.table import Table

from scripts.benchmarks import raw
from scripts.benchmarks.alerts import AlertsTopic, Told, ms
from scripts.benchmarks.cases import Case
from scripts.benchmarks.cluster import Cluster, Commit
from scripts.benchmarks.job import Job, JobFailed, configuration, running
from scripts.benchmarks.orders import SHIPPED, Made, Orders, rules
from scripts.benchmarks.progress import Bar
from scripts.benchmarks.results import Result

_LOOK_S = 0.5
_STUCK_S = 180.0
_ENOUGH = 0.2
_QUIET_S = 25.0


class Span(NamedTuple):
    """From when to when, in ms since 1970, and how many orders were counted meanwhile. `of`: of all.

    `since`: what it begins with, in the words of the module's docstring.
    """

    begin_ms: int
    end_ms: int
    counted: int
    of: int
    since: Literal["commit", "alert", "start"]
    longest_epoch_ms: int | None = None

    @property
    def per_s(self) -> float:
        return self.counted * 1000 / max(1, self.end_ms - self.begin_ms)


def span(commits: Sequence[Commit], told: Sequence[Told], made: Made, started_ms: int) -> Span:
    """The part of a run that its figure is made from; see the module's docstring.

    `commits` by time; `started_ms` is when the job began to watch. Raises JobFailed for a job that has not read all.
    """
    end_ms, total = _end(commits, told, made), len(made.times)
    committed: dict[int, int] = {}
    for commit in commits:
        committed[commit.partition] = commit.offset
        if len(committed) == len(made.ends):
            counted = total - sum(committed.values())
            if commit.at_ms < end_ms and counted >= total * _ENOUGH:
                times = [other.at_ms for other in commits if commit.at_ms <= other.at_ms <= end_ms]
                longest = max((after - before for before, after in pairwise(times)), default=None)
                return Span(commit.at_ms, end_ms, counted, total, "commit", longest)
            break
    for item in sorted(told, key=lambda item: item.at_ms):
        # Partitions are read side by side in event time.
        counted = int(np.count_nonzero(made.times > ms(item.alert["evidence"]["timestamp"])))
        if item.alert["status"] == "opened" and item.at_ms < end_ms and counted >= total * _ENOUGH:
            return Span(item.at_ms, end_ms, counted, total, "alert")
    return Span(started_ms, end_ms, total, total, "start")


def _end(commits: Sequence[Commit], told: Sequence[Told], made: Made) -> int:
    """When the last order had been counted."""
    through = {
        commit.partition: commit.at_ms for commit in reversed(commits) if commit.offset >= made.ends[commit.partition]
    }
    if len(through) < len(made.ends):
        raise JobFailed("the job has not committed the ends of all partitions")
    names = {f"product {made.orders.end_product(partition)}" for partition in made.ends}
    opened = {
        item.alert["key"]["product.name"]: item.at_ms
        for item in told
        if item.alert["rule"] == SHIPPED.name and item.alert["status"] == "opened"
    }
    counted = [opened[name] for name in names if name in opened]
    return min(max(through.values()), max(counted)) if len(counted) == len(names) else max(through.values())


def run(
    cluster: Cluster, directory: Path, cases: Sequence[Case], count: int, quick: bool, bar: Bar
) -> Iterator[Result]:
    """Each case, as it is done. Cases over the same orders share the topic."""

    def orders_of(case: Case) -> Orders:
        return case.orders(count, quick)

    for orders in dict.fromkeys(orders_of(case) for case in cases):
        made, size = fill(cluster, orders, bar)
        try:
            for case in (case for case in cases if orders_of(case) == orders):
                parameters = case.parameters | {"orders": len(made.times), "pace": orders.pace, "value_bytes": size}
                try:
                    values, correct = _run_case(cluster, directory / case.name, case, made, bar)
                    yield Result("throughput", case.name, parameters, values, correct)
                except (JobFailed, KafkaException, RuntimeError) as error:
                    yield Result("throughput", case.name, parameters, failed=str(error))
                shutil.rmtree(directory / case.name, ignore_errors=True)
        finally:
            cluster.delete_topic(made.topic)


def fill(cluster: Cluster, orders: Orders, bar: Bar) -> tuple[Made, int]:
    """Make a topic of orders; with the mean bytes of a value."""
    made = orders.made(int(time.time() * 1000))
    cluster.create_topic(made.topic, orders.partitions)
    with bar.task(f"sending orders of {orders.products:,} products", len(made.times)) as advance:
        return made, made.send(cluster.bootstrap, advance)


def _run_case(cluster: Cluster, directory: Path, case: Case, made: Made, bar: Bar) -> tuple[dict[str, Any], bool]:
    """The values, and whether the alerts are the true ones."""
    topic, total = made.topic, len(made.times)
    name = f"bench-{case.name}-{time.time_ns() // 1_000_000}"
    of = rules(case.rules)
    with bar.task(f"{case.name}: the plain loop, before", None):
        before = raw.measured(cluster, topic, total)
    config = configuration(name, cluster.bootstrap, topic, case.partitions, of, directory / "state")
    alerts = AlertsTopic(cluster, name)
    with running(Job(directory, config, recovery=case.recovery, processes=case.processes)) as job:
        started, started_ms = job.usage(), int(time.time() * 1000)
        with bar.task(f"{case.name}: the job", total) as advance:
            wait_until_through(cluster, job, name, made, advance)
        used = job.usage()
        with bar.task(f"{case.name}: alerts", None):
            true = made.true_alerts(of)
            alerts.read_until(lambda: alerts.over() == true, _QUIET_S)
        job.stop()
    alerts.close()
    with bar.task(f"{case.name}: the plain loop, after", None):
        after = raw.measured(cluster, topic, total)
    found = alerts.over()
    part = span(cluster.commits(name, topic), alerts.told, made, started_ms)
    values = {
        "events_per_s": round(part.per_s),
        "raw_events_per_s": round(max(before, after)),
        "raw_before_per_s": round(before),
        "raw_after_per_s": round(after),
        "ratio": round(part.per_s / max(before, after), 3),
        "since": part.since,
        "measured_s": (part.end_ms - part.begin_ms) / 1000,
        "measured_share": round(part.counted / part.of, 3),
        "longest_epoch_s": None if part.longest_epoch_ms is None else part.longest_epoch_ms / 1000,
        "cpu_s": round(used.cpu_s - started.cpu_s, 2),
        "peak_mb": round(used.peak_bytes / 1e6),
        "alerts_true": len(true),
        "alerts_found": len(found),
        "alerts_missing": len(true - found),
        "alerts_wrong": len(found - true),
    }
    return values, found == true


def wait_until_through(cluster: Cluster, job: Job, group: str, made: Made, advance: Callable[[int], None]) -> None:
    """Until the group has committed the end of each partition. Raises JobFailed when nothing moves any more."""
    seen, moved = 0, time.monotonic()
    while True:
        committed = cluster.committed(group, made.topic)
        now = sum(max(0, offset) for offset in committed.values())
        if now > seen:
            advance(now - seen)
            seen, moved = now, time.monotonic()
        if all(committed.get(partition, -1) >= end for partition, end in made.ends.items()):
            return
        job.check()
        if time.monotonic() - moved > _STUCK_S:
            raise JobFailed(f"nothing was committed for {_STUCK_S:.0f} s, at {seen} of {len(made.times)} orders")
        time.sleep(_LOOK_S)


def table(results: Sequence[Result]) -> Table:
    """For people."""
    shown = Table(title="orders a second, of the job and of a plain loop over the same topic")
    for heading in ("case", "orders", "job", "plain loop", "ratio", "CPU s", "peak MB", "alerts: found", "true", ""):
        shown.add_column(heading, justify="left" if heading in ("case", "") else "right")
    for result in results:
        orders = f"{result.parameters['orders']:,}"
        if result.failed is not None:
            shown.add_row(result.case, orders, *[""] * 7, f"failed: {result.failed}")
            continue
        v = result.values
        verdict = (
            ""
            if v["since"] == "commit"
            else f"short run: measured from its {'first alert' if v['since'] == 'alert' else 'start'}"
        )
        verdict = verdict if result.correct else f"WRONG: {v['alerts_missing']} missing, {v['alerts_wrong']} not true"
        shown.add_row(
            result.case, orders, f"{v['events_per_s']:,}", f"{v['raw_events_per_s']:,}", f"{v['ratio']:.2f}",
            f"{v['cpu_s']:.1f}", str(v["peak_mb"]), f"{v['alerts_found']:,}", f"{v['alerts_true']:,}", verdict,
        )  # fmt: skip
    return shown
