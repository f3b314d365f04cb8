import re
from contextlib import suppress
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from pydantic import ValidationError

from actions.registry import ACTION_TYPES
from detection.rules import CountRule, EventTime, Topic
from settings import ConfigError, KafkaSettings, RetrySettings, Settings, StateSettings, TopicSettings, load
from settings.templates import compile_template

SHIPPED = Path(__file__).parents[2] / "tua.yaml"
RULE = """
rules:
  - name: hot
    topic: products
    key: user_id
    count: {at_least: 20, within: 5s}
    actions: [log]
"""


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("SMTP_HOST", "SMTP_PORT", "WEBHOOK_URL", "WEBHOOK_SECRET", "STATE_DIRECTORY"):
        monkeypatch.delenv(f"TUA_{name}", raising=False)
    return load(SHIPPED, ACTION_TYPES)


def test_the_shipped_configuration_has_no_mistake_and_says_what_its_documentation_says(shipped: Settings) -> None:
    assert shipped.kafka == KafkaSettings(
        bootstrap_servers="localhost:29092,localhost:39092",
        consumer_group="tua",
        topic_prefix="tua",
    )
    assert shipped.state == StateSettings(directory=Path(".tua"), retention_ms=3_600_000)
    assert shipped.topics == {"products": TopicSettings(partitions=2)}
    topic = Topic("products", 10_000, EventTime(), None, 30_000, 60_000)
    assert shipped.detection_rules() == (
        CountRule("hot-product", topic, ("product.name",), 20, 5_000, (("action", ("add",)),)),
    )
    rule = shipped.rule("hot-product")
    assert (rule.severity, rule.actions) == ("warning", ("log", "support-email", "shop-webhook"))
    assert compile_template(rule.message).render(
        {"key": {"product.name": "Nokia"}, "count": 20, "window": "5 seconds"}
    ) == ("Product 'Nokia' was ordered 20 times within 5 seconds")


def test_the_shipped_actions_are_as_documented(shipped: Settings) -> None:
    log, email, webhook = shipped.actions.values()
    assert list(shipped.actions) == ["log", "support-email", "shop-webhook"]
    assert log.type == "log"
    assert email.model_dump(include={"type", "host", "port", "tls", "username", "password", "sender", "to"}) == {
        "type": "email",
        "host": "localhost",
        "port": 1025,
        "tls": "none",
        "username": None,
        "password": None,
        "sender": "alerts@example.com",
        "to": ("support@example.com",),
    }
    assert email.send == ("opened", "resolved")
    assert email.retry == RetrySettings(
        delays_ms=(0, 5_000, 30_000, 300_000, 1_800_000, 7_200_000, 21_600_000), give_up_ms=86_400_000
    )
    assert webhook.url.resolve().get_secret_value() == "http://localhost:8090/alerts"


def test_what_the_shipped_configuration_takes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUA_SMTP_HOST", "mail.example.com")
    monkeypatch.setenv("TUA_SMTP_PORT", "2525")
    monkeypatch.setenv("TUA_STATE_DIRECTORY", "/var/lib/tua")
    settings = load(SHIPPED, ACTION_TYPES)
    assert settings.state.directory == Path("/var/lib/tua")
    assert settings.actions["support-email"].model_dump(include={"host", "port"}) == {
        "host": "mail.example.com",
        "port": 2525,
    }


def test_everything_but_the_rules_has_a_default(load_text) -> None:
    settings = load_text(RULE)
    assert settings.kafka == KafkaSettings()
    assert settings.kafka.bootstrap_servers == "localhost:29092,localhost:39092"
    assert settings.topics == {"products": TopicSettings()}
    assert {name: action.type for name, action in settings.actions.items()} == {"log": "log"}
    assert settings.state == StateSettings(directory=Path(".tua"), retention_ms=3_600_000)
    rule = settings.rules[0]
    assert (rule.severity, rule.where, rule.description) == ("warning", {}, "")
    assert settings.notes == ()


def test_a_section_or_a_topic_of_comments_alone_is_all_defaults(load_text) -> None:
    settings = load_text(RULE + "kafka:\n  # nothing\nstate:\ntopics:\n  products:\n    # nothing\nactions:\n")
    assert settings == load_text(RULE)


def test_the_default_messages_are_sentences(load_text) -> None:
    rule = load_text(RULE).rules[0]
    values = {"rule": "hot", "key": {"user_id": 17}, "count": 20, "peak": 25, "events": 30}
    values |= {"window": "5 seconds", "duration": "1 minute"}
    assert compile_template(rule.message).render(values) == "hot: 17 had 20 events within 5 seconds"
    assert compile_template(rule.resolved_message).render(values) == (
        "hot: 17 is calm again after 1 minute (30 events, at most 25 within 5 seconds)"
    )


