#!/usr/bin/env python3
"""Sends seeded orders to the products topic, and prints the alerts that must follow.

    .venv/bin/python scripts/load_orders.py --orders 100 --products iPhone,"Samsung Galaxy",Nokia,iPad --seed 34
    .venv/bin/python scripts/load_orders.py --http http://127.0.0.1:8080      # through `tua serve`

Where to, and what a rule's threshold is, comes from tua.yaml. The same seed gives the same orders; `--rate` is orders
a second, in event time and in real time.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import httpx2
import msgspec
import typer
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from detection.times import iso
from scripts.ground_truth import Episode, episodes
from settings import KafkaSettings, RuleSettings, SecretError, Settings, config_path
from tua.configuration import ConfigOption, load_or_exit

WRITTEN_FROM_MS = 1_769_853_600_000  # 2026-01-31T10:00:00Z: what is written is the same on every day
API_KEY_VARIABLE = "TUA_INTAKE_KEY"
WHAT_RULE = "It needs `key: product.name`, no `where` but `action: add`, and `event_time: record`"
_INSIST_S = 60.0
PRODUCTS = ("iPhone", "Samsung Galaxy", "Nokia", "iPad")


class Order(NamedTuple):
    """One message of the shop. `name` is None for a `delete`, which is no order and never counts."""

    timestamp_ms: int
    name: str | None
    key: bytes
    value: bytes


def make_orders(count: int, products: Iterable[str], seed: int, rate: float, start_ms: int) -> list[Order]:
    """`count` orders of products by chance, `rate` a second from `start_ms` on; about one message in 20 is a delete."""
    generator = random.Random(seed)
    names = tuple(products)
    orders: list[Order] = []
    added = 0
    while added < count:
        timestamp_ms = start_ms + int(added * 1000 / rate)
        key = str(len(orders) + 1)
        if generator.random() < 0.05:
            orders.append(_message(timestamp_ms, key, None, None))
        else:
            orders.append(_message(timestamp_ms, key, generator.choice(names), round(generator.uniform(50, 900), 2)))
            added += 1
    return orders


def _message(timestamp_ms: int, key: str, name: str | None, price: float | None) -> Order:
    value = {"product": {"id": key, "name": name, "price": price}, "action": "delete" if name is None else "add"}
    return Order(timestamp_ms, name, key.encode(), msgspec.json.encode(value))


def expected(orders: Iterable[Order], rule: RuleSettings) -> dict[str, list[Episode]]:
    """The episodes of each product, by brute force. No order may be late."""
    timestamps: dict[str, list[int]] = defaultdict(list)
    for order in orders:
        if order.name is not None:
            timestamps[order.name].append(order.timestamp_ms)
    return {name: episodes(s, rule.count.window_ms, rule.count.threshold) for name, s in sorted(timestamps.items())}


def paced(orders: Iterable[Order]) -> Iterator[Order]:
    """Each order when its time has come."""
    for order in orders:
        time.sleep(max(0.0, order.timestamp_ms / 1000 - time.time()))
        yield order


def rule_of_orders(settings: Settings) -> RuleSettings | None:
    """The first rule that counts every order, by the name of its product, at the time of its record."""
    for rule in settings.rules:
        every = all(path == "action" and "add" in values for path, values in rule.where.items())
        if every and rule.key == ("product.name",) and settings.topics[rule.topic].time_field is None:
            return rule
    return None


def send(
    orders: Iterable[Order],
    producer: Producer,
    topic: str,
    acknowledged: Callable[[Message], None] | None = None,
) -> None:
    """Produce all, and return when a broker has them. Raises RuntimeError for one that it does not take."""
    refused: list[KafkaError] = []

    def on_delivery(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            refused.append(error)
        elif acknowledged is not None:
            acknowledged(message)

    try:
        for order in orders:
            producer.produce(topic, order.value, order.key, timestamp=order.timestamp_ms, on_delivery=on_delivery)
            producer.poll(0)
        waiting = producer.flush(30)
    except SystemError as error:
        # Ctrl-C while a delivery report runs: the client loses what Python raises there.
        raise KeyboardInterrupt from error
    if refused or waiting:
        raise RuntimeError(
            f"{len(refused) + waiting} orders were not taken: {refused[0].str() if refused else 'no answer'}"
        )


def post(orders: Iterable[Order], url: str, topic: str) -> Iterator[Order]:
    """Send each to the HTTP intake at `url`, and yield it with the timestamp that its record got there.

    Raises RuntimeError when an order is not acknowledged within a minute of trying again.
    """
    key = os.environ.get(API_KEY_VARIABLE)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    with httpx2.Client(base_url=url, headers=headers, timeout=10) as client:
        for order in orders:
            # The same key in each attempt: an order whose answer was lost counts once.
            again = {"Idempotency-Key": str(uuid.uuid4())}
            answer = _insistently(
                lambda order=order, again=again: client.post(f"/api/events/{topic}", content=order.value, headers=again)
            )
            yield order._replace(timestamp_ms=answer["timestamp"])


def _insistently(attempt: Callable[[], httpx2.Response]) -> Any:
    """What an intake answers with 202. A time-out, 429 and 503 are tried again."""
    given_up = time.monotonic() + _INSIST_S
    while True:
        try:
            answer = attempt()
        except (httpx2.ConnectError, httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise RuntimeError(f"no intake at this URL: {error}; is it running (tua serve)?") from None
        except httpx2.TransportError as error:
            wait_s, said = 1.0, f"no answer: {error}"
        else:
            if answer.status_code == 202:
                return answer.json()
            wait_s, said = float(answer.headers.get("Retry-After", 1)), f"{answer.status_code}: {answer.text[:300]}"
            if answer.status_code not in (429, 503):
                raise RuntimeError(f"the intake does not take an order: {said}")
        if time.monotonic() > given_up:
            raise RuntimeError(f"the intake does not take an order: {said}")
        time.sleep(wait_s)


def main(
    orders: Annotated[int, typer.Option(min=1, help="How many orders.")] = 100,
    products: Annotated[str, typer.Option(help="Their products, by commas.")] = ",".join(PRODUCTS),
    seed: Annotated[int, typer.Option(help="The same seed gives the same orders.")] = 34,
    rate: Annotated[float, typer.Option(min=0.001, help="Orders a second.")] = 15.0,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write them for `tua backtest`, and send nothing.")
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(metavar="URL", help=f"Send them to this HTTP intake, with the API key in {API_KEY_VARIABLE}."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Sends seeded orders to the products topic, and prints the alerts that must follow."""
    path = config_path(config)
    settings = load_or_exit(path)
    rule = rule_of_orders(settings)
    if rule is None:
        fail(f"{path}: no rule is about these orders. {WHAT_RULE}")

    def make(start_ms: int) -> list[Order]:
        return make_orders(orders, products.split(","), seed, rate, start_ms)

    if write:
        made = make(WRITTEN_FROM_MS)
        try:
            write.write_bytes(b"".join(backtest_line(order) for order in made))
        except OSError as error:
            fail(f"{write} can't be written: {error.strerror}")
    elif http:
        try:
            made = post_with_bar(make(int(time.time() * 1000)), http, rule.topic)
        except RuntimeError as error:
            fail(str(error))
    else:
        try:
            producer = reach(settings.kafka, rule.topic)
            made = make(int(time.time() * 1000))
            send_with_bar(made, producer, rule.topic)
        except (RuntimeError, SecretError) as error:
            fail(str(error))
    Console().print(table(expected(made, rule), rule))


