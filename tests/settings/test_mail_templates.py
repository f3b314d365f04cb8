"""What `tua check` says of the templates of an e-mail action, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from actions.email import EmailSettings
from actions.email_message import VARIABLES
from actions.registry import ACTION_TYPES
from settings import ConfigError, load

CONFIGURATION = """
rules:
  - {name: hot, topic: products, key: product.name, count: {at_least: 1, within: 5s}, actions: [mail]}
actions:
  mail:
    type: email
    from: a@example.com
    to: [b@example.com]
"""
UNKNOWN = "the template uses an unknown variable"


def loaded(directory: Path, lines: str) -> EmailSettings:
    (directory / "tua.yaml").write_text(CONFIGURATION + lines, encoding="utf-8")
    mail = load(directory / "tua.yaml", ACTION_TYPES).actions["mail"]
    assert isinstance(mail, EmailSettings)
    return mail


def problems(directory: Path, lines: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        loaded(directory, lines)
    return [str(problem).removeprefix(f"{directory}/tua.yaml:") for problem in raised.value.problems]


def test_templates_stand_in_the_file_or_in_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "mail.html").write_text("<p>{{ text }}</p>\n<p>{{ key['product.name'] }}</p>\n")
    lines = '    templates:\n      subject: "{{ title }}!"\n      html: {file: mail.html}\n'
    templates = loaded(tmp_path, lines).templates
    assert templates.subject == "{{ title }}!"
    assert templates.text is None
    assert templates.html == "<p>{{ text }}</p>\n<p>{{ key['product.name'] }}</p>"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{subject: "{{ tilte }}"}', [f"9:26: {UNKNOWN} 'tilte' (did you mean 'title'?)"]),
        ('{text: "{{ cuont }} {{ fatcs }}"}', [f"9:23: {UNKNOWN} 'cuont'", f"9:23: {UNKNOWN} 'fatcs'"]),
        ('{html: "{% if %}", text: ""}', ["9:23: the template cannot be read: ", "9:41: the template is empty"]),
        ('{text: "{{ rule | uper }}"}', ["9:23: the template cannot be read: No filter named 'uper' (see the"]),
        (
            '{text: "{{ count / 0 }}"}',
            ["9:23: the template failed: ZeroDivisionError: division by zero, as it would at every alert"],
        ),
        ("{html: \"{% include 'x' %}\"}", ["9:23: the template failed: TypeError: no loader"]),
        ('{html: "{{ text | safe }}"}', ["9:23: the template cannot be read: the filter 'safe' is not to be had here"]),
        (
            '{html: "{% autoescape false %}{{ text }}{% endautoescape %}"}',
            ["9:23: the template cannot be read: autoescape is not to be had here"],
        ),
        (
            "{html: \"{{ 'a' * 66000 }}\"}",
            ["9:23: the template failed: it makes more than 64 kB, as it would at every"],
        ),
        ('{htlm: "x"}', ["9:17: unknown setting 'htlm' (did you mean 'html'?)"]),
        ("{text: 17}", ['9:23: this must be text, not 17 (write "17" in quotes)']),
        ("{text: {file: none}}", ["9:23: the file none cannot be read: No such file or directory"]),
        ("{{ text }}", ["9:16: "]),
    ],
)
def test_a_mistake_is_said_with_its_place(tmp_path: Path, monkeypatch, lines: str, said: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    found = problems(Path(), f"    templates: {lines}\n")
    assert [one.removeprefix("tua.yaml:")[: len(words)] for one, words in zip(found, said, strict=True)] == said


def test_a_mistake_in_a_file_says_which_and_in_which_line(tmp_path: Path) -> None:
    (tmp_path / "mail.html").write_text("<p>\n{{ text }\n</p>")
    (found,) = problems(tmp_path, "    templates: {html: {file: mail.html}}\n")
    assert found.startswith("9:23: the template cannot be read in its line 2: unexpected '}'")
    assert f"the value comes from the file {tmp_path / 'mail.html'}" in found


@pytest.mark.parametrize(
    "template",
    [
        " ".join(f"{{{{ {name} }}}}" for name in sorted(VARIABLES)),
        "{{ key['product.name'] }} {{ key.user_id }} {{ key.values() | join(', ') }}",
        "{% if status == 'summary' %}{{ alerts + 1 }}{% else %}{{ 100 // (peak - threshold) }}{% endif %}",
        "{% if status == 'resolved' %}{{ duration }}{% endif %}{% for name, value in facts %}{{ name }}{% endfor %}",
        "{{ {'17': 'Nokia'}[key.id] if key.id else '' }}",
        "{{ peak + 1 }} {{ text | upper | truncate(80) }} {{ opened_at[11:19] }}",
    ],
)
@pytest.mark.parametrize("part", ["subject", "text", "html"])
def test_a_template_that_works_for_some_alert_and_for_summaries_is_fine(
    tmp_path: Path, part: str, template: str
) -> None:
    (tmp_path / "template").write_text(template)
    loaded(tmp_path, f"    templates: {{{part}: {{file: template}}}}\n")


def test_one_that_fails_for_a_summary_is_a_mistake_unless_there_are_none(tmp_path: Path) -> None:
    lines = '    templates: {text: "{{ events + 1 }}"}\n'
    (found,) = problems(tmp_path, lines)
    assert found.startswith("9:23: the template failed: TypeError: ")
    assert "as it would at every summary of many alerts (ask with {% if status == 'summary' %}" in found
    loaded(tmp_path, lines + "    flood: null\n")
    loaded(tmp_path, '    templates: {text: "{{ key.values() | first | upper }}"}\n    flood: null\n')
