"""The `tua` command. Each subcommand is a function in a module of its own; here they get their names."""

from __future__ import annotations

import sys
from io import TextIOWrapper

import typer

from tua.backtest import backtest
from tua.check import check
from tua.run import run

app = typer.Typer(
    name="tua",
    help="Watches user activity on Kafka and alerts the moment something happens too often.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(check)
app.command()(backtest)


def main() -> None:
    """The entry point `tua`. Exit codes: 0 fine, 1 found something wrong, 2 usage."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A product's name may have letters that a terminal's encoding lacks.
            stream.reconfigure(errors="backslashreplace")
    app()
