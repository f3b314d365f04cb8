"""The demo: the real job in a process of its own, an embedded broker, and receivers that show what they get.

100 seeded orders of four products are sent in real time. What must follow is computed by brute force and stands, at
the end, beside what arrived. Exit code 0 when they agree, 1 when not, 130 on Ctrl-C. With `--keep` nothing is sent:
the HTTP intake is started too, and all of it stays until Ctrl-C, which then is no failure.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import typer
from confluent_kafka import Producer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from scripts.demo_record import Demo
from scripts.ground_truth import Episode
from scripts.load_orders import PRODUCTS, WHAT_RULE, Order, expected, fail, make_orders, paced, rule_of_orders, send
from scripts.receivers import MailServer
from scripts.stack import ROOT, embedded_broker, is_ready, start_intake, start_job, stop, wait
from scripts.webhook_receiver import WebhookReceiver
from tua.configuration import load_or_exit

CONFIG = ROOT / "tua.yaml"
RATE = 15.0
CALM_RATE = 3.0
WAIT_S = 30.0
CURL = (
    "curl -X POST {url}/api/products -H 'Content-Type: application/json'"
    """ -d '{{"id": 17, "name": "Nokia", "price": 153.94}}'"""
)


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


def watched_job(demo: Demo, state: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """The job, of which the demo reads what it writes."""
    demo.console.print("starting the job: python -m bytewax.run dataflows.activity_alerts")
    job = start_job(state, environment)
    for read, stream in ((demo.read_output, job.stdout), (demo.read_log, job.stderr)):
        threading.Thread(target=read, args=(stream,), daemon=True).start()
    return job


def run(demo: Demo, state: Path, seed: int) -> int:
    owner, bootstrap = embedded_broker()
    environment = receivers(demo, bootstrap)
    job = watched_job(demo, state, environment)
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


def receivers(demo: Demo, bootstrap: str) -> dict[str, str]:
    """Start them; the environment that leads job and intake to them and to the broker."""
    mail, web = MailServer(demo.on_mail), WebhookReceiver(demo.on_post)
    demo.console.print(f"embedded broker {bootstrap}, mail server :{mail.port}, webhooks :{web.port}")
    return {
        "TUA_BOOTSTRAP_SERVERS": bootstrap,
        "TUA_SMTP_HOST": "127.0.0.1",
        "TUA_SMTP_PORT": str(mail.port),
        "TUA_WEBHOOK_URL": f"http://127.0.0.1:{web.port}/alerts",
        "TUA_WEBHOOK_SECRET": demo.secret,
    }


def keep(demo: Demo, state: Path) -> int:
    """The whole system until Ctrl-C, for whoever wants to send orders by hand."""
    owner, bootstrap = embedded_broker()
    environment = receivers(demo, bootstrap)
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as ends:
        ends.callback(owner.flush, 0)  # the broker lives as long as its owner
        try:
            job = watched_job(demo, state, environment)
            ends.callback(stop, job)
            demo.console.print(f"starting the intake on port {port}: tua serve")
            intake = start_intake({**environment, "TUA_INTAKE_PORT": str(port)})
            ends.callback(stop, intake)
            for stream in (intake.stdout, intake.stderr):
                threading.Thread(target=demo.read_log, args=(stream,), daemon=True).start()
            if not wait(demo.watching.is_set, job, WAIT_S):
                return _failed(demo, "the job did not start")
            if not wait(lambda: is_ready(url), intake, WAIT_S):
                return _failed(demo, "the intake did not start")
            count = demo.rule.count
            demo.console.print(
                f"Mails, webhooks and the log are shown here; the API is described at {url}/openapi.json"
            )
            demo.console.print(
                f"Paste this {count.threshold} times within {count.window_ms / 1000:g} s for an alert:\n"
            )
            demo.console.print(CURL.format(url=url), markup=False)
            demo.console.print("\nCtrl-C ends it.")
            while job.poll() is None and intake.poll() is None:
                time.sleep(0.2)
            return _failed(demo, f"{'the intake' if job.poll() is None else 'the job'} ended")
        except KeyboardInterrupt:
            demo.console.print("stopped")
            return 0


def _free_port() -> int:
    """The intake's usual port, or another where that is taken."""
    for wanted in (8080, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AssertionError("there is always a free port")


def _spell(orders: list[Order]) -> str:
    deletes = sum(order.name is None for order in orders)
    return f"{len(orders) - deletes} orders and {deletes} delete{'' if deletes == 1 else 's'}"


def _counted(orders: list[Order], progress: Progress, task: Any) -> Iterator[Order]:
    for order in paced(orders):
        progress.advance(task)
        yield order


def _failed(demo: Demo, what: str) -> int:
    demo.console.print(f"[red]{what}[/]; the job's log:")
    demo.console.print("".join(demo.said[-30:]), markup=False, end="")
    return 1


def main(
    seed: int = typer.Option(34, help="The same seed gives the same orders."),
    keep_running: bool = typer.Option(False, "--keep", help="Send nothing; wait for orders by HTTP until Ctrl-C."),
) -> None:
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
            state = Path(directory) / "state"
            code = keep(demo, state) if keep_running else run(demo, state, seed)
        except KeyboardInterrupt:
            console.print("stopped")
            code = 130
    raise typer.Exit(code)


if __name__ == "__main__":
    typer.run(main)