def fail(why: str) -> NoReturn:
    Console(stderr=True).print(why, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)


def reach(kafka: KafkaSettings, topic: str) -> Producer:
    """A producer that has found brokers, and the topic on them. Raises RuntimeError, and SecretError."""
    properties = {**kafka.client_properties(), "acks": "all", "enable.idempotence": True, "log_level": 0}
    try:
        producer = Producer(properties)
        there = producer.list_topics(timeout=5).topics
    except KafkaException as error:
        hint = f"brokers: {kafka.bootstrap_servers}; is it running, and is `kafka` in the configuration right?"
        raise RuntimeError(f"no connection to Kafka: {error.args[0].str()} ({hint})") from None
    if topic not in there:
        raise RuntimeError(f"Kafka has no topic '{topic}' yet: the job makes it, so start that first (tua run)")
    return producer


def send_with_bar(orders: list[Order], producer: Producer, topic: str) -> None:
    """Each order when its time has come; the bar counts those that a broker has."""
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("orders", total=len(orders))
        send(paced(orders), producer, topic, lambda _: progress.advance(task))


def post_with_bar(orders: list[Order], url: str, topic: str) -> list[Order]:
    """Each order when its time has come, by HTTP; as they lie on the topic, at the intake's times."""
    with Progress(console=Console(stderr=True)) as progress:
        return list(progress.track(post(paced(orders), url, topic), total=len(orders), description="orders"))


def backtest_line(order: Order) -> bytes:
    """An order as a line of the file that `tua backtest` reads."""
    line = {"timestamp": order.timestamp_ms, "key": order.key.decode(), "value": msgspec.Raw(order.value)}
    return msgspec.json.encode(line) + b"\n"


def table(found: dict[str, list[Episode]], rule: RuleSettings) -> Table:
    """What must follow, for people."""
    columns = Table(title=f"must follow by rule {rule.name}")
    for heading in ("product", "opened (UTC)", "resolves (UTC)", "peak", "events"):
        columns.add_column(heading, justify="right" if heading in ("peak", "events") else "left")
    for name, rows in found.items():
        for row in rows:
            times = (iso(time_ms)[11:-1] for time_ms in (row.opened_at_ms, row.resolves_at_ms))
            columns.add_row(name, *times, str(row.peak), str(row.events))
        if not rows:
            columns.add_row(name, "no alert", "", "", "")
    return columns


if __name__ == "__main__":
    typer.run(main)
