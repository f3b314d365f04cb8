"""What people are told of an alert or a summary, in the same words on every channel.

Control characters that came with an event are made visible or taken out here. Escaping for the markup of a channel
is the channel's own business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from actions.alert import Alert, Summary
from actions.text import cut, escaped, stripped
from detection.durations import spoken
from detection.rules import Scalar
from detection.times import iso

TITLE_LENGTH = 150
_NAME_LENGTH = 60
_VALUE_LENGTH = 300
_COLOURS = {"info": "#2563eb", "warning": "#b45309", "critical": "#b91c1c", "resolved": "#15803d", "test": "#6b7280"}
_SIGNS = {"info": "🔵", "warning": "🟠", "critical": "🔴", "resolved": "🟢", "test": "⚪"}


Fact = tuple[str, str]


@dataclass(frozen=True)
class Message:
    """`title` is one line (`[warning] hot-product: Nokia`), `text` the rule's message, which may have several.

    `label` is the severity, `resolved` or `test`; `colour` (`#rrggbb`) and `sign` (one emoji) go with it. `facts`
    are (name, value), each one line.
    """

    title: str
    label: str
    text: str
    facts: tuple[Fact, ...]

    @property
    def colour(self) -> str:
        return _COLOURS.get(self.label, _COLOURS["warning"])

    @property
    def sign(self) -> str:
        return _SIGNS.get(self.label, _SIGNS["warning"])


def message_of(told: Alert | Summary) -> Message:
    """The message of what is told."""
    if isinstance(told, Summary):
        return _of_summary(told)
    label = _label(told)
    more = " (goes on as an earlier alert)" if told.merged_into else ""
    title = cut(stripped(f"[{label}] {told.rule}: {listed(told.key)}"), TITLE_LENGTH - len(more)) + more
    return Message(title, label, _lines(told.message), tuple(_facts(told)))


def fitting(facts: Sequence[Fact], at_most: int, room: int, size: Callable[[Fact], int]) -> tuple[Fact, ...]:
    """Those facts for which a channel has room: `at_most` in number, `room` for the sum of their sizes.

    From the middle some are left out, and one says how many: the first ones are of the key, the last ones of how the
    alert stands.
    """
    sizes = [size(fact) for fact in facts]
    for missing in range(len(facts)):
        head = (len(facts) - missing + 1) // 2
        tail = head + missing
        note = [("…", f"{missing} more")] if missing else []
        taken = sum(sizes[:head]) + sum(sizes[tail:]) + sum(map(size, note))
        if len(facts) - missing + len(note) <= at_most and taken <= room:
            return (*facts[:head], *note, *facts[tail:])
    return ()


def listed(key: Mapping[str, Scalar]) -> str:
    """The values of a key with commas between: text as it is if it can be seen, anything else as in JSON."""
    return ", ".join(_spell(value) for value in key.values())


def _of_summary(summary: Summary) -> Message:
    span = spoken((summary.ended_at - summary.began_at) // 1_000 * 1_000)
    more = f"{summary.alerts} more alert{'s' if summary.alerts > 1 else ''}"
    text = f"{more} of {summary.rule} within {span}, not told one by one"
    facts = [
        ("Over by now", str(summary.resolved)),
        ("From", iso(summary.began_at)),
        ("Until", iso(summary.ended_at)),
    ]
    facts += [(f"Top {n}", f"{_value(listed(one.key))} (peak {one.peak})") for n, one in enumerate(summary.top, 1)]
    facts.append(("Note", "`tua deliveries` and the topic of alerts have each of them"))
    title = cut(stripped(f"[{summary.severity}] {summary.rule}: {more}"), TITLE_LENGTH)
    return Message(title, summary.severity, _lines(text), tuple(facts))


def _label(alert: Alert) -> str:
    if alert.test:
        return "test"
    return "resolved" if alert.status == "resolved" else alert.severity


def _facts(alert: Alert) -> Iterator[Fact]:
    for path, value in alert.key.items():
        yield cut(escaped(path), _NAME_LENGTH), _value(_spell(value))
    at_least = "" if alert.peak_exact else "at least "
    over = alert.status == "resolved"
    evidence = alert.evidence
    yield "Peak", f"{at_least}{alert.peak} within {spoken(alert.window_ms)} (threshold {alert.threshold})"
    yield "Events", str(alert.events) if over else f"{alert.events} so far"
    yield "Opened", iso(alert.opened_at)
    yield "Resolved" if over else "Resolves", iso(alert.resolves_at)
    yield "Evidence", f"{evidence.topic}, partition {evidence.partition}, offset {evidence.offset}"
    yield "Alert", f"{alert.id} (message {alert.sequence})"
    if alert.reopened:
        yield "Note", "this alert was over and has begun again"
    if alert.merged_into:
        yield "Note", f"this alert goes on as {alert.merged_into}"
    if alert.cancelled:
        yield "Note", "the rule was changed or removed"
    if alert.test:
        yield "Note", "this is a test; nothing happened"


def _lines(text: str) -> str:
    return "\n".join(escaped(line) for line in text.splitlines())


def _value(text: str) -> str:
    return cut(escaped(text), _VALUE_LENGTH)


def _spell(value: Scalar) -> str:
    return value if isinstance(value, str) and value.strip() else msgspec.json.encode(value).decode()
