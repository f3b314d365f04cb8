"""`tua run`: the job with its recovery store, as one process or as a local cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from connectors.source import SLOTS
from dataflows.logs import configure_logs
from dataflows.state_directory import StateDirectory, StateDirectoryError
from settings import config_path
from tua.configuration import ConfigOption, load_or_exit, show
from tua.supervisor import FORGOTTEN_S, Supervisor

EPOCH_S = 1
"""After a crash about one epoch of records is read again."""
RESTARTS = 5

ProcessesOption = Annotated[
    int, typer.Option(min=1, max=SLOTS, metavar="N", help="How many, which share the partitions: one for each core.")
]
RestartsOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="When a process dies, start all again up to N times, with growing delays; after"
        f" {FORGOTTEN_S / 60:.0f} minutes without a death the count begins anew.",
        show_default=f"{RESTARTS} with several processes, else 0",
    ),
]


def run(config: ConfigOption = None, processes: ProcessesOption = 1, restarts: RestartsOption = None) -> None:
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
    command = [sys.executable, "-m", "bytewax.run", "dataflows.activity_alerts", "-r", str(directory.recovery)]
    command += ["-s", str(EPOCH_S), "-b", "0"]
    if restarts is None:
        restarts = 0 if processes == 1 else RESTARTS
    if processes == 1 and restarts == 0:
        # In place of this process, so that signals and the exit code are the job's own.
        os.execv(sys.executable, command)

    def commands(ports: Sequence[int]) -> list[list[str]]:
        addresses = ";".join(f"127.0.0.1:{port}" for port in ports)
        return [[*command, "-i", str(number), "-a", addresses] for number in range(len(ports))]

    configure_logs()
    raise typer.Exit(Supervisor(processes, commands if processes > 1 else lambda _: [command], restarts).run())
