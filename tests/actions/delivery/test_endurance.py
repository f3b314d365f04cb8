"""A day without a target, and fifty thousand alerts at once. The clock is the tests' own."""

from __future__ import annotations

import gc
import json
import os
import re
import time
import tracemalloc
from collections import defaultdict
from pathlib import Path

from actions.delivery.dispatcher import Dispatcher
from settings import FloodSettings, RetrySettings
from tests.actions.conftest import Start
from tests.support.delivering import Broker, action, email_action, opened, resolved, rows, settings
from tests.support.receivers import HttpReceiver, MailReceiver, free_port
from tests.support.waiting import wait_until

MINUTE = 60_000
DAY = 24 * 60 * MINUTE


def resident_bytes() -> int:
    """What this process has in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


class Clock:
    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.ms


def test_an_action_that_is_down_for_a_day_delays_no_other_and_is_told_everything_in_order(
    start: Start, web: HttpReceiver, mail: MailReceiver, broker: Broker, tmp_path: Path
) -> None:
    clock, port = Clock(), free_port()
    down = action("webhook", url=f"http://127.0.0.1:{port}/", retry=RetrySettings(give_up=2 * DAY))
    run = start({"down": down, "web": action("webhook", url=web.url), "mail": email_action(mail.port)}, now_ms=clock)
    ages: dict[str, list[int]] = defaultdict(list)
    memory = []
    tracemalloc.start()
    alerts = DAY // (10 * MINUTE)
    for n in range(alerts):
        life = opened(run.settings, f"a{n}", f"P{n}", n * 100_000)
        run.dispatcher.put([life, resolved(life)])
        # Nobody waits longer for the one that is down: what is made now is there before the clock moves on.
        wait_until(lambda: len(web.requests) == len(mail.mails) == len(broker.messages) == 2)
        for receiver in (web.requests, mail.mails, broker.messages):
            receiver.clear()
        # The receiver's mail parser fills Python's cache of patterns, one for each boundary; garbage is not held.
        re.purge()
        gc.collect()
        memory.append(tracemalloc.get_traced_memory()[0])
        clock.ms += 10 * MINUTE
    tracemalloc.stop()
    wait_until(lambda: run.dispatcher.pending() == 2 * alerts)
    for row in rows(tmp_path / "state"):
        if row["action"] in ("web", "mail"):
            ages[row["action"]].append(row["ended_ms"] - row["made_at_ms"])
    assert set(ages["web"] + ages["mail"]) <= {0, 10 * MINUTE}, "the second, where the note of it came after the step"
    quarter = alerts // 4
    print(memory[::8])
    assert min(memory[-quarter:]) < min(memory[quarter : 2 * quarter]) + 200_000

    with HttpReceiver(port) as back:
        run.dispatcher.put([opened(run.settings, "fresh", "fresh", 10**9)])
        wait_until(lambda: run.dispatcher.pending() == 0, 60)
    told: dict[str, list[str]] = defaultdict(list)
    for request in back.requests:
        alert = json.loads(request.body)["data"]
        told[alert["id"]].append(alert["status"])
    assert told.pop("fresh") == ["opened"]
    assert told == {f"a{n}": ["opened", "resolved"] for n in range(alerts)}


def test_fifty_thousand_alerts_at_once_are_a_summary_to_people_and_stop_nobody(
    mail: MailReceiver, tmp_path: Path
) -> None:
    clock, published = Clock(), 0

    async def publish(topic: str, key: bytes, value: bytes) -> None:
        nonlocal published
        published += 1

    made = settings(tmp_path, {"mail": email_action(mail.port, flood=FloodSettings())})
    dispatcher = Dispatcher(made, publish, now_ms=clock)
    before, most = resident_bytes(), 0
    began = time.monotonic()
    try:
        for first in range(0, 50_000, 1_000):
            dispatcher.put([opened(made, str(n), f"P{n}") for n in range(first, first + 1_000)])
            most = max(most, resident_bytes())
        took_s = time.monotonic() - began
        wait_until(lambda: published == 50_000, 120)
        sent_s = time.monotonic() - began
        clock.ms += MINUTE
        wait_until(lambda: len(mail.mails) == 31)
        wait_until(lambda: dispatcher.pending() == 0)
    finally:
        dispatcher.close(0)
    summary = mail.mails[-1].message
    assert summary["Subject"] == "[warning] hot: 49970 more alerts"
    text = summary.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert "49970 more alerts of hot within 1 minute, not told one by one" in text
    grown = most - before
    assert grown < 50_000_000
    print(
        f"\n50,000 alerts: in the outbox in {took_s:.1f} s, on the topic in {sent_s:.1f} s, {grown / 1e6:.0f} MB more"
    )
