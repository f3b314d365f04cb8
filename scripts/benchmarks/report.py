"""`scripts/bench report` and `plot`: results as the tables of docs/performance.md and as a drawing.

In the document, what lies between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` is written by this alone: numbers
are never typed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.benchmarks.results import Machine, Result, Results

_MARKED = re.compile(r"(<!-- bench:(\w+) -->\n).*?(<!-- /bench:\2 -->)", re.DOTALL)


def latest(files: Sequence[Results]) -> list[Result]:
    """Of each case the result in the last file that has it, in the order of their first appearance."""
    return list({(result.kind, result.case): result for file in files for result in file.results}.values())


def fill_in(text: str, files: Sequence[Results]) -> str:
    """The document with its tables made anew. Those of a kind that no file has stay as they are.

    Raises ValueError for a mark of no known table.
    """
    results = latest(files)

    def table(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name == "machine":
            made = _machine(files[-1].machine)
        else:
            if name not in _TABLES:
                raise ValueError(f"there is no table '{name}', only {', '.join(_TABLES)} and machine")
            of_kind = [result for result in results if result.kind == name]
            if not of_kind:
                return match[0]
            made = _TABLES[name](of_kind)
        return f"{begin}{made}\n{end}"

    return _MARKED.sub(table, text)


def _machine(machine: Machine) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"Measured with {machine.cores} cores and {machine.memory_gb} GB of memory ({machine.system}), shared by Kafka,"
        f"\nthe job and the bench; Python {machine.python}, {packages}."
    )


def _rows(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    ruler = [":--" if number < left else "--:" for number in range(len(headings))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ruler, *rows))


def _throughput(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        if result.failed is not None:
            rows.append([result.case, "failed", *[""] * 6])
            continue
        v = result.values
        alerts = f"{v['alerts_found']:,} of {v['alerts_true']:,}" + ("" if result.correct else " **wrong**")
        rows.append(
            [
                result.case, f"{result.parameters['orders'] / 1e6:.1f} M", f"{v['events_per_s']:,}",
                f"{v['raw_events_per_s']:,}", f"{v['ratio']:.2f}", f"{v['cpu_s']:.1f}", f"{v['peak_mb']:,}", alerts,
            ]
        )  # fmt: skip
    headings = ("case", "orders", "job, orders/s", "plain loop", "ratio", "CPU s", "peak MB", "alerts found of true")
    return _rows(headings, rows)


def _latency(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        for prefix, what in (("plain", "a plain consumer"), ("alert", "the alert"), ("webhook", "a webhook has it")):
            if result.failed is None:
                figures = [f"{result.values[f'{prefix}_{name}_ms']:.0f}" for name in ("p50", "p99", "p99_9", "max")]
                rows.append([what, f"{result.parameters['rate']:,}", f"{result.values['alerts']:,}", *figures])
    return _rows(("until", "orders/s", "alerts", "p50 ms", "p99 ms", "p99.9 ms", "max ms"), rows)


def _facts(results: Sequence[Result]) -> str:
    """One row for each figure, one column for each case."""
    done = [result for result in results if result.failed is None]
    names = list(dict.fromkeys(name for result in done for name in result.values))
    rows = [
        [name.replace("_", " "), *(f"{result.values[name]:,}" if name in result.values else "" for result in done)]
        for name in names
    ]
    return _rows(("", *(result.case for result in done)), rows)


_TABLES: dict[str, Callable[[Sequence[Result]], str]] = {
    "throughput": _throughput,
    "latency": _latency,
    "memory": _facts,
    "recovery": _facts,
}


def draw(files: Sequence[Results], path: Path) -> None:
    """A bar for each case of throughput, as long as its ratio to the plain loop; PNG or SVG by the file's name.

    Raises ValueError where there is nothing to draw, or for another kind of file.
    """
    import matplotlib as mpl  # noqa: PLC0415 - it takes a second, and only this needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    done = [result for result in latest(files) if result.kind == "throughput" and result.failed is None]
    if not done:
        raise ValueError("no file has results of throughput")
    mpl.rcParams["svg.hashsalt"] = "tua"  # the same results give the same file
    figure = Figure(figsize=(8, 0.8 + 0.32 * len(done)), layout="constrained")
    axes = figure.subplots()
    ratios = [result.values["ratio"] for result in done]
    bars = axes.barh([result.case for result in done], ratios, color="#4878a8")
    axes.bar_label(bars, [f"{result.values['events_per_s'] / 1000:,.0f} k/s" for result in done], padding=4)
    axes.set_xlim(0, 1.2 * max(ratios))
    axes.invert_yaxis()
    axes.set_xlabel("orders a second, as a share of a plain loop over the same topic that decodes nothing")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
