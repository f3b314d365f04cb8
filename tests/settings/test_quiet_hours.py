"""When it is quiet: hours of a day on the clock of a place, over midnight and over the change to summer time."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from settings import QuietHours

ROOT = Path(__file__).parents[2]
BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = QuietHours(start=(22, 0), end=(7, 0), timezone="Europe/Berlin")
LUNCH = QuietHours(start=(12, 30), end=(13, 0))


def at(text: str, zone: ZoneInfo = BERLIN) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * 1_000)


@pytest.mark.parametrize(
    ("time", "quiet"),
    [
        ("21:59:59.999", False),
        ("22:00", True),
        ("23:59:59", True),
        ("00:00", True),
        ("06:59:59", True),
        ("07:00", False),
    ],
)
def test_a_night_begins_and_ends_to_the_minute(time: str, quiet: bool) -> None:
    assert NIGHT.include(at(f"2026-01-31T{time}")) is quiet


@pytest.mark.parametrize(("time", "quiet"), [("12:29", False), ("12:30", True), ("12:59", True), ("13:00", False)])
def test_hours_within_a_day(time: str, quiet: bool) -> None:
    assert LUNCH.include(at(f"2026-01-31T{time}", ZoneInfo("UTC"))) is quiet


@pytest.mark.parametrize("day", ["2026-03-28", "2026-03-29", "2026-10-25"])
def test_it_is_the_clock_on_the_wall_that_counts_also_when_it_changes(day: str) -> None:
    assert NIGHT.include(at(f"{day}T06:59"))
    assert not NIGHT.include(at(f"{day}T07:00"))


def test_the_zones_are_there_also_where_the_host_has_none() -> None:
    program = "from settings import QuietHours; print(QuietHours(start=(22, 0), end=(7, 0)).include(0))"
    environment = os.environ | {"PYTHONTZPATH": ""}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.stdout == b"True\n", done.stderr
