"""`tua serve`: the HTTP intake."""

from __future__ import annotations

import typer

from connectors.client import PropertyError, check_properties
from dataflows.logs import configure_logs
from settings import SecretError, config_path
from tua.configuration import ConfigOption, load_or_exit


def serve(config: ConfigOption = None) -> None:
    """Take events by HTTP until SIGTERM or Ctrl-C, which stop it cleanly with exit code 0."""
    # The web framework takes its time to load, which no other command should wait for.
    from connectors.intake_api import server  # noqa: PLC0415

    settings = load_or_exit(config_path(config))
    configure_logs()
    try:
        check_properties(settings.kafka)
        server.serve(settings)
    except (server.CannotListen, PropertyError, SecretError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
