"""The consumer without a broker: what it makes of time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from connectors.poller import Poller
from detection.rules import Topic
from settings import KafkaSettings
from tests.support.receivers import free_port


def test_a_job_that_stood_still_does_not_take_what_it_has_not_seen_for_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a laptop that sleeps. The first look after it finds nothing yet, for the client wakes up too."""
    now = SimpleNamespace(s=100.0)
    kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}")
    poller = Poller(kafka, {"products": Topic("products")}, {"products": 1}, {}, lambda: 0)
    for module in ("poller", "positions"):
        monkeypatch.setattr(f"connectors.{module}.time", SimpleNamespace(monotonic=lambda: now.s))
    poller.looked_s = 100.0
    partition = poller.add("products", 0, (1, 9_000, None))

    def idle_after(seconds: float) -> bool:
        now.s += seconds
        poller.poll()
        partition.end_is(1, now.s, now.s)
        return partition.is_idle(poller.looked_s)

    assert [idle_after(1.5) for _ in range(20)] == [*[False] * 19, True], "quiet for the idle timeout, 30 s"
    assert not idle_after(5.0), "but not looked at for 5 s"


def test_a_process_that_reads_no_partition_yet_hears_of_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}")
    poller = Poller(kafka, {"products": Topic("products")}, {"products": 1}, {}, lambda: 0)
    looks: list[float] = []
    monkeypatch.setattr(poller._positions, "look_after", looks.append)
    poller.poll()
    assert looks
    poller.close()
