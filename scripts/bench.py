"""The command line of `scripts/bench`: figures of the job on this machine, on a real Kafka that is started for them.

Each figure stands beside that of a plain consumer in the same run, because a machine's own pace differs more than
anything else. With KAFKA_BOOTSTRAP_SERVERS set, that cluster is used.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from scripts.benchmarks import cases, report
from scripts.benchmarks import latency as latencies
from scripts.benchmarks import memory as memories
from scripts.benchmarks import recovery as recoveries
from scripts.benchmarks import throughput as throughputs
from scripts.benchmarks.cluster import ROOT, Cluster, kafka
from scripts.benchmarks.progress import Bar
from scripts.benchmarks.results import Result, Results, exit_code, figures, read, write

DOCUMENT = ROOT / "docs" / "performance.md"
DRAWING = DOCUMENT.with_suffix(".svg")
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results for machines.")]
FilesArgument = Annotated[list[Path], typer.Argument(metavar="FILE...", help="What --json wrote; the last one wins.")]
CaseOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="A case, or several by their beginning; again for more.")
]


@app.callback()
def bench() -> None:
    """Figures of the job on this machine, on a real Kafka of its own."""


@app.command()
def throughput(
    case: CaseOption = None,
    orders: Annotated[int, typer.Option(min=20_000, help="In each case; ten times that for 1,000,000 keys.")] = (
        2_000_000
    ),
    quick: Annotated[bool, typer.Option(help="A short run, of little meaning: to see that all is well.")] = False,
    json: JsonOption = None,
) -> None:
    """Orders a second of the real job over a filled topic, beside a plain loop. Ends with 1 if an alert is wrong."""
    try:
        chosen = cases.chosen(case or [])
    except KeyError as error:
        names = ", ".join(known.name for known in cases.CASES)
        raise typer.BadParameter(f"no case {error}; there are {names}", param_hint="--case") from None
    count = min(orders, cases.QUICK_ORDERS) if quick else orders
    with place() as (cluster, directory, bar):
        results = collect(throughputs.run(cluster, directory, chosen, count, quick, bar), json)
    end(throughputs.table(results), results)


@app.command()
def latency(
    rate: Annotated[
        list[int] | None, typer.Option(min=40, max=200_000, help="Orders a second; again for more. [1000 and 50000]")
    ] = None,
    seconds: Annotated[int, typer.Option(min=8)] = 60,
    json: JsonOption = None,
) -> None:
    """From an order handed to the producer to its alert, beside the same order's way to a plain consumer."""
    with place() as (cluster, directory, bar):
        rates = rate or [1_000, 50_000]
        runs = (latencies.run(cluster, directory / str(each), each, seconds, bar) for each in rates)
        results = collect(runs, json)
    end(latencies.table(results), results)


@app.command()
def memory(
    keys: Annotated[int, typer.Option(min=10_000, help="How many are live.")] = 1_000_000,
    hot_seconds: Annotated[int, typer.Option(min=1, help="How long a key is hot at 100,000 orders/s.")] = 60,
    json: JsonOption = None,
) -> None:
    """Bytes for a live key and for a hot one, and that a quiet one is freed."""
    with place() as (cluster, directory, bar):
        results = collect(memories.run(cluster, directory, keys, hot_seconds, bar), json)
    end(figures("memory", results), results)


@app.command()
def recovery(
    keys: Annotated[int, typer.Option(min=10_000, help="How many are live.")] = 1_000_000,
    orders_per_key: Annotated[int, typer.Option(min=1, max=40)] = 10,
    seconds: Annotated[int, typer.Option(min=8, help="How long it is watched, idle and at work.")] = 60,
    json: JsonOption = None,
) -> None:
    """How long a job that died or was stopped is away, and what large state costs."""
    with place() as (cluster, directory, bar):
        results = collect(recoveries.run(cluster, directory, keys, orders_per_key, seconds, bar), json)
    end(figures("recovery", results), results)


@app.command(name="report")
def write_report(
    files: FilesArgument,
    into: Annotated[Path, typer.Option(metavar="FILE", help="A document with marks for the tables.")] = DOCUMENT,
) -> None:
    """Write the tables of docs/performance.md."""
    found = read_all(files)
    try:
        into.write_text(report.fill_in(into.read_text(encoding="utf-8"), found), encoding="utf-8")
    except (OSError, ValueError) as error:
        fail(f"{into}: {error}")


@app.command()
def plot(
    files: FilesArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="A name that ends in .svg or .png.")] = DRAWING,
) -> None:
    """Draw throughput as a share of the plain loop's."""
    try:
        report.draw(read_all(files), out)
    except (OSError, ValueError) as error:
        fail(f"{out}: {error}")


@contextmanager
def place() -> Iterator[tuple[Cluster, Path, Bar]]:
    """Kafka, a directory and a progress bar, which are gone with the block."""
    with tempfile.TemporaryDirectory(prefix="tua-bench-") as name, kafka(Path(name)) as cluster, Bar() as bar:
        yield cluster, Path(name), bar


def collect(results: Iterable[Result], path: Path | None) -> list[Result]:
    """All results, written down as they come."""
    found: list[Result] = []
    for result in results:
        found.append(result)
        write(path, found)
    return found


def read_all(files: list[Path]) -> list[Results]:
    """Ends the command where one is no file of results."""
    found = []
    for path in files:
        try:
            found.append(read(path))
        except (OSError, msgspec.MsgspecError) as error:
            fail(f"{path}: {error}")
    return found


def end(table: Table, results: list[Result]) -> NoReturn:
    """Show it, as wide as it needs to be where standard output is no terminal, and end with the exit code."""
    console = Console()
    Console(width=console.width if console.is_terminal else 200).print(table)
    raise typer.Exit(exit_code(results))


def fail(why: str) -> NoReturn:
    typer.echo(why, err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
