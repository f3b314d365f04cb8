"""The demo: the real job in a process of its own, an embedded broker, and receivers that show what they get.

100 seeded orders of four products are sent in real time. What must follow is computed by brute force and stands, at
the end, beside what arrived. Exit code 0 when they agree, 1 when not, 130 on Ctrl-C.
"""

from __future__ import annotations

import base64
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import typer
from confluent_kafka import Message, Producer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from actions.webhook import signature, signing_key
from scripts.comparison import Told, channels, mailed, must_tell, told
from scripts.ground_truth import Episode
from scripts.load_orders import PRODUCTS, WHAT_RULE, Order, expected, fail, make_orders, paced, rule_of_orders, send
from scripts.receivers import Mail, MailServer, spell_mail
from scripts.webhook_receiver import Post, WebhookReceiver, spell_post
from settings import RuleSettings, Settings
from tua.configuration import load_or_exit

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "tua.yaml"
RATE = 15.0
CALM_RATE = 3.0
WAIT_S = 30.0


class Demo:
    """What was sent and what arrived. Receivers and producer call in from their threads."""

    def __init__(self, console: Console, settings: Settings, rule: RuleSettings) -> None:
        self.console = console
        self.rule = rule
        self.channels = channels(settings, rule)
        self.lateness_ms = settings.topics[self.rule.topic].lateness_ms
        self.sent_at: dict[tuple[int, int], float] = {}
        self.posts: list[Post] = []
        self.mails: list[Mail] = []
        self.logged: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.watching = threading.Event()
        self.secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()

    def on_mail(self, mail: Mail) -> None:
        self.mails.append(mail)
        self._show("magenta", spell_mail(mail))

    def on_post(self, post: Post) -> None:
        self.posts.append(post)
        self._show("cyan", spell_post(post))

    def read_output(self, stream: Any) -> None:
        for line in stream:
            alert = msgspec.json.decode(line)
            self.logged.append(alert)
            self._show("yellow", f"log: {alert['status']}: {alert['message']}")

    def read_log(self, stream: Any) -> None:
        for line in stream:
            self.said.append(line.decode(errors="replace"))
            if b'"watching"' in line:
                self.watching.set()

    def _show(self, colour: str, text: str) -> None:
        at = f"{datetime.now():%H:%M:%S.%f}"[:-3]
        self.console.print(at, text, style=colour, markup=False)

    def acknowledged(self, message: Message) -> None:
        # The producer's latency is how long ago it was given the order.
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        self.sent_at[partition, offset] = time.time() - (message.latency() or 0.0)

    def told(self, product: str) -> dict[str, Told]:
        """By channel, what came about a product."""
        return {
            "log": told(self.logged, self.rule, product),
            "email": mailed([str(mail.message["Subject"]) for mail in self.mails], self.rule, product),
            "webhook": told([post.alert for post in self.posts], self.rule, product),
        }

    def is_told(self, product: str, episodes: list[Episode]) -> bool:
        """Whether all channels told of the episodes of a product, and of nothing else."""
        came = self.told(product)
        return all(came[name] == must_tell(episodes, name, copies) for name, copies in self.channels.items())

    def latencies_ms(self) -> list[int]:
        """From the order that breached to the webhook, for each alert that opened."""
        found = []
        for post in self.posts:
            evidence = post.alert["evidence"]
            sent_at = self.sent_at.get((evidence["partition"], evidence["offset"]))
            if post.alert["status"] == "opened" and sent_at is not None:
                found.append(round((post.at - sent_at) * 1000))
        return found

    def unsigned(self) -> int:
        """How many webhook calls do not carry the signature they should."""
        keys = (signing_key(self.secret),)
        return sum(
            post.headers.get("webhook-signature")
            != signature(keys, post.headers["webhook-id"], int(post.headers["webhook-timestamp"]), post.body)
            for post in self.posts
        )


def embedded_broker() -> tuple[Producer, str]:
    """librdkafka's own mock broker, which lives as long as this producer; and its address."""
    owner = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "embedded", "log_level": 0})
    brokers = owner.list_topics(timeout=10).brokers.values()
    return owner, ",".join(f"{broker.host}:{broker.port}" for broker in brokers)


def start_job(demo: Demo, state: Path, **environment: str) -> subprocess.Popen[bytes]:
    """The job by Bytewax's own command, with the recovery store that it makes in its state: an epoch a second."""
    command = ["-m", "bytewax.run", "dataflows.activity_alerts", "-r", str(state / "recovery"), "-s", "1", "-b", "0"]
    job = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "TUA_CONFIG": str(CONFIG), "TUA_STATE_DIRECTORY": str(state), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is ours to handle: the job is stopped in order
    )
    for read, stream in ((demo.read_output, job.stdout), (demo.read_log, job.stderr)):
        threading.Thread(target=read, args=(stream,), daemon=True).start()
    return job


