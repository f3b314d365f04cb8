"""From HTTP to the alerts: seeded orders through the intake, the real job, and what must follow by brute force."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from actions.registry import ACTION_TYPES
from scripts.load_orders import PRODUCTS, expected, make_orders, paced, post
from settings import load
from tests.support.cluster import Cluster
from tests.support.intake import Intake
from tests.support.job import Job
from tests.support.orders import final, logged, order
from tests.support.receivers import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.kafka


def test_100_seeded_orders_by_http_lead_to_the_alerts_that_must_follow(
    make_job: Callable[..., Job], kafka: Cluster, tmp_path: Path
) -> None:
    job = make_job()
    directory = tmp_path / "intake"
    directory.mkdir()
    intake = {"port": free_port(), "products_topic": job.topic}
    server = Intake(directory, job.config | {"intake": intake}, kafka.bootstrap).start()
    try:
        job.start()
        orders = make_orders(100, PRODUCTS, 34, 60, int(time.time() * 1000))
        lying = list(post(paced(orders), server.url, job.topic))
        rule = load(job.config_path, ACTION_TYPES).rules[0]
        truth = {
            (name, row.opened_at_ms, row.resolves_at_ms) for name, rows in expected(lying, rule).items() for row in rows
        }
        assert truth, "the seed must lead to alerts"

        def resolved() -> bool:
            # Event time goes on with what comes.
            assert server.post(job.topic, order("calm")).status_code == 202
            return len(final(logged(job))) >= len(truth)

        wait_until(resolved, 60, "the alerts to resolve")
        assert job.stop() == 0
        assert final(logged(job)) == truth
    finally:
        server.close()
