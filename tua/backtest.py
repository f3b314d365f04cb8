"""`tua backtest`: what the rules would have said about recorded events."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from actions.delivery.compose import cooldown_of
from actions.delivery.identity import key_text
from actions.delivery.noise import spared as spared_by
from detection.durations import spoken
from detection.intake import Rejected
from detection.replay import replay
from detection.rules import CountRule, Scalar
from detection.times import iso
from detection.transitions import Transition
from settings import Settings, config_path
from tua.configuration import ConfigOption, load_or_exit
from tua.event_file import EventFile, EventFileError

_DETAILS = 1000
_NO_TEXT = re.compile(r"-?[0-9.]+([eE][-+]?[0-9]+)?|true|false|null")


class Format(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"


def backtest(
    events: Annotated[Path, typer.Option("--events", metavar="FILE.jsonl", help="Recorded events, a JSON a line.")],
    format_: Annotated[Format, typer.Option("--format", help="How alerts are written.")] = Format.TABLE,
    rejects: Annotated[
        Path | None, typer.Option("--rejects", metavar="FILE", help="Write the records that do not count to this file.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Say which alerts the rules would have raised on recorded events. Runs the job's own code; needs no broker."""
    settings = load_or_exit(config_path(config))
    rules = settings.detection_rules()
    topics = [topic.detection_topic(name) for name, topic in settings.topics.items()]
    counts: Counter[str] = Counter()
    details: Counter[str] = Counter()
    try:
        with ExitStack() as stack:
            file = stack.enter_context(closing(EventFile(events, [topic.name for topic in topics])))
            if rejects is not None and rejects.exists() and rejects.samefile(events):
                raise typer.BadParameter("this is the file of the events", param_hint="--rejects")
            out = stack.enter_context(rejects.open("wb")) if rejects else None

            def on_rejected(topic: str, rejected: Rejected) -> None:
                counts[rejected.reason] += 1
                if rejected.reason == "invalid" and len(details) < _DETAILS:
                    details[rejected.detail] += 1
                if out is not None:
                    out.write(_rejected_line(topic, rejected))

            episodes, matched = replay(rules, topics, file.sizes, file.records(), on_rejected)
        spared = _spared(episodes, settings)
        if format_ is Format.JSONL:
            for line in _lines(episodes, {rule.name: rule for rule in rules}):
                sys.stdout.buffer.write(line)
            sys.stdout.flush()
        else:
            _show(episodes, settings, spared)
    except BrokenPipeError:
        raise  # as from `| head`, which is no mistake to tell of
    except (EventFileError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    _explain(sum(file.sizes.values()), episodes, matched, counts, details)
    for rule, ids in spared.items():
        typer.echo(f"{rule}: its cooldown spares people {_number(len(ids), 'alert')} of these", err=True)


def _explain(
    events: int, episodes: list[Transition], matched: dict[str, int], counts: Counter[str], details: Counter[str]
) -> None:
    """What became of the events, on standard error: also why there may be no alert."""
    rejected = ", ".join(f"{counts[reason]} {reason}" for reason in ("late", "future", "invalid") if counts[reason])
    found = f"{_number(events, 'event')}, {_number(len(episodes), 'alert')}"
    typer.echo(f"{found}; records that do not count: {rejected or 'none'}", err=True)
    for detail, _ in details.most_common(1):
        typer.echo(f"most often: {_printable(detail)}", err=True)
    alerted = {episode.rule for episode in episodes}
    for rule, count in matched.items():
        if rule not in alerted:
            typer.echo(f"{rule}: no alert; {count} of the events pass its `where` and have its key", err=True)


def _spared(episodes: list[Transition], settings: Settings) -> dict[str, set[str]]:
    """For each rule with a cooldown: the ids of the alerts that nobody would have been told of."""
    result = {}
    for rule in settings.rules:
        if (cooldown := cooldown_of(rule)) is None:
            continue
        by_key: dict[str, list[Transition]] = {}
        for episode in episodes:
            if episode.rule == rule.name:
                by_key.setdefault(key_text(episode), []).append(episode)
        result[rule.name] = {
            episode.alert_id
            for lives in by_key.values()
            for episode, is_spared in zip(lives, spared_by(cooldown, lives), strict=True)
            if is_spared
        }
    return result


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _lines(episodes: list[Transition], rules: dict[str, CountRule]) -> Iterator[bytes]:
    for episode in episodes:
        yield _line(
            {
                "id": episode.alert_id,
                "rule": episode.rule,
                "key": dict(zip(rules[episode.rule].key, episode.key, strict=True)),
                "opened_at_ms": episode.opened_at_ms,
                "resolves_at_ms": episode.resolves_at_ms,
                "peak": episode.peak,
                "peak_exact": episode.peak_exact,
                "events": episode.events,
            }
        )


def _rejected_line(topic: str, rejected: Rejected) -> bytes:
    return _line(
        {
            "reason": rejected.reason,
            "topic": topic,
            "partition": rejected.partition,
            "offset": rejected.offset,
            "detail": rejected.detail,
            "rules": rejected.rules,
        }
    )


def _line(values: dict[str, Any]) -> bytes:
    return msgspec.json.encode(values) + b"\n"


def _show(episodes: list[Transition], settings: Settings, spared: dict[str, set[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("opened (UTC)", "rule", "severity", "key", "lasted"):
        table.add_column(name)
    for name in ("peak", "events"):
        table.add_column(name, justify="right")
    if spared:
        table.add_column("told")
    for episode in episodes:
        key = ", ".join(_spelled(value) for value in episode.key)
        table.add_row(
            iso(episode.opened_at_ms)[:-1].replace("T", " "),
            episode.rule,
            settings.rule(episode.rule).severity,
            _printable(key),
            spoken(episode.resolves_at_ms - episode.opened_at_ms),
            str(episode.peak),
            str(episode.events),
            *(["no: cooldown" if episode.alert_id in spared.get(episode.rule, ()) else "yes"] if spared else []),
        )
    if episodes:
        Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


def _spelled(value: Scalar) -> str:
    # Text that looks like a number or a boolean is told from one by its quotes.
    plain = isinstance(value, str) and not _NO_TEXT.fullmatch(value)
    return value if isinstance(value, str) and plain else msgspec.json.encode(value).decode()


def _printable(text: str) -> str:
    """Text that comes from events must not steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
