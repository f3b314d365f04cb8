"""`tua deliveries` and `tua dead-letters`: what was sent, when, with what answer; and once more what was given up."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from actions.alert import Summary
from actions.base import read_told
from actions.delivery.audit import Audit, PastDelivery, Wanted
from actions.delivery.audit import redrive as redriven
from actions.delivery.dispatcher import FILE_NAME
from actions.delivery.store import OutboxError
from actions.delivery.topic import DEAD_LETTERS
from actions.message import listed
from actions.text import cut, escaped
from settings import Settings, config_path
from settings.problems import did_you_mean
from tua.configuration import ConfigOption, load_or_exit

_NEWEST = 100
_ANSWER_LENGTH = 70
_KEY_LENGTH = 40


class Format(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"


AlertOption = Annotated[
    str | None, typer.Option("--alert", metavar="ID", help="Only of this alert.", show_default=False)
]
ActionOption = Annotated[
    str | None, typer.Option("--action", metavar="NAME", help="Only of this action.", show_default=False)
]
FormatOption = Annotated[Format, typer.Option("--format", help="A table, or JSON Lines with every attempt.")]
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit", min=1, metavar="N", help=f"The newest N (table: {_NEWEST}; jsonl: all).", show_default=False
    ),
]

dead_letters = typer.Typer(no_args_is_help=True, help="What was given up: list it, or send it once more.")


def deliveries(
    alert: AlertOption = None,
    action: ActionOption = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only what was given up or fails at the moment.")] = False,
    format_: FormatOption = Format.TABLE,
    limit: LimitOption = None,
    config: ConfigOption = None,
) -> None:
    """What was sent, when, and what the other side answered; also while the job runs.

    Without --action, what goes to the job's own topics is left out.
    """
    settings = load_or_exit(config_path(config))
    with _opened(settings) as audit:
        _show(audit, Wanted(alert, action, failed=failed), format_, limit)


@dead_letters.command("list")
def list_(
    alert: AlertOption = None,
    action: ActionOption = None,
    format_: FormatOption = Format.TABLE,
    limit: LimitOption = None,
    config: ConfigOption = None,
) -> None:
    """What was given up, and why."""
    settings = load_or_exit(config_path(config))
    with _opened(settings) as audit:
        _show(audit, Wanted(alert, action, dead=True), format_, limit)


@dead_letters.command()
def redrive(
    alert: AlertOption = None,
    action: ActionOption = None,
    all_: Annotated[bool, typer.Option("--all", help="Everything that was given up.")] = False,
    overtaken: Annotated[
        bool, typer.Option("--overtaken", help="Also what comes late: its recipient knows already how it went on.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Send what was given up once more, to where the configuration says now.

    A running job takes it within seconds, else the next one at its start.
    """
    if not all_ and alert is None and action is None:
        raise typer.BadParameter("say which by --alert or --action, or give --all", param_hint="redrive")
    settings = load_or_exit(config_path(config))
    wanted = Wanted(alert, action, dead=True)
    with _opened(settings) as audit:
        gone = {name: count for name, count in audit.dead_actions(wanted).items() if name not in settings.actions}
        now_ms = time.time_ns() // 1_000_000
        again, late = redriven(_path(settings), wanted, frozenset(settings.actions), now_ms, overtaken)
    when = "within seconds by a running job, or at its start"
    typer.echo(f"{_number(again, 'dead letter')} will be sent once more: {when}")
    if late:
        why = "whose recipient was told since how the alert went on (--overtaken sends them too)"
        typer.echo(f"left alone: {_number(late, 'dead letter')} {why}", err=True)
    for name, count in gone.items():
        hint = did_you_mean(name, settings.actions)
        left = f"left alone: {_number(count, 'dead letter')} of '{name}', which is no longer configured"
        typer.echo(f"{left} ({hint})", err=True)
    if gone or late:
        raise typer.Exit(1)


@contextmanager
def _opened(settings: Settings) -> Iterator[Audit]:
    try:
        audit = Audit(_path(settings))
        try:
            yield audit
        finally:
            audit.close()
    except OutboxError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _path(settings: Settings) -> Path:
    return settings.state.directory / FILE_NAME


def _show(audit: Audit, wanted: Wanted, format_: Format, limit: int | None) -> None:
    if format_ is Format.JSONL:
        for delivery in audit.deliveries(wanted, limit):
            # As the log action does: JSON reads the escapes back.
            sys.stdout.buffer.write(escaped(msgspec.json.encode(delivery).decode()).encode() + b"\n")
        sys.stdout.flush()
        return
    newest = limit or _NEWEST
    total = audit.count(wanted)
    if total:
        _print(audit.deliveries(wanted, newest))
    shown = f"the newest {newest} of " if total > newest else ""
    typer.echo(f"{shown}{_number(total, 'delivery', 'deliveries')}", err=True)


def _print(found: Iterator[PastDelivery]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("made (UTC)", "alert", "what", "action", "to", "state"):
        table.add_column(name, overflow="fold")
    table.add_column("tries", justify="right")
    table.add_column("last answer", overflow="fold")
    for one in found:
        table.add_row(
            _time(one.made_at),
            escaped(one.alert),
            _what(one),
            one.action,
            escaped(one.recipient),
            _state(one),
            str(one.attempts),
            cut(escaped(one.last_answer or ""), _ANSWER_LENGTH),
        )
    Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def _state(one: PastDelivery) -> str:
    if one.due_at is not None:
        return f"waits until {_time(one.due_at)}"
    return f"{one.state}: {one.reason}" if one.reason else one.state


def _what(one: PastDelivery) -> str:
    body = bytes(one.told)
    try:
        if one.action == DEAD_LETTERS:
            body = bytes(msgspec.json.decode(body, type=dict[str, msgspec.Raw])["alert"])
        told = read_told(body)
    except (msgspec.MsgspecError, ValueError, KeyError):
        return "(cannot be read)"
    if isinstance(told, Summary):
        return escaped(f"{told.rule}: {told.alerts} more alerts")
    return escaped(f"{told.rule}: {cut(listed(told.key), _KEY_LENGTH)} {told.status}")


def _time(text: str) -> str:
    return text.removesuffix("Z").replace("T", " ")


def _number(count: int, word: str, several: str | None = None) -> str:
    return f"{count} {word if count == 1 else several or word + 's'}"
