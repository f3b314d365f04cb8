"""kill -9: nothing lost, nothing invented, repeats only under the same id."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from scripts.ground_truth import intervals_by_key
from tests.integration.conftest import email, webhook
from tests.support.cluster import Cluster
from tests.support.job import Job
from tests.support.orders import burst, calm, facts, final, ms, order, received
from tests.support.receivers import HttpReceiver, MailReceiver

pytestmark = pytest.mark.kafka


class Load(threading.Thread):
    """2,000 orders a second of 60 products, some of which become hot in turn, over two partitions."""

    def __init__(self, kafka: Cluster, topic: str, seconds: int) -> None:
        super().__init__(daemon=True)
        self.kafka, self.topic, self.seconds = kafka, topic, seconds
        self.events: list[tuple[str, int, int]] = []
        self.second = 0
        self.paused = threading.Event()  # never set: its wait paces the load

    def run(self) -> None:
        generator = random.Random(3)
        for second in range(self.seconds):
            self.second = second
            started = time.monotonic()
            base = int(time.time() * 1000) - 1000
            batch = []
            for number in range(2_000):
                hot = generator.random() < 0.03
                name = f"hot-{second // 7}" if hot else f"p{generator.randrange(60 * 40)}"
                partition, timestamp = generator.randrange(2), base + number // 2 - generator.randrange(300)
                self.events.append((name, partition, timestamp))
                batch.append((partition, timestamp, b"k", order(name, number)))
            self.kafka.produce(self.topic, batch)
            self.paused.wait(max(0.0, 1 - (time.monotonic() - started)))


def test_three_kills_under_load_lose_and_invent_nothing(
    make_job: Callable[..., Job], kafka: Cluster, hook: HttpReceiver, mailbox: MailReceiver
) -> None:
    job = make_job(actions={"hook": webhook(hook), "mail": email(mailbox)}).start()
    load = Load(kafka, job.topic, seconds=24)
    load.start()
    for second in (5, 11, 17):
        job.wait_for(lambda second=second: load.second >= second, "the load")
        job.kill()
        job.start()
    load.join()
    expected = intervals_by_key(load.events, 2_000, 5_000, 20)
    assert len(expected) >= 3
    kafka.produce(job.topic, calm(int(time.time() * 1000) + 30_000))
    job.wait_for(lambda: len(final(received(hook))) >= len(expected), "all alerts at the webhook")
    alerts = received(hook)
    ends = {alert["id"] for alert in alerts if alert["status"] == "resolved"}
    job.wait_for(lambda: len({mail.message["Message-ID"] for mail in mailbox.mails}) >= 2 * len(ends), "all mails")
    assert job.stop() == 0
    assert final(alerts) == expected
    assert {alert["id"] for alert in alerts if alert["status"] == "opened"} == ends
    by_id: dict[str, set[tuple[str, int]]] = {}
    for request in hook.requests:
        told = json.loads(request.body)["data"]
        by_id.setdefault(request.headers["webhook-id"], set()).add((told["id"], told["sequence"]))
    assert all(len(told) == 1 for told in by_id.values()), "one id never stands for two messages"
    assert len({told for each in by_id.values() for told in each}) == len(by_id), "a repeat carries the same id"
    mails = Counter(mail.message["Message-ID"] for mail in mailbox.mails)
    assert len(mails) == len(by_id), "the mailbox was told what the webhook was told"


def test_a_key_on_two_partitions_replayed_in_the_other_order_keeps_its_id(
    make_job: Callable[..., Job], kafka: Cluster, hook: HttpReceiver
) -> None:
    """Ten orders on each of two partitions, a threshold of 15 within 5 s:

    partition 0:  0     200     400  ...  1800      first read one after the other: opens at 1800, by partition 1
    partition 1:    100     300     ...     1900    then side by side in event time: opens at 1400, by partition 0
    """
    job = make_job(actions={"hook": webhook(hook)}, rule={"count": {"at_least": 15, "within": "5s"}})
    start = int(time.time() * 1000) - 20_000

    def told() -> list[tuple[str, dict[str, Any]]]:
        """(webhook-id, alert) of what came about the Nokia."""
        requests = [(request.headers["webhook-id"], json.loads(request.body)["data"]) for request in hook.requests]
        return [(name, alert) for name, alert in requests if alert["key"]["product.name"] == "Nokia"]

    # No epoch ends before the kill, so all is read again.
    job.start(epoch_s=600)
    # What is there at the start is read side by side. What follows on an alert of both partitions is new.
    kafka.produce(job.topic, burst("iPad", start - 10_000, 8) + burst("iPad", start - 10_000, 8, partition=1))
    job.wait_for(lambda: hook.requests, "the first alert")
    kafka.produce(job.topic, burst("Nokia", start, 10, partition=0, every_ms=200))
    kafka.produce(job.topic, burst("Nokia", start + 100, 10, partition=1, every_ms=200))
    job.wait_for(told, "the alert")
    job.kill()
    opened = told()[0][1]
    assert (opened["evidence"]["partition"], ms(opened["opened_at"])) == (1, start + 1800)
    job.start(epoch_s=1)
    kafka.produce(job.topic, calm(start + 60_000))
    job.wait_for(lambda: final(alert for _, alert in told()), "the end of the alert")
    assert job.stop() == 0
    # The kill may have come between the webhook's answer and the note of it: then the opening came twice, as one.
    by_id = dict(told())
    assert all(alert == by_id[name] for name, alert in told())
    opened, resolved = by_id.values()
    assert resolved["id"] == opened["id"]
    assert facts(resolved) == ("Nokia", start + 1400, start + 500 + 5_000)
