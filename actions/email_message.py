"""The mail that tells of an alert: subject, text and HTML."""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime

from jinja2 import Environment

from actions.base import Delivery, delivery_id

# Mail clients want tables and inline styles, and nothing from elsewhere.
_HTML = Environment(autoescape=True).from_string(
    """\
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{ message.title }}</title></head>
<body style="margin:0;padding:24px 12px;background:#f3f4f6;font-family:Helvetica,Arial,sans-serif;color:#111827">
<table role="presentation" align="center" width="100%" cellpadding="0" cellspacing="0" \
style="max-width:600px;background:#ffffff;border-top:6px solid {{ message.colour }}">
<tr><td style="padding:24px 28px 8px">
<span style="font-size:12px;font-weight:bold;letter-spacing:1px;color:{{ message.colour }}">\
{{ message.label | upper }}</span>
<h1 style="margin:8px 0 0;font-size:20px;line-height:28px;word-break:break-word;white-space:pre-line">\
{{ message.text }}</h1>
</td></tr>
<tr><td style="padding:8px 28px 24px">
<table width="100%" cellpadding="0" cellspacing="0" style="font-size:14px;line-height:20px">
{% for name, value in message.facts %}<tr>
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
    message = delivery.message
    domain = sender.rpartition("@")[2].rstrip("> ")
    mail = EmailMessage()
    mail["Subject"] = message.title
    mail["From"] = sender
    mail["To"] = delivery.recipient
    mail["Date"] = format_datetime(datetime.fromtimestamp(delivery.made_at_ms // 1_000, UTC))
    mail["Message-ID"] = f"<{delivery.id}@{domain}>"
    if follows_opening and delivery.sequence > 1:
        opening = f"<{delivery_id(delivery.alert_id, 1, delivery.action, delivery.recipient)}@{domain}>"
        mail["In-Reply-To"] = opening
        mail["References"] = opening
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    mail.set_content(message.text + "\n\n" + "".join(f"{name + ':':<14}{value}\n" for name, value in message.facts))
    mail.add_alternative(_HTML.render(message=message), subtype="html")
    return mail
