"""A job with its own topics on the shared cluster, and receivers for what it sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.job import Job, configuration
from tests.support.receivers import HttpReceiver, MailReceiver

QUICK_RETRY = {"delays": ["0s", "200ms", "500ms", "1s"], "give_up": "1h"}


@pytest.fixture
def hook() -> Iterator[HttpReceiver]:
    with HttpReceiver() as receiver:
        yield receiver


@pytest.fixture
def mailbox() -> Iterator[MailReceiver]:
    with MailReceiver() as receiver:
        yield receiver


def webhook(hook: HttpReceiver) -> dict[str, Any]:
    return {"type": "webhook", "url": hook.url, "retry": QUICK_RETRY}


def email(mailbox: MailReceiver) -> dict[str, Any]:
    return {
        "type": "email", "host": "127.0.0.1", "port": mailbox.port, "tls": "none", "from": "alerts@example.com",
        "to": ["support@example.com"], "retry": QUICK_RETRY,
    }  # fmt: skip


@pytest.fixture
def make_job(kafka: Cluster, tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Makes jobs that are killed at the test's end; the products topic is there with two partitions."""
    jobs: list[Job] = []

    def make(*, replication: int = 1, bootstrap: str | None = None, **options: Any) -> Job:
        job = Job(tmp_path, configuration(tmp_path, **options), bootstrap or kafka.bootstrap)
        if not jobs and bootstrap is None:
            kafka.create_topic(job.topic, partitions=2, replication=replication)
        jobs.append(job)
        return job

    yield make
    for job in jobs:
        job.close()
