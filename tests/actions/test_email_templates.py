"""Mails by templates of the user's: what they may use, and what happens when one fails at an alert."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage

import prometheus_client
import pytest
import structlog

from actions.alert import Alert, KeyCount, Summary
from actions.base import Delivered, Delivery
from actions.email import EmailAction, EmailSettings
from actions.email_message import HTML, MAX_BYTES, SUBJECT, TEXT, VARIABLES, MailTemplates, Writer
from tests.actions.test_alert import ALERT
from tests.support import delivering
from tests.support.delivering import context, email_action
from tests.support.receivers import MailReceiver

SUMMARY = Summary(
    id="flood hot-product 1",
    rule="hot-product",
    severity="critical",
    status="summary",
    alerts=41,
    resolved=3,
    began_at=1_769_853_603_120,
    ended_at=1_769_853_663_120,
    top=(KeyCount(key={"product.name": "Nokia"}, peak=57), KeyCount(key={"product.name": "iPad"}, peak=21)),
)
RESOLVED = ALERT.model_copy(update={"status": "resolved", "sequence": 2, "peak": 26, "events": 31})
EVERY = "\n".join(f"{name}={{{{ {name} }}}}" for name in sorted(VARIABLES - {"facts"}))


def writer(**templates: str) -> Writer:
    return Writer("mail", MailTemplates(**templates))


def of(told: Alert | Summary) -> Delivery:
    sequence = told.sequence if isinstance(told, Alert) else 1
    return Delivery("d1", told.id, sequence, "mail", "a@example.com", told.to_json(), 1_769_853_603_500)


async def sent(mail: MailReceiver, told: Alert | Summary, **templates: str) -> EmailMessage:
    """The mail as it arrives."""
    settings = email_action(mail.port, templates=templates)
    assert isinstance(settings, EmailSettings)
    assert isinstance(await EmailAction("mail", settings, context()).deliver(of(told)), Delivered)
    return mail.mails[-1].message


def content(message: EmailMessage, kind: str) -> str:
    body = message.get_body((kind,))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


def failures() -> float:
    """What the metric says of the action."""
    total = 0.0
    for line in prometheus_client.generate_latest().decode().splitlines():
        if line.startswith("tua_rendering_errors_total") and '"action mail"' in line:
            total += float(line.rpartition(" ")[2])
    return total


async def test_each_part_is_by_the_template_of_the_action_and_the_others_are_as_usual(mail: MailReceiver) -> None:
    usual = await sent(mail, ALERT)
    for part, kind in (("text", "plain"), ("html", "html")):
        message = await sent(mail, ALERT, **{part: "<b>{{ rule }}</b> is {{ status }}: {{ key['product.name'] }}"})
        other = "html" if kind == "plain" else "plain"
        assert content(message, kind).strip() == "<b>hot-product</b> is opened: Nokia"
        assert content(message, other) == content(usual, other)
        assert message["Subject"] == usual["Subject"] == "[warning] hot-product: Nokia"
    message = await sent(mail, ALERT, subject="{{ count }} of {{ key['product.name'] }}")
    assert message["Subject"] == "20 of Nokia"
    assert message["Message-ID"] == usual["Message-ID"]


def test_ours_are_templates_like_the_users() -> None:
    for told in (ALERT, RESOLVED, SUMMARY):
        assert writer(subject=SUBJECT, text=TEXT, html=HTML)(told) == writer()(told)


@pytest.mark.parametrize(
    ("told", "values"),
    [
        pytest.param(
            RESOLVED,
            {
                "title": "[resolved] hot-product: Nokia",
                "label": "resolved",
                "colour": "#15803d",
                "text": "…",
                "rule": "hot-product",
                "severity": "warning",
                "status": "resolved",
                "key": "{'product.name': 'Nokia'}",
                "alert": "a1",
                "sequence": "2",
                "alerts": "",
                "count": "26",
                "peak": "26",
                "events": "31",
                "threshold": "20",
                "window": "5 seconds",
                "opened_at": "2026-01-31T10:00:03.120Z",
                "resolves_at": "2026-01-31T10:00:07.480Z",
                "duration": "4 seconds 360 milliseconds",
            },
            id="an alert",
        ),
        pytest.param(
            SUMMARY,
            {
                "title": "[critical] hot-product: 41 more alerts",
                "label": "critical",
                "colour": "#b91c1c",
                "text": "41 more alerts of hot-product within 1 minute, not told one by one",
                "rule": "hot-product",
                "severity": "critical",
                "status": "summary",
                "key": "{}",
                "alert": "",
                "sequence": "",
                "alerts": "41",
                "count": "57",
                "peak": "57",
                "events": "",
                "threshold": "",
                "window": "",
                "opened_at": "2026-01-31T10:00:03.120Z",
                "resolves_at": "2026-01-31T10:01:03.120Z",
                "duration": "1 minute",
            },
            id="a summary",
        ),
    ],
)
def test_every_variable_has_its_value(told: Alert | Summary, values: dict[str, str]) -> None:
    lines = writer(text=EVERY)(told).text.splitlines()
    assert dict(line.split("=", 1) for line in lines) == values
    assert set(values) == VARIABLES - {"facts"}


def test_the_documentation_names_every_variable() -> None:
    documented = MailTemplates.__doc__ or ""
    assert not [name for name in VARIABLES if f"`{name}`" not in documented]


def test_facts_are_names_with_values() -> None:
    template = "{% for name, value in facts %}{{ name }}={{ value }};{% endfor %}"
    assert writer(text=template)(ALERT).text.startswith("product.name=Nokia;Peak=20 within 5 seconds (threshold 20);")
    assert "Top 1=Nokia (peak 57);" in writer(text=template)(SUMMARY).text


def test_a_key_that_a_summary_does_not_have_is_empty_there() -> None:
    template = "<{{ key['product.name'] }}{{ key.user_id }}{{ key.get('ip') }}{{ key.get('ip', 'none') }}>"
    assert writer(text=template)(SUMMARY).text == "<none>"


@pytest.mark.parametrize(
    "template",
    [
        "<p>{{ key['product.name'] }}</p>",
        "<p>{% for name, value in facts %}{{ value }}{% endfor %}</p>",
        "<p>{{ text }}{{ title }}</p>",
        "<p>{{ [text] | join }}{{ text | replace('x', 'y') }}{{ text | indent }}{{ '%s' | format(text) }}</p>",
        "{% macro m(t) %}<i>{{ t }}</i>{% endmacro %}{% set b %}<b>{{ text }}</b>{% endset %}{{ m(text) }}{{ b }}",
    ],
)
async def test_markup_in_a_name_is_text_in_html(mail: MailReceiver, template: str) -> None:
    name = "<script>alert(1)</script>\"'"
    alert = ALERT.model_copy(update={"key": {"product.name": name}, "message": f"{name} was ordered"})
    html = content(await sent(mail, alert, html=template), "html")
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert '"' not in html


@pytest.mark.parametrize(
    "name", ["Nokia\r\nBcc: victim@example.com", "\x1b[2J\x07\x00", "\u202enokia\u2028x", "=?utf-8?q?x=0D=0AX:_y?="]
)
async def test_no_control_character_of_an_event_is_in_a_mail_and_none_at_all_in_its_header(
    mail: MailReceiver, name: str
) -> None:
    alert = ALERT.model_copy(update={"key": {"product.name": name}, "message": f"of {name}"})
    both = "{{ key['product.name'] }} {{ text }} {{ title }}"
    message = await sent(mail, alert, subject=f"line\r\nX-Mine: 1\n\x1b {both}", text=both, html=f"<p>{both}</p>")
    assert message["Bcc"] is None
    assert message["X-Mine"] is None
    assert message["X"] is None
    assert str(message["Subject"]).isprintable()
    assert len(message.get_all("Subject") or ()) == 1
    for kind in ("plain", "html"):
        text = content(message, kind)
        assert not [char for char in text if not char.isprintable() and char != "\n"]


async def test_a_template_that_fails_at_an_alert_falls_back_to_ours_and_is_logged_once(mail: MailReceiver) -> None:
    # Fine for alerts with that key, and so for `tua check`; this one is of a rule with another.
    other = ALERT.model_copy(update={"key": {"user_id": 17}})
    broken = dict.fromkeys(("subject", "text", "html"), "{{ key['product.name'] }} !")
    settings = email_action(mail.port, templates=broken)
    assert isinstance(settings, EmailSettings)
    action = EmailAction("mail", settings, context())
    before = failures()
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            assert isinstance(await action.deliver(of(other)), Delivered)
    assert failures() - before == 9
    assert [(line["log_level"], line["action"], line["template"]) for line in logs] == [
        ("error", "mail", part) for part in ("subject", "text", "html")
    ]
    assert "product.name" in logs[0]["error"]
    usual = writer()(other)
    for got in mail.mails:
        assert got.message["Subject"] == usual.subject == "[warning] hot-product: 17"
        assert content(got.message, "plain") == usual.text
        assert content(got.message, "html").strip() == usual.html
    await action.deliver(of(ALERT))
    assert mail.mails[-1].message["Subject"] == "Nokia !"


def test_one_part_that_fails_leaves_the_others() -> None:
    words = writer(subject="{{ key['a'] }}", text="{{ rule }} by mine")(ALERT)
    assert (words.subject, words.text) == ("[warning] hot-product: Nokia", "hot-product by mine")


def test_a_subject_of_nothing_is_the_usual_one() -> None:
    assert writer(subject="{{ alerts }}\x07")(ALERT).subject == "[warning] hot-product: Nokia"


def test_a_subject_and_a_text_are_cut_and_html_that_would_be_is_ours() -> None:
    loop = "{% for n in range(9999) %}a b c d {% endfor %}"
    words = writer(subject=loop, text=loop, html=f"<p>{loop}</p>")(ALERT)
    assert len(words.subject.encode()) <= MAX_BYTES["subject"] == 4096
    assert MAX_BYTES["text"] - 3 <= len(words.text.encode()) <= MAX_BYTES["text"] == 65536
    assert words.subject[-1] == words.text[-1] == "…"
    assert words.html == writer()(ALERT).html


def test_a_text_and_html_longer_than_a_rules_message_are_whole() -> None:
    words = writer(text="a" * 60_000, html="<p>" + "a" * 60_000 + "</p>")(ALERT)
    assert words.text == "a" * 60_000
    assert words.html.endswith("</p>")


@pytest.mark.parametrize("letter", ['"', "📱", "\x01", "&"])
def test_our_html_is_never_cut(letter: str) -> None:
    key = {f"{n}{letter * 100}": letter * 1_000 for n in range(100)}
    huge = ALERT.model_copy(update={"key": key, "message": letter * 100_000, "merged_into": "x", "reopened": True})
    words = writer()(huge)
    assert words.html.endswith("</html>")
    assert len(words.html.encode()) < MAX_BYTES["html"]
    assert "Evidence" in words.html


def test_the_longest_subject_makes_a_header_that_can_be_read_again() -> None:
    for letter in ("x", "Ж", "📱", 'a "b" '):
        message = EmailMessage()
        subject = writer(subject=f"{{{{ {letter!r} * 5000 }}}}")(ALERT).subject
        message["Subject"] = subject
        read = email.message_from_bytes(message.as_bytes(), policy=email.policy.default)
        assert read["Subject"] == subject


def test_what_comes_from_an_event_is_never_a_template() -> None:
    alert = ALERT.model_copy(update={"key": {"product.name": "{{ 7 * 7 }}"}, "message": "{% raw %}"})
    words = writer(text="{{ key['product.name'] }} {{ text }}")(alert)
    assert words.text == "{{ 7 * 7 }} {% raw %}"


def test_settings_without_templates_are_as_before() -> None:
    settings = delivering.email_action(25)
    assert isinstance(settings, EmailSettings)
    assert settings.templates == MailTemplates()
