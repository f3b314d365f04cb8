"""`tua check`: every mistake of a configuration at once, or what was understood of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from detection.durations import spoken
from detection.rules import Scalar
from settings import RuleSettings, config_path
from tua.configuration import ConfigOption, load_or_exit, show


def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The configuration to check.", readable=False)
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Find all mistakes of the configuration: file:line:column, what is wrong, how to mend it.

    Exit code 0 without a mistake (notes are none), 1 with one. No secret is read and nothing is connected to.
    """
    if file is not None and config is not None:
        raise typer.BadParameter("give the configuration once: as FILE or by --config", param_hint="FILE")
    path = config_path(file or config)
    settings = load_or_exit(path)
    show(settings.notes)
    rules, actions = _number(len(settings.rules), "rule"), _number(len(settings.actions), "action")
    typer.echo(f"{path}: no mistakes in {rules} and {actions}")
    for rule in settings.rules:
        typer.echo(sentence(rule))


def sentence(rule: RuleSettings) -> str:
    """A rule in plain words: `hot-product: alerts (warning) when one product.name has 20 events within …`."""
    key = rule.key[0] if len(rule.key) == 1 else f"combination of {_listing(rule.key, 'and')}"
    events = "1 event" if rule.count.threshold == 1 else f"{rule.count.threshold} events"
    where = " and ".join(
        f"{path} is {_listing([_said(v) for v in values], 'or')}" for path, values in rule.where.items()
    )
    return (
        f"{rule.name}: alerts ({rule.severity}) when one {key} has {events} within {spoken(rule.count.window_ms)}"
        f" on topic {rule.topic}{f' where {where}' if where else ''}"
        f" -> {', '.join(rule.actions) or 'the alerts topic alone'}"
    )


def _said(value: Scalar) -> str:
    # Text that could be taken for something else ("17", "true", with spaces) is shown as JSON, in quotes.
    plain = isinstance(value, str) and value.isidentifier() and value not in ("true", "false", "null", "and", "or")
    return str(value) if plain else json.dumps(value, ensure_ascii=False)


def _listing(words: list[str] | tuple[str, ...], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
