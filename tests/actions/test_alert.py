"""The JSON that leaves the house: fixed by the interface, so compared whole."""

from __future__ import annotations

import json

import pytest

from actions.alert import Alert, Evidence
from detection.times import iso

ALERT = Alert(
    id="a1",
    sequence=1,
    rule="hot-product",
    rule_version="v1",
    severity="warning",
    status="opened",
    key={"product.name": "Nokia"},
    peak=20,
    peak_exact=True,
    events=20,
    threshold=20,
    window_ms=5000,
    opened_at=1_769_853_603_120,
    resolves_at=1_769_853_607_480,
    message="…",
    evidence=Evidence(topic="products", partition=1, offset=590, timestamp=1_769_853_603_120),
)


def test_an_opened_alert_is_the_json_of_the_interface() -> None:
    assert json.loads(ALERT.to_json()) == {
        "id": "a1",
        "sequence": 1,
        "rule": "hot-product",
        "rule_version": "v1",
        "severity": "warning",
        "status": "opened",
        "key": {"product.name": "Nokia"},
        "peak": 20,
        "peak_exact": True,
        "events": 20,
        "threshold": 20,
        "window_ms": 5000,
        "opened_at": "2026-01-31T10:00:03.120Z",
        "resolves_at": "2026-01-31T10:00:07.480Z",
        "message": "…",
        "evidence": {"topic": "products", "partition": 1, "offset": 590, "timestamp": "2026-01-31T10:00:03.120Z"},
    }


@pytest.mark.parametrize("more", [{"merged_into": "a0"}, {"cancelled": True}, {"reopened": True}])
def test_what_is_rarely_so_is_there_only_when_it_is_so(more: dict[str, object]) -> None:
    alert = ALERT.model_copy(update=more)
    assert set(json.loads(alert.to_json())) - set(json.loads(ALERT.to_json())) == set(more)


def test_reading_an_alert_gives_what_was_written() -> None:
    keys = {"a": "17", "b": 17, "c": 17.5, "d": True, "e": None}
    alert = ALERT.model_copy(update={"key": keys, "reopened": True})
    read = Alert.model_validate_json(alert.to_json())
    assert read == alert
    assert [type(value) for value in read.key.values()] == [type(value) for value in keys.values()]


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (999, "1970-01-01T00:00:00.999Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000 + 5_000, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_are_iso_8601_in_utc_with_milliseconds(time_ms: int, text: str) -> None:
    assert iso(time_ms) == text