def wait(until: Callable[[], bool], job: subprocess.Popen[bytes], limit_s: float) -> bool:
    """Whether it came true in time; at once False when the job has died."""
    deadline = time.monotonic() + limit_s
    while not until():
        if job.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def summary(demo: Demo, truth: dict[str, list[Episode]]) -> bool:
    """Print what was expected beside what arrived; whether they agree."""
    rule = demo.rule
    within = f"{rule.count.threshold} orders within {rule.count.window_ms / 1000:g} s"
    table = Table(title=f"expected (by brute force) beside what arrived, {within}")
    for column in ("product", "peak", "expected", *("mail" if name == "email" else name for name in demo.channels), ""):
        table.add_column(column, justify="left" if column == "product" else "right")
    agree = True
    for product, episodes in truth.items():
        fine = demo.is_told(product, episodes)
        agree &= fine
        peak = str(max(row.peak for row in episodes)) if episodes else f"below {rule.count.threshold}"
        came = demo.told(product)
        table.add_row(
            product, peak, f"{len(episodes)} alert{'' if len(episodes) == 1 else 's'}",
            *(str(came[channel][0]) for channel in demo.channels),
            "[green]as it must be[/]" if fine else "[red]wrong[/]",
        )  # fmt: skip
    demo.console.print(table, soft_wrap=False)
    if "webhook" in demo.channels:
        latencies = ", ".join(f"{latency} ms" for latency in demo.latencies_ms())
        demo.console.print(f"from the order that breached to the webhook: {latencies or 'nothing arrived'}")
        demo.console.print("(this broker hands on with up to half a second's delay; real Kafka: scripts/bench latency)")
    if unsigned := demo.unsigned():
        demo.console.print(f"[red]{unsigned} webhook calls are not signed as they must be[/]")
    return agree and not unsigned


def run(demo: Demo, state: Path, seed: int) -> int:
    owner, bootstrap = embedded_broker()
    mail, web = MailServer(demo.on_mail), WebhookReceiver(demo.on_post)
    demo.console.print(f"embedded broker {bootstrap}, mail server :{mail.port}, webhooks :{web.port}")
    demo.console.print("starting the job: python -m bytewax.run dataflows.activity_alerts")
    job = start_job(
        demo,
        state,
        TUA_BOOTSTRAP_SERVERS=bootstrap,
        TUA_SMTP_HOST="127.0.0.1",
        TUA_SMTP_PORT=str(mail.port),
        TUA_WEBHOOK_URL=f"http://127.0.0.1:{web.port}/alerts",
        TUA_WEBHOOK_SECRET=demo.secret,
    )
    try:
        if not wait(demo.watching.is_set, job, WAIT_S):
            return _failed(demo, "the job did not start")
        orders = make_orders(100, PRODUCTS, seed, RATE, int(time.time() * 1000) + 200)
        # Then a pause, and orders as on a quiet day until event time has passed the ends of the alerts.
        start_ms = orders[-1].timestamp_ms + demo.rule.count.window_ms
        calm_count = int((demo.lateness_ms + 3_000) / 1000 * CALM_RATE)
        calm = make_orders(calm_count, PRODUCTS, seed + 1, CALM_RATE, start_ms)
        producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0, "log_level": 0})
        count = TextColumn("{task.completed} of {task.total} messages")
        with Progress(TextColumn("{task.description}"), BarColumn(), count, console=demo.console) as progress:
            for title, some in (("", orders), ("then calm: ", calm)):
                task = progress.add_task(title + _spell(some), total=len(some))
                send(_counted(some, progress, task), producer, demo.rule.topic, demo.acknowledged)
            truth = expected([*orders, *calm], demo.rule)
            wait(lambda: all(demo.is_told(*item) for item in truth.items()), job, WAIT_S)
        stop(job)
        fine = summary(demo, truth)
        if job.returncode:
            return _failed(demo, f"the job ended with exit code {job.returncode}")
        return 0 if fine else _failed(demo, "what arrived is not what was expected")
    finally:
        stop(job)
        del owner  # the broker ends with it


def _spell(orders: list[Order]) -> str:
    deletes = sum(order.name is None for order in orders)
    return f"{len(orders) - deletes} orders and {deletes} delete{'' if deletes == 1 else 's'}"


def _counted(orders: list[Order], progress: Progress, task: Any) -> Iterator[Order]:
    for order in paced(orders):
        progress.advance(task)
        yield order


def stop(job: subprocess.Popen[bytes]) -> None:
    """As an operator would; at the end by force."""
    if job.poll() is None:
        job.send_signal(signal.SIGTERM)
        try:
            job.wait(15)
        except subprocess.TimeoutExpired:
            job.kill()
            job.wait()


def _failed(demo: Demo, what: str) -> int:
    demo.console.print(f"[red]{what}[/]; the job's log:")
    demo.console.print("".join(demo.said[-30:]), markup=False, end="")
    return 1


def main(seed: int = typer.Option(34, help="The same seed gives the same orders.")) -> None:
    """See alerts in a minute: the real job on an embedded broker, with seeded orders."""
    for name in [name for name in os.environ if name.startswith("TUA_")]:
        del os.environ[name]  # what a shell has set for another job must change neither this one nor what is expected
    settings = load_or_exit(CONFIG)
    rule = rule_of_orders(settings)
    if rule is None:
        fail(f"{CONFIG}: no rule is about the orders of the demo. {WHAT_RULE}")
    console = Console(highlight=False, soft_wrap=True)
    demo = Demo(console, settings, rule)
    if not demo.channels:
        fail(f"{CONFIG}: rule '{rule.name}' names no log, email or webhook that is told of both opened and resolved")
    with tempfile.TemporaryDirectory(prefix="tua-demo-") as directory:
        try:
            code = run(demo, Path(directory) / "state", seed)
        except KeyboardInterrupt:
            console.print("stopped")
            code = 130
    raise typer.Exit(code)


if __name__ == "__main__":
    typer.run(main)
