"""What waits for a broker that is not there is bounded, and nothing of where it came from is lost."""

from __future__ import annotations

import json

from connectors.rejected import RejectedSink
from detection.intake import Rejected
from settings import KafkaSettings
from tests.support.receivers import free_port


def rejected(offset: int, size: int) -> tuple[str, Rejected]:
    return "products", Rejected("invalid", "not one JSON object", ("hot",), 0, offset, 1_000, b"x" * size)


def sink() -> RejectedSink:
    return RejectedSink(KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}"))


def test_beyond_a_bound_records_wait_without_their_values_and_then_the_source_must_pause() -> None:
    to = sink()
    part = to.build_part("to_rejected", "out00", None)
    written = 0
    while not to.full:
        part.write_batch([rejected(written + n, 60_000) for n in range(100)])
        written += 100
    waiting = [json.loads(message) for message in part.snapshot()]
    assert [item["source"]["offset"] for item in waiting] == list(range(written))
    with_values = sum(bool(item["value_base64"]) for item in waiting)
    assert 40 < with_values < 60, "4 MiB of 80 kB"
    assert all(item["value_bytes"] == 60_000 for item in waiting)
    assert part.bytes == sum(len(message) for message in part.snapshot()) < 17 * 1024 * 1024
    part.close()


def test_a_broker_that_does_not_answer_costs_an_epoch_its_time_only_once() -> None:
    part = sink().build_part("to_rejected", "out00", None)
    part.write_batch([rejected(0, 10)])
    flushes = []

    class Counting:
        """The part's own client, with its waits counted."""

        def __init__(self, client: object) -> None:
            self._client = client

        def __getattr__(self, name: str) -> object:
            return getattr(self._client, name)

        def flush(self, seconds: float) -> int:
            flushes.append(seconds)
            return 1

    part._producer = Counting(part._producer)  # type: ignore[assignment]
    assert [len(part.snapshot()) for _ in range(5)] == [1] * 5
    assert len(flushes) == 1
    part.close()


def test_what_was_not_acknowledged_before_a_stop_waits_after_it() -> None:
    part = sink().build_part("to_rejected", "out00", None)
    part.write_batch([rejected(n, 10) for n in range(3)])
    again = sink().build_part("to_rejected", "out00", part.snapshot())
    assert again.snapshot() == part.snapshot()
    assert again.bytes == part.bytes > 0
    part.close()
    again.close()
