"""`tua run`: the job with its recovery store."""

from __future__ import annotations

import os
import sys

import typer

from dataflows.state_directory import StateDirectory, StateDirectoryError
from settings import config_path
from tua.configuration import ConfigOption, load_or_exit, show

EPOCH_S = 1
"""After a crash about one epoch of records is read again."""


def run(config: ConfigOption = None) -> None:
    """Run the job until SIGTERM or Ctrl-C, which stop it cleanly with exit code 0."""
    path = config_path(config)
    settings = load_or_exit(path)
    show(settings.notes)
    try:
        directory = StateDirectory(settings.state.directory)
    except StateDirectoryError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    os.environ["TUA_CONFIG"] = str(path)
    # In place of this process, so that signals and the exit code are the job's own.
    arguments = ["-m", "bytewax.run", "dataflows.activity_alerts", "-r", str(directory.recovery)]
    os.execv(sys.executable, [sys.executable, *arguments, "-s", str(EPOCH_S), "-b", "0"])
