"""Moments as they are written for people and programs."""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import example, given
from hypothesis import strategies as st

from detection.times import EPOCH, LAST_MS, iso


@given(st.integers(0, LAST_MS))
@example(0)
@example(LAST_MS)
@example(59_999)
@example(1_769_853_603_120)
def test_a_moment_reads_back_to_the_millisecond(time_ms: int) -> None:
    text = iso(time_ms)
    assert len(text) == len("2026-01-31T10:00:03.120Z")
    assert text.endswith("Z")
    assert (datetime.fromisoformat(text) - EPOCH) // timedelta(milliseconds=1) == time_ms


def test_what_has_no_four_digit_year_becomes_the_nearest_that_has() -> None:
    assert iso(-1) == iso(0) == "1970-01-01T00:00:00.000Z"
    assert iso(LAST_MS + 1) == iso(LAST_MS) == "9999-12-31T23:59:59.999Z"
