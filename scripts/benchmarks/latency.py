"""`scripts/bench latency`: from an order to its alert, beside the same order's way to a plain consumer.

The alert is told at the moment when the job hands it to its producer (the record timestamp on the alerts topic), and a
second time when a webhook receiver has it. Of each of 1,000 products 2 orders are usual within the window, which is
shortened for it at high rates; 25 times a second another product gets the 20 orders that make an alert.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import KafkaException
from rich.table import Table

from scripts.benchmarks.alerts import AlertsTopic, Told, ms
from scripts.benchmarks.cluster import Cluster
from scripts.benchmarks.job import Job, JobFailed, configuration, running
from scripts.benchmarks.orders import Rule
from scripts.benchmarks.progress import Bar
from scripts.benchmarks.results import Result
from scripts.benchmarks.sender import Load, sending
from scripts.benchmarks.watcher import Seen, watching
from scripts.webhook_receiver import Post, WebhookReceiver

WARM_UP_S = 5.0  # a topic that was just created has its leaders and connections found first, by any consumer
PRODUCTS, PARTITIONS, THRESHOLD = 1_000, 4, 20
SHARES = {"p50": 0.5, "p99": 0.99, "p99_9": 0.999, "max": 1.0}
_AFTER_S = 2.0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def percentiles(prefix: str, values: Sequence[float]) -> dict[str, float]:
    """`<prefix>_p50_ms` and so on."""
    return {f"{prefix}_{name}_ms": round(percentile(values, share), 1) for name, share in SHARES.items()}


def opened(told: Sequence[Told], from_ms: float) -> list[tuple[Told, int, tuple[int, int]]]:
    """Alerts that an order of that time or later opened: with that order's time, and its (partition, offset)."""
    found = []
    for item in told:
        evidence = item.alert["evidence"]
        at_ms = ms(evidence["timestamp"])
        if item.alert["status"] == "opened" and not item.alert.get("reopened") and at_ms >= from_ms:
            found.append((item, at_ms, (evidence["partition"], evidence["offset"])))
    return found


def run(cluster: Cluster, directory: Path, rate: int, seconds: int, bar: Bar) -> Result:
    """One rate."""
    name = f"bench-latency-{rate}-{time.time_ns() // 1_000_000}"
    rule = Rule("hot-product", THRESHOLD, max(1, min(5_000, 2 * PRODUCTS * 1000 // rate)))
    load = Load(rate, seconds, PRODUCTS, PARTITIONS, min(25.0, rate / 2 / THRESHOLD), THRESHOLD)
    parameters = {"rate": rate, "seconds": seconds, "products": PRODUCTS, "window_ms": rule.window_ms}
    posts: list[Post] = []
    hook = {"type": "webhook", "url": f"http://127.0.0.1:{WebhookReceiver(posts.append).port}/alerts"}
    directory.mkdir(parents=True, exist_ok=True)
    cluster.create_topic(name, PARTITIONS)
    config = configuration(name, cluster.bootstrap, name, PARTITIONS, [rule], directory / "state", {"hook": hook})
    alerts = AlertsTopic(cluster, name)
    try:
        with running(Job(directory, config)) as job, watching(cluster, name, directory / "seen"):
            started = job.usage()
            begin = time.time()
            with bar.task(f"latency at {rate:,} orders/s", seconds) as advance, sending(cluster, name, load) as sender:
                while sender.poll() is None:
                    time.sleep(1)
                    advance(1)
                    job.check()
            time.sleep(_AFTER_S)  # what is still on its way
            used = job.usage()
            alerts.read_until(lambda: False, _AFTER_S)
            job.stop()
    except (JobFailed, KafkaException, RuntimeError) as error:
        return Result("latency", f"rate-{rate}", parameters, failed=str(error))
    finally:
        alerts.close()
        cluster.delete_topic(name)
    seen = Seen(directory / "seen")
    post_at = {(post.alert["id"], post.alert["sequence"]): post.at * 1000 for post in reversed(posts)}
    told_ms, hook_ms, plain_ms = [], [], []
    for item, at_ms, place in opened(alerts.told, (begin + WARM_UP_S) * 1000):
        told_ms.append(item.at_ms - at_ms)
        posted = post_at.get((item.alert["id"], item.alert["sequence"]))
        plain = seen.at_ms(*place)
        if posted is not None:
            hook_ms.append(posted - at_ms)
        if plain is not None:
            plain_ms.append(plain - at_ms)
    if not told_ms or not hook_ms or not plain_ms:
        return Result("latency", f"rate-{rate}", parameters, failed="no alert opened: give it more --seconds")
    values = {
        "alerts": len(told_ms),
        "cpu_s": round(used.cpu_s - started.cpu_s, 2),
        **percentiles("plain", plain_ms),
        **percentiles("alert", told_ms),
        **percentiles("webhook", hook_ms),
    }
    return Result("latency", f"rate-{rate}", parameters, values)


def table(results: Sequence[Result]) -> Table:
    """For people."""
    shown = Table(title="milliseconds from an order handed to its producer")
    for heading in ("orders/s", "alerts", "to", *SHARES):
        shown.add_column(heading.replace("_", "."), justify="left" if heading == "to" else "right")
    for result in results:
        rate, v = f"{result.parameters['rate']:,}", result.values
        if result.failed is not None:
            shown.add_row(rate, "", f"failed: {result.failed}")
            continue
        for prefix, what in (("plain", "a plain consumer"), ("alert", "the alert"), ("webhook", "the webhook")):
            shown.add_row(rate, str(v["alerts"]), what, *(f"{v[f'{prefix}_{name}_ms']:.0f}" for name in SHARES))
    return shown