def test_rules_reach_detection_in_the_order_of_the_file_with_all_that_a_topic_says(load_text) -> None:
    settings = load_text("""
topics:
  orders:
    lateness: 0s
    event_time: {field: meta.at, unit: iso}
    event_id: {field: order_id}
    idle_timeout: 1m
    max_future: null
  products: {event_time: record, event_id: record}
rules:
  - {name: b, topic: orders, key: [user_id, ip], count: {at_least: 1, within: 500ms}, where: {a.b: [x, 1, null]}}
  - {name: a, topic: products, key: user_id, count: {at_least: 2, within: 1d}}
""")
    orders = Topic("orders", 0, EventTime("meta.at", "iso"), "order_id", 60_000, None)
    assert settings.detection_rules() == (
        CountRule("b", orders, ("user_id", "ip"), 1, 500, (("a.b", ("x", 1, None)),)),
        CountRule("a", Topic("products"), ("user_id",), 2, 86_400_000),
    )


def test_swapping_the_actions_of_a_rule_changes_nothing_that_its_state_belongs_to(load_text) -> None:
    actions = "actions: {log: {type: log}, mail: {type: email, host: h, to: [a@b]}}\n"
    before, after = load_text(RULE + actions), load_text(RULE.replace("[log]", "[mail]") + actions)
    assert after.rule("hot").actions == ("mail",)
    assert before.detection_rules()[0].version == after.detection_rules()[0].version


def test_true_and_1_are_different_conditions(load_text) -> None:
    one, true, text = (
        load_text(RULE + f"    where: {{a: {value}}}\n").detection_rules()[0] for value in ("1", "true", '"1"')
    )
    assert len({one.version, true.version, text.version}) == 3


def test_settings_are_frozen(load_text) -> None:
    settings = load_text(RULE)
    for model, field in (
        (settings, "rules"),
        (settings.kafka, "topic_prefix"),
        (settings.topics["products"], "partitions"),
        (settings.rules[0].count, "threshold"),
        (settings.actions["log"].retry, "give_up_ms"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(model, field, getattr(model, field))


def test_notes_say_what_is_no_mistake_but_worth_a_look(load_text) -> None:
    settings = load_text("""
topics:
  products: {}
  spare: {}
rules:
  - {name: hot, topic: products, key: user_id, count: {at_least: 1, within: 5s}}
actions:
  hook: {type: webhook, url: https://example.com/a}
""")
    assert [str(note) for note in settings.notes] == [
        "tua.yaml:4:3: no rule reads the topic 'spare'",
        "tua.yaml:6:5: the rule 'hot' names no actions: its alerts go to the alerts topic alone",
        "tua.yaml:8:3: no rule uses the action 'hook'",
        "tua.yaml:8:3: hook: it has no secret, so its messages are unsigned",
    ]
    assert {note.severity for note in settings.notes} == {"note"}


def test_a_condition_that_looks_like_a_comparison_is_noted(load_text) -> None:
    settings = load_text(RULE + "    where: {price: '>10', size: [s, '<5']}\n")
    assert [str(note) for note in settings.notes] == [
        "tua.yaml:8:20: '>10' is compared as text: a condition knows no more and no less",
        "tua.yaml:8:37: '<5' is compared as text: a condition knows no more and no less",
    ]


def test_a_default_that_nobody_uses_is_not_noted(load_text) -> None:
    assert [note.line for note in load_text(RULE.replace("    actions: [log]\n", "")).notes] == [3]


def test_brokers_may_have_a_protocol_and_an_address_of_ipv6(load_text) -> None:
    servers = "SASL_SSL://a-1.example.com:9092,[::1]:9093"
    assert load_text(RULE + f'kafka: {{bootstrap_servers: "{servers}"}}\n').kafka.bootstrap_servers == servers


FRAGMENTS = [
    *("null", "{}", "[]", "[1]", "on", "012", "~", "''", "1e999", "-1", "9" * 20, "true", "é", "999999999d"),
    *("&a", "*a", "!!x", "-", "?", "|", ">", "'", '"', ":", "#", "{{", "}}", "<<:", "[[[", "---", "\t", "\0"),
    *(
        "{env: X}",
        "{env: HOME}",
        "{env: {a: b}}",
        "{file: /}",
        "{a: [b]}",
        "{field: }",
        "{env: }",
        "{env: X, default: }",
    ),
]


@hypothesis.settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_wrong_with_a_file_nothing_but_a_config_error_comes_of_it(
    tmp_path: Path, data: st.DataObject
) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    for _ in range(data.draw(st.integers(1, 3))):
        places = [match.span() for match in re.finditer(r"[^\s,\[\]{}]+|\{[^}]*\}|\[[^\]]*\]", text)]
        start, end = data.draw(st.sampled_from(places))
        text = text[:start] + data.draw(st.sampled_from(FRAGMENTS)) + text[end:]
    (tmp_path / "tua.yaml").write_text(text, encoding="utf-8")
    with suppress(ConfigError):
        load(tmp_path / "tua.yaml", ACTION_TYPES).detection_rules()


def test_a_home_directory_is_meant_by_a_tilde(load_text, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load_text(RULE + "state: {directory: ~/tua}\n").state.directory == Path("/home/somebody/tua")
