"""The `tua` command. Each subcommand is a function in a module of its own; here they get their names."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

import typer

from tua.audit import dead_letters, deliveries
from tua.backtest import backtest
from tua.check import check
from tua.run import run
from tua.send_test import send_test
from tua.serve import serve

app = typer.Typer(
    name="tua",
    help="Watches user activity on Kafka and alerts the moment something happens too often.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(run)
app.command()(serve)
app.command()(check)
app.command()(backtest)
app.command()(send_test)
app.command()(deliveries)
app.add_typer(dead_letters, name="dead-letters")


def main() -> None:
    """The entry point `tua`. Exit codes: 0 fine, 1 found something wrong, 2 usage."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A product's name may have letters that a terminal's encoding lacks.
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:  # as where it is closed from the start
                sys.stdout.flush()
    except OSError as error:
        if error.filename is not None:  # it is about another file
            raise
        # What is left in the buffer would fail once more at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        typer.echo(f"tua: what there is to say cannot be written to standard output: {error.strerror}", err=True)
        sys.exit(1)
