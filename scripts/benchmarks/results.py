"""What a benchmark has found, for machines: the JSON that the report and the plot are made from."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

PACKAGES = ("bytewax", "confluent-kafka", "msgspec")


class Result(msgspec.Struct, frozen=True):
    """One case. `values` are numbers with the unit in their name; None where a figure could not be had, see `failed`.

    `correct`: whether the alerts found were the true ones, where that was looked at.
    """

    kind: str
    case: str
    parameters: dict[str, Any]
    values: dict[str, Any] = {}
    correct: bool | None = None
    failed: str | None = None


class Machine(msgspec.Struct, frozen=True):
    """What the figures depend on. Neither names nor paths of anybody's machine."""

    cores: int
    memory_gb: int
    python: str
    system: str
    versions: dict[str, str]


class Results(msgspec.Struct, frozen=True):
    """A file of results."""

    machine: Machine
    results: list[Result]


def this_machine() -> Machine:
    """The one that this runs on."""
    return Machine(
        cores=os.cpu_count() or 1,
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        versions={name: version(name) for name in PACKAGES},
    )


def write(path: Path | None, results: Sequence[Result]) -> None:
    """Write what is there so far, so that an interrupted run leaves it behind."""
    if path is not None:
        encoded = msgspec.json.encode(Results(this_machine(), list(results)))
        path.write_bytes(msgspec.json.format(encoded, indent=2) + b"\n")


def read(path: Path) -> Results:
    """Raises msgspec.DecodeError for a file that is none of ours, and OSError."""
    return msgspec.json.decode(path.read_bytes(), type=Results)


def exit_code(results: Sequence[Result]) -> int:
    """1 when a case failed or found other alerts than the true ones."""
    return int(any(result.failed is not None or result.correct is False for result in results))


def figures(title: str, results: Sequence[Result]) -> Table:
    """For people: each figure of each case on a line of its own."""
    shown = Table(title=title)
    for heading in ("case", "what", "figure"):
        shown.add_column(heading, justify="right" if heading == "figure" else "left")
    for result in results:
        if result.failed is not None:
            shown.add_row(result.case, f"failed: {result.failed}", "")
        for what, figure in result.values.items():
            shown.add_row(result.case, what.replace("_", " "), f"{figure:,}")
    return shown
