"""The mail that tells of an alert: subject, text and HTML."""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime

import msgspec
from jinja2 import Environment

from actions.alert import Alert
from actions.base import Delivery, delivery_id
from actions.text import cut, escaped, stripped
from detection.durations import spoken
from detection.times import iso

SUBJECT_LENGTH = 150
_VALUE_LENGTH = 300
_COLOURS = {"info": "#2563eb", "warning": "#b45309", "critical": "#b91c1c", "resolved": "#15803d"}

# Mail clients want tables and inline styles, and nothing from elsewhere.
_HTML = Environment(autoescape=True).from_string(
    """\
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{ subject }}</title></head>
<body style="margin:0;padding:24px 12px;background:#f3f4f6;font-family:Helvetica,Arial,sans-serif;color:#111827">
<table role="presentation" align="center" width="100%" cellpadding="0" cellspacing="0" \
style="max-width:600px;background:#ffffff;border-top:6px solid {{ colour }}">
<tr><td style="padding:24px 28px 8px">
<span style="font-size:12px;font-weight:bold;letter-spacing:1px;color:{{ colour }}">{{ label | upper }}</span>
<h1 style="margin:8px 0 0;font-size:20px;line-height:28px;word-break:break-word;white-space:pre-line">\
{{ message }}</h1>
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
)


def compose_email(delivery: Delivery, sender: str, follows_opening: bool) -> EmailMessage:
    """The mail of one delivery: the same in every attempt, Message-ID and Date included.

    `follows_opening`: the same recipient was told of the opening, so that this mail belongs under that one.
    """
    alert = delivery.alert
    domain = sender.rpartition("@")[2].rstrip("> ")
    mail = EmailMessage()
    mail["Subject"] = subject(alert)
    mail["From"] = sender
    mail["To"] = delivery.recipient
    mail["Date"] = format_datetime(datetime.fromtimestamp(delivery.made_at_ms // 1_000, UTC))
    mail["Message-ID"] = f"<{delivery.id}@{domain}>"
    if follows_opening and alert.sequence > 1:
        opening = f"<{delivery_id(alert.id, 1, delivery.action, delivery.recipient)}@{domain}>"
        mail["In-Reply-To"] = opening
        mail["References"] = opening
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    facts = _facts(alert)
    message = "\n".join(escaped(line) for line in alert.message.splitlines())
    mail.set_content(message + "\n\n" + "".join(f"{name + ':':<14}{value}\n" for name, value in facts))
    label = _label(alert)
    html = _HTML.render(
        subject=mail["Subject"],
        colour=_COLOURS.get(label, _COLOURS["warning"]),
        label=label,
        message=message,
        facts=facts,
    )
    mail.add_alternative(html, subtype="html")
    return mail


def subject(alert: Alert) -> str:
    """`[warning] hot-product: Nokia`, or `[resolved] hot-product: Nokia`."""
    key = ", ".join(_spell(value) for value in alert.key.values())
    more = " (goes on as an earlier alert)" if alert.merged_into else ""
    return cut(stripped(f"[{_label(alert)}] {alert.rule}: {key}"), SUBJECT_LENGTH - len(more)) + more


def _label(alert: Alert) -> str:
    return "resolved" if alert.status == "resolved" else alert.severity


def _facts(alert: Alert) -> list[tuple[str, str]]:
    at_least = "" if alert.peak_exact else "at least "
    evidence = alert.evidence
    facts = [(cut(escaped(path), 60), cut(escaped(_spell(value)), _VALUE_LENGTH)) for path, value in alert.key.items()]
    facts += [
        ("Peak", f"{at_least}{alert.peak} within {spoken(alert.window_ms)} (threshold {alert.threshold})"),
        ("Events", f"{alert.events} so far" if alert.status != "resolved" else str(alert.events)),
        ("Opened", iso(alert.opened_at)),
        ("Resolves" if alert.status != "resolved" else "Resolved", iso(alert.resolves_at)),
        ("Evidence", f"{evidence.topic}, partition {evidence.partition}, offset {evidence.offset}"),
        ("Alert", f"{alert.id} (message {alert.sequence})"),
    ]
    if alert.reopened:
        facts.append(("Note", "this alert was over and has begun again"))
    if alert.merged_into:
        facts.append(("Note", f"this alert goes on as {alert.merged_into}"))
    if alert.cancelled:
        facts.append(("Note", "the rule was changed or removed"))
    return facts


def _spell(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
