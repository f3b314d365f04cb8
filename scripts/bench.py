"""Figures of the job, on a real Kafka that is started for them: `scripts/bench latency`.

Each figure stands beside that of a plain consumer in the same run, because a machine's own pace differs more than
anything else.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from rich.console import Console
from rich.table import Table

from scripts.load_orders import Order, make_orders, paced, send
from scripts.receivers import Post, WebhookReceiver

ROOT = Path(__file__).parents[1]
THRESHOLD = 20
WARM_UP_S = 5  # a topic that was just created has its leaders and connections found first, by any consumer
app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Figures of the job on this machine, on a real Kafka of its own."""


@contextmanager
def kafka(directory: Path, brokers: int = 1) -> Iterator[str]:
    """A cluster that ends with the block; its bootstrap servers."""
    script = [sys.executable, str(ROOT / "scripts/kafka")]
    place = ["--dir", str(directory / "kafka")]
    start = [*script, "start", "--brokers", str(brokers), "--free-ports", "--die-with", str(os.getpid()), *place]
    try:
        started = subprocess.run(start, check=False, stdout=subprocess.PIPE, text=True)
        if started.returncode:
            raise typer.Exit(1)  # it has said why
        yield started.stdout.split()[-1]
    finally:
        subprocess.run([*script, "stop", *place], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def job(directory: Path, bootstrap: str, webhook: str, window: str) -> Iterator[None]:
    """`tua run` with one rule and a webhook, from where it watches to its clean stop."""
    config = {
        "kafka": {"bootstrap_servers": bootstrap, "replication_factor": 1},
        "topics": {"products": {"partitions": 2, "replication_factor": 1}},
        "rules": [
            {
                "name": "hot-product", "topic": "products", "where": {"action": "add"}, "key": "product.name",
                "count": {"at_least": THRESHOLD, "within": window}, "actions": ["hook"],
            }
        ],
        "actions": {"hook": {"type": "webhook", "url": webhook}},
        "state": {"directory": str(directory / "state")},
    }  # fmt: skip
    path = directory / "tua.yaml"
    path.write_bytes(msgspec.json.encode(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "tua", "run", "--config", str(path)],
        cwd=ROOT,
        # What a shell has set for another job must not change this one.
        env={name: value for name, value in os.environ.items() if not name.startswith("TUA_")},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if '"watching"' in line:
            break
    else:
        sys.exit("the job did not start:\n" + "".join(said))
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


class PlainConsumer(threading.Thread):
    """The reference: a consumer in a process of its own would be no slower than this one, which only notes times."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(daemon=True)
        self.at: dict[tuple[int, int], float] = {}
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "bench", "enable.auto.commit": False, "log_level": 0}
        )
        self._consumer.assign([TopicPartition("products", number, 0) for number in range(2)])
        self.start()

    def run(self) -> None:
        while True:
            for message in self._consumer.consume(1000, 0.01):
                if message.error() is None:
                    self.at[message.partition() or 0, message.offset() or 0] = time.time()


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@app.command()
def latency(
    rate: Annotated[int, typer.Option(min=1, max=100_000, help="Orders a second.")] = 1000,
    seconds: Annotated[int, typer.Option(min=10)] = 60,
) -> None:
    """From an order handed to the producer to its alert at the webhook, beside the same way to a plain consumer."""
    posts: list[Post] = []
    handed: dict[tuple[int, int], float] = {}

    def acknowledged(message: Message) -> None:
        handed[message.partition() or 0, message.offset() or 0] = time.time() - (message.latency() or 0.0)

    web = WebhookReceiver(posts.append)
    with tempfile.TemporaryDirectory(prefix="tua-bench-") as name:
        directory = Path(name)
        with (
            kafka(directory) as bootstrap,
            job(directory, bootstrap, f"http://127.0.0.1:{web.port}/alerts", f"{10 * 1000 * 40 // rate}ms"),
        ):
            reference = PlainConsumer(bootstrap)
            # 40 products by chance, each ordered 10 times on average within the window: now and then it is 20.
            products = [f"product {number}" for number in range(40)]
            orders: list[Order] = make_orders(rate * seconds, products, 7, rate, int(time.time() * 1000) + 1000)
            producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0, "log_level": 0})
            send(paced(orders), producer, "products", acknowledged)
            time.sleep(2)  # what is still on its way
    job_ms, plain_ms = [], []
    warm_ms = orders[0].timestamp_ms + WARM_UP_S * 1000
    for post in posts:
        source = post.alert["evidence"]["partition"], post.alert["evidence"]["offset"]
        warm = handed[source] * 1000 >= warm_ms
        if post.alert["status"] == "opened" and warm and source in reference.at:
            job_ms.append((post.at - handed[source]) * 1000)
            plain_ms.append((reference.at[source] - handed[source]) * 1000)
    if not job_ms:
        sys.exit("no alert opened, so there is nothing to measure: give it more --seconds or a higher --rate")
    table = Table(title=f"latency in ms at {rate} orders/s for {seconds} s, {len(job_ms)} alerts opened")
    for column in ("from the order to", "p50", "p90", "p99", "max"):
        table.add_column(column, justify="right")
    for title, values in (("a plain consumer", plain_ms), ("the webhook", job_ms)):
        table.add_row(title, *(f"{percentile(values, share):.0f}" for share in (0.5, 0.9, 0.99, 1.0)))
    Console().print(table)


if __name__ == "__main__":
    app()
