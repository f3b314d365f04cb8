"""`scripts/bench recovery`: how long a job that died or was stopped is away, and what large state costs it.

Seen from outside: alerts on their topic with the time at which the job handed them to its producer, the times of the
group's commits (one an epoch, so that what an epoch takes longer than a second is the snapshot's), and /proc.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import KafkaException

from scripts.benchmarks.alerts import AlertsTopic
from scripts.benchmarks.cluster import Cluster
from scripts.benchmarks.job import Job, JobFailed, configuration, running
from scripts.benchmarks.latency import opened, percentiles
from scripts.benchmarks.orders import Orders, Rule
from scripts.benchmarks.progress import Bar
from scripts.benchmarks.results import Result
from scripts.benchmarks.sender import Load, sending
from scripts.benchmarks.state import shard_bytes
from scripts.benchmarks.throughput import fill, wait_until_through

PARTITIONS = 4
_HOUR_MS = 3_600_000
_AWAY_S = 180.0
_NEVER = 100  # orders that no key has by chance
_WARM_UP_S = 5.0
_SAME_COMMIT_MS = 50


class Large(msgspec.Struct, frozen=True):
    """A job with much state. No key reaches the threshold but those of bursts, by which it is watched."""

    name: str
    keys: int
    orders_per_key: int
    rule: Rule
    span_ms: int
    rate: int

    @property
    def parameters(self) -> dict[str, Any]:
        """For the results."""
        return {
            "keys": self.keys,
            "orders_per_key": self.orders_per_key,
            "window_ms": self.rule.window_ms,
            "span_ms": self.span_ms,
            "rate": self.rate,
        }

    def load(self, seconds: float) -> Load:
        """Live orders over all keys, nearly half of them in bursts."""
        burst = self.rule.threshold
        return Load(self.rate, seconds, self.keys, PARTITIONS, self.rate / (2.2 * burst), burst)


def live(keys: int, each: int) -> Large:
    """As many live keys with `each` orders, all of them of the last minutes."""
    return Large(f"live-keys-{keys}", keys, each, Rule("many", _NEVER, 2 * _HOUR_MS), 5 * 60_000, 1_000)


def day(keys: int, each: int) -> Large:
    """The hard case: a window of a day, 500 orders a second; the orders before spread over the day."""
    return Large(f"day-keys-{keys}", keys, each, Rule("daily", _NEVER, 24 * _HOUR_MS), 23 * _HOUR_MS, 500)


def run(cluster: Cluster, directory: Path, keys: int, each: int, seconds: int, bar: Bar) -> Iterator[Result]:
    """The results as they come."""
    yield _kill(cluster, directory, seconds, bar)
    for large in (live(keys, each), day(keys, each)):
        parameters = large.parameters | {"seconds": seconds}
        try:
            yield Result("recovery", large.name, parameters, _large(cluster, directory, large, seconds, bar))
        except (JobFailed, KafkaException, RuntimeError) as error:
            yield Result("recovery", large.name, parameters, failed=str(error))


def _kill(cluster: Cluster, directory: Path, seconds: int, bar: Bar) -> Result:
    """`kill -9` while 1,000 orders a second come, 25 alerts among them; started again at once."""
    load = Load(1_000, _AWAY_S + seconds, 1_000, PARTITIONS, 25, 20)
    name = f"bench-kill-{time.time_ns() // 1_000_000}"
    rule = Rule("hot-product", 20, 2_000)
    cluster.create_topic(name, PARTITIONS)
    config = configuration(name, cluster.bootstrap, name, PARTITIONS, [rule], directory / name / "state")
    alerts, job = AlertsTopic(cluster, name), Job(directory / name, config)
    try:
        with running(job), sending(cluster, name, load), bar.task("kill -9", None):
            _wait_for_alert(alerts, job, 0)
            time.sleep(max(_WARM_UP_S, seconds / 6))
            killed_ms = int(time.time() * 1000)
            job.kill()
            job.start(wait=False)
            values = _away(alerts, job, killed_ms)
            job.stop()
    except (JobFailed, KafkaException, RuntimeError) as error:
        return Result("recovery", "kill", {"rate": load.rate}, failed=str(error))
    finally:
        alerts.close()
        cluster.delete_topic(name)
        shutil.rmtree(directory / name, ignore_errors=True)
    return Result("recovery", "kill", {"rate": load.rate}, values)


def _away(alerts: AlertsTopic, job: Job, from_ms: int) -> dict[str, Any]:
    """Seconds from then to the next alert at all, and to the next of an order that came after it."""
    _wait_for_alert(alerts, job, from_ms)
    told = opened(alerts.told, 0)
    return {
        "to_next_alert_s": (min(item.at_ms for item, _, _ in told if item.at_ms > from_ms) - from_ms) / 1000,
        "to_new_alert_s": (min(item.at_ms for item, at_ms, _ in told if at_ms > from_ms) - from_ms) / 1000,
    }


def _wait_for_alert(alerts: AlertsTopic, job: Job, from_ms: int) -> None:
    """Until an order of that time or later has opened an alert."""
    deadline = time.monotonic() + _AWAY_S
    while not opened(alerts.told, from_ms + 1):
        alerts.read(0.2)
        job.check()
        if time.monotonic() > deadline:
            raise JobFailed(f"no alert within {_AWAY_S:.0f} s:\n{job.log()[-2000:]}")


def _large(cluster: Cluster, directory: Path, large: Large, seconds: int, bar: Bar) -> dict[str, Any]:
    """Fill it, watch it idle, watch it work, stop it, watch it come back."""
    count = large.keys * large.orders_per_key
    orders = Orders(
        count, large.keys, PARTITIONS, max(1, count * 1000 // large.span_ms), longest_window_ms=0, closed=False
    )
    made, _ = fill(cluster, orders, bar)
    name = f"bench-large-{time.time_ns() // 1_000_000}"
    state, topic = directory / name / "state", made.topic
    config = configuration(name, cluster.bootstrap, topic, PARTITIONS, [large.rule], state)
    job, alerts = Job(directory / name, config), AlertsTopic(cluster, name)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory / name, ignore_errors=True)
        stack.callback(cluster.delete_topic, topic)
        stack.callback(alerts.close)
        stack.enter_context(running(job))
        with bar.task(f"{large.name}: filling", len(made.times)) as advance:
            wait_until_through(cluster, job, name, made, advance)
        time.sleep(_WARM_UP_S)
        with bar.task(f"{large.name}: idle", seconds) as advance:
            idle = _written(job, seconds, advance)
        with sending(cluster, topic, large.load(seconds + _WARM_UP_S)):
            _wait_for_alert(alerts, job, 0)
            time.sleep(_WARM_UP_S)
            began_ms = int(time.time() * 1000)
            with bar.task(f"{large.name}: at work", seconds) as advance:
                at_work = _written(job, seconds - 2, advance)
            ended_ms = int(time.time() * 1000)
        usage = job.usage()
        alerts.read_until(lambda: False, 3)
        latencies = [float(item.at_ms - at_ms) for item, at_ms, _ in opened(alerts.told, began_ms) if at_ms < ended_ms]
        job.stop()
        stored = sum(shard_bytes(state).values())
        with sending(cluster, topic, large.load(_AWAY_S)), bar.task(f"{large.name}: coming back", None):
            from_ms = int(time.time() * 1000)
            job.start(wait=False)
            away = _away(alerts, job, from_ms)
            job.stop()
        commits = [commit.at_ms for commit in cluster.commits(name, topic) if began_ms <= commit.at_ms <= ended_ms]
    epochs = [after - before for before, after in pairwise(commits)]
    return {
        "resume_s": away["to_new_alert_s"],
        "idle_written_kb_per_s": round(idle / 1000, 1),
        "written_kb_per_s": round(at_work / 1000, 1),
        "longest_epoch_s": max(epochs, default=0) / 1000,
        "median_epoch_s": _median([gap for gap in epochs if gap > _SAME_COMMIT_MS]) / 1000,
        "alerts": len(latencies),
        **(percentiles("alert", latencies) if latencies else {}),
        "state_mb": round(stored / 1e6, 1),
        "resident_mb": round(usage.resident_bytes / 1e6),
        "peak_mb": round(usage.peak_bytes / 1e6),
    }


def _written(job: Job, seconds: float, advance: Any) -> float:
    """Bytes a second that the job causes to be written to disk."""
    before, began = job.usage().written_bytes, time.monotonic()
    while time.monotonic() - began < seconds:
        time.sleep(1)
        advance(1)
    return (job.usage().written_bytes - before) / (time.monotonic() - began)


def _median(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2] if values else 0
