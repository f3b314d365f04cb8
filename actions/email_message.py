"""The mail that tells of an alert: subject, text and HTML, each by a template, ours or the user's."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

import structlog

from actions.alert import Alert, Evidence, KeyCount, Summary
from actions.base import Delivery, delivery_id
from actions.message import Fact, fitting, message_of
from actions.metrics import RENDERING_ERRORS
from actions.text import cut, escaped, stripped
from detection.durations import spoken
from detection.rules import Scalar
from detection.times import iso
from settings.base import SettingsModel
from settings.problems import Mistake
from settings.templates import VARIABLES as RULE_VARIABLES
from settings.templates import Template, compile_template, failure, sample_keys, template_mistakes

_log = structlog.get_logger()

SUBJECT = "{{ title }}"
TEXT = """\
{{ text }}

{% for name, value in facts %}{{ (name ~ ':').ljust(14) }}{{ value }}
{% endfor %}"""
# Mail clients want tables and inline styles, and nothing from elsewhere.
HTML = """\
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{ title }}</title></head>
<body style="margin:0;padding:24px 12px;background:#f3f4f6;font-family:Helvetica,Arial,sans-serif;color:#111827">
<table role="presentation" align="center" width="100%" cellpadding="0" cellspacing="0" \
style="max-width:600px;background:#ffffff;border-top:6px solid {{ colour }}">
<tr><td style="padding:24px 28px 8px">
<span style="font-size:12px;font-weight:bold;letter-spacing:1px;color:{{ colour }}">{{ label | upper }}</span>
<h1 style="margin:8px 0 0;font-size:20px;line-height:28px;word-break:break-word;white-space:pre-line">\
{{ text }}</h1>
</td></tr>
<tr><td style="padding:8px 28px 24px">
<table width="100%" cellpadding="0" cellspacing="0" style="font-size:14px;line-height:20px">
{% for name, value in facts %}<tr>
<td style="padding:6px 16px 6px 0;color:#6b7280;vertical-align:top;white-space:nowrap">{{ name }}</td>
<td style="padding:6px 0;vertical-align:top;word-break:break-word">{{ value }}</td>
</tr>
{% endfor %}</table>
</td></tr>
</table>
</body>
</html>
"""

# A mail that is cut is broken where it is HTML: our own comes to less than this, whatever is told.
MAX_BYTES: Mapping[str, int] = {"subject": 4 * 1024, "text": 64 * 1024, "html": 64 * 1024}
_TEXT_LENGTH = 6_000
_VALUE_LENGTH = 300
_FACTS = 40
_FACTS_BYTES = 16_000

VARIABLES = RULE_VARIABLES | {
    "title",
    "label",
    "colour",
    "text",
    "facts",
    "status",
    "alert",
    "sequence",
    "alerts",
}


class MailTemplates(SettingsModel):
    """What a mail says, in Jinja2; a part without a template is as ours. In HTML every value is escaped.

    A template may use, besides what that of a rule's message may (`key`, `count`, `peak`, `events`, `threshold`,
    `window`, `rule`, `severity`, `opened_at`, `resolves_at`, `duration`):

    - `title`: the usual subject; `text`: the rule's message, which may have several lines
    - `label`: the severity, `resolved` or `test`; `colour`: that of the label, `#rrggbb`
    - `facts`: a list of (name, value), what the usual mail lists
    - `status`: `opened`, `updated`, `resolved`, or `summary`
    - `alert`: its id; `sequence`: which of its messages this is, from 1
    - `alerts`: of how many alerts this is the summary

    A summary of many alerts has status `summary`. There, what does not apply is empty, as is whatever is looked up in
    `key`; `peak` is the highest of all, and `opened_at`, `resolves_at` and `duration` are those of what is summed up.
    Elsewhere `alerts` is empty.
    """

    subject: str | None = None
    text: str | None = None
    html: str | None = None


class _NoKey(dict[str, Scalar]):
    """The key of a summary, which has none."""

    def __missing__(self, _: str) -> str:
        return ""

    def get(self, _: str, default: object = None) -> Any:
        return "" if default is None else default


def variables(told: Alert | Summary) -> dict[str, object]:
    """What the templates of a mail get, without a control character that came with an event."""
    message = message_of(told)
    values: dict[str, object] = {
        "title": message.title,
        "label": message.label,
        "colour": message.colour,
        "text": cut(message.text, _TEXT_LENGTH),
        "facts": fitting(message.facts, _FACTS, _FACTS_BYTES, _size),
        "rule": told.rule,
        "severity": told.severity,
        "status": told.status,
    }
    if isinstance(told, Summary):
        peak = max((one.peak for one in told.top), default=0)
        return values | {
            **dict.fromkeys(("alert", "sequence", "events", "threshold", "window"), ""),
            "key": _NoKey(),
            "alerts": told.alerts,
            "count": peak,
            "peak": peak,
            "opened_at": iso(told.began_at),
            "resolves_at": iso(told.ended_at),
            "duration": spoken(max(0, told.ended_at - told.began_at)),
        }
    return values | {
        "key": {path: _plain(value) for path, value in told.key.items()},
        "alert": told.id,
        "sequence": told.sequence,
        "alerts": "",
        "count": told.peak,
        "peak": told.peak,
        "events": told.events,
        "threshold": told.threshold,
        "window": spoken(told.window_ms),
        "opened_at": iso(told.opened_at),
        "resolves_at": iso(told.resolves_at),
        "duration": spoken(max(0, told.resolves_at - told.opened_at)),
    }


def _plain(value: Scalar) -> Scalar:
    return cut(escaped(value), _VALUE_LENGTH) if isinstance(value, str) else value


def _size(fact: Fact) -> int:
    return sum(len(html.escape(text).encode("utf-8", "replace")) for text in fact)


def _compiled(part: str, text: str) -> Template:
    return compile_template(text, html=part == "html", max_bytes=MAX_BYTES[part])


_OURS = {part: _compiled(part, text) for part, text in (("subject", SUBJECT), ("text", TEXT), ("html", HTML))}


def mistakes_in(templates: MailTemplates, summaries: bool) -> Iterator[Mistake]:
    """What is wrong with the templates of an action. `summaries`: it may be told of many alerts at once."""
    for part, text in templates:
        if text is not None:
            yield from _mistakes_in(part, text, summaries)


def _mistakes_in(part: str, text: str, summaries: bool) -> Iterator[Mistake]:
    hint = "see the documentation of Jinja2 templates"
    if not text.strip():
        yield Mistake("the template is empty", "write a text, or leave the setting out for the usual one", (part,))
        return
    try:
        template = _compiled(part, text)
    except ValueError as error:
        yield Mistake(str(error), hint, (part,))
        return
    if unknown := template_mistakes(template, None, VARIABLES, "the template"):
        yield from (Mistake(*mistake, at=(part,)) for mistake in unknown)
    elif failed := failure(template, _samples(template), whole=part == "html"):
        yield Mistake(f"{failed}, as it would at every alert", hint, (part,))
    elif summaries and (failed := failure(template, [variables(_SUMMARY)], whole=part == "html")):
        hint = "ask with {% if status == 'summary' %} where it needs what a summary of many alerts does not have"
        yield Mistake(f"{failed}, as it would at every summary of many alerts", hint, (part,))


_ALERT = Alert(
    id="0" * 32,
    sequence=1,
    rule="rule",
    rule_version="0",
    severity="warning",
    status="opened",
    key={},
    peak=23,
    peak_exact=True,
    events=31,
    threshold=20,
    window_ms=5_000,
    opened_at=1_769_853_603_120,
    resolves_at=1_769_853_670_480,
    message="rule: a.b had 23 events within 5 seconds",
    evidence=Evidence(topic="products", partition=0, offset=0, timestamp=1_769_853_603_120),
)
_SUMMARY = Summary(
    id="flood",
    rule="rule",
    severity="warning",
    status="summary",
    alerts=40,
    resolved=3,
    began_at=1_769_853_603_120,
    ended_at=1_769_853_663_120,
    top=(KeyCount(key={"a.b": "c"}, peak=23),),
)


def _samples(template: Template) -> Iterator[Mapping[str, object]]:
    # Which rules use the action is not known here: a key has whatever the template asks for, and never nothing.
    paths = tuple(dict.fromkeys((*template.key_paths, "user_id")))
    for number, key in enumerate(sample_keys(template, paths)):
        life: dict[str, object] = {"status": "resolved", "sequence": 2} if number % 2 else {}
        yield variables(_ALERT.model_copy(update={"key": key, "peak": 23 + 3 * number, **life}))


@dataclass(frozen=True)
class Words:
    """The parts of one mail. `subject` is one line without a control character."""

    subject: str
    text: str
    html: str


class Writer:
    """Puts what is told into words, by the templates of an action, and by ours where it has none or its own fails."""

    def __init__(self, action: str, templates: MailTemplates) -> None:
        self._action = action
        self._own = {part: _compiled(part, text) for part, text in templates if text is not None}
        self._failed: set[str] = set()

    def __call__(self, told: Alert | Summary) -> Words:
        values = variables(told)
        subject = stripped(self._part("subject", values)) or stripped(_OURS["subject"].render(values))
        return Words(subject, self._part("text", values), self._part("html", values))

    def _part(self, part: str, values: Mapping[str, object]) -> str:
        if template := self._own.get(part):
            try:
                return template.render(values, whole=part == "html")
            except ValueError as error:
                RENDERING_ERRORS.labels(f"action {self._action}").inc()
                if part not in self._failed:  # once for each start: what fails may do so at every alert
                    self._failed.add(part)
                    _log.error(
                        "A template of an e-mail action fails; the usual text is sent in its place",
                        action=self._action,
                        template=part,
                        error=escaped(str(error)),
                    )
        return _OURS[part].render(values)


def compose_email(delivery: Delivery, sender: str, follows_opening: bool, write: Writer) -> EmailMessage:
    """The mail of one delivery: the same in every attempt, Message-ID and Date included.

    `follows_opening`: the same recipient was told of the opening, so that this mail belongs under that one.
    """
    words = write(delivery.told)
    domain = sender.rpartition("@")[2].rstrip("> ")
    mail = EmailMessage()
    mail["Subject"] = words.subject
    mail["From"] = sender
    mail["To"] = delivery.recipient
    mail["Date"] = format_datetime(datetime.fromtimestamp(delivery.made_at_ms // 1_000, UTC))
    mail["Message-ID"] = f"<{delivery.id}@{domain}>"
    if follows_opening and delivery.sequence > 1:
        opening = f"<{delivery_id(delivery.alert_id, 1, delivery.action, delivery.recipient)}@{domain}>"
        mail["In-Reply-To"] = opening
        mail["References"] = opening
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    mail.set_content(words.text)
    mail.add_alternative(words.html, subtype="html")
    return mail
