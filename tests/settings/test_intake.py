"""The section `intake`: its defaults, and every mistake with its place."""

from __future__ import annotations

import pytest

from settings import ConfigError, IntakeSettings, Settings
from tests.settings.test_load import RULE
from tests.settings.test_mistakes import marked


def test_all_has_a_default(load_text) -> None:
    intake = load_text(RULE).intake
    assert intake == IntakeSettings()
    assert (intake.host, intake.port, intake.api_keys, intake.rate_limit) == ("127.0.0.1", 8080, {}, None)
    assert (intake.remember_retries_ms, intake.acknowledge_within_ms) == (600_000, 4_000)


def test_a_key_is_a_reference_or_several_with_the_topics_that_it_may_write(load_text, monkeypatch) -> None:
    monkeypatch.setenv("HOST", "::1")
    settings = load_text(
        RULE
        + """
intake:
  host: {env: HOST}
  api_keys:
    shop: {env: SHOP}
    app: {key: [{env: NEW}, {file: old}], topics: [products]}
  rate_limit: {events: 100, per: 10s}
"""
    )
    keys = settings.intake.api_keys
    assert (settings.intake.host, settings.intake.is_local) == ("::1", True)
    assert [str(one) for one in keys["shop"].key] == ["{env: SHOP}"]
    assert keys["shop"].topics is None
    assert len(keys["app"].key) == 2
    assert keys["app"].topics == ("products",)
    assert settings.intake.rate_limit is not None
    assert settings.intake.rate_limit.per_ms == 10_000


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("host: ▸http://x", "is not an address to listen on"),
        ("port: ▸0", "at least 1"),
        ("port: ▸99999", "at most 65535"),
        ("products_topic: ▸product", "there is no topic 'product'"),
        ("api_keys: {shop: ▸hunter2}", "a secret must not stand in the configuration"),
        ("api_keys: {shop: {key: ▸hunter2}}", "a secret must not stand in the configuration"),
        ("api_keys: {shop: {key: [{env: A}, ▸hunter2]}}", "a secret must not stand in the configuration"),
        ("api_keys: {shop: ▸[hunter2]}", "a secret must not stand in the configuration"),
        ("api_keys: {shop: {key: ▸[]}}", "this list is empty"),
        ("api_keys: {▸'shop:a': {env: A, default: b}}", "has a colon"),
        ("api_keys: {shop: {key: {env: A}, topics: [products, ▸productz]}}", "there is no topic 'productz'"),
        ("api_keys: {shop: {key: {env: A}, topics: ▸[]}}", "this list is empty"),
        ("api_keys: {shop: {key: {env: A}, ▸topic: [products]}}", "unknown setting 'topic'"),
        ("rate_limit: {events: ▸0}", "at least 1"),
        ("rate_limit: {events: 5, per: ▸1}", "a duration without a unit"),
        ("trusted_proxies: [▸proxy]", "neither an address nor a network"),
        ("cors_origins: [▸shop.example.com/x]", "is not the origin of a page"),
        ("acknowledge_within: ▸10s", "from 1s to 4500ms"),
        ("max_body_bytes: ▸1", "at least 1024"),
        ("▸max_body: 5000", "unknown setting 'max_body'"),
    ],
)
def test_a_mistake_is_reported_where_it_is(load_text, line: str, said: str) -> None:
    text, places = marked(f"{RULE}\nintake:\n  {line}\n")
    with pytest.raises(ConfigError) as raised:
        load_text(text)
    (problem,) = raised.value.problems
    assert said in problem.message
    assert [(problem.line, problem.column)] == places
    assert "hunter2" not in str(problem)


@pytest.mark.parametrize(
    ("line", "noted"),
    [
        ("host: 0.0.0.0", "whoever reaches it can write events"),
        ("host: intake.example.com", "whoever reaches it can write events"),
        ("api_keys: {shop: {env: A, default: hunter2}}", "the default of 'shop' is a secret that stands in the file"),
        ("host: localhost", None),
        ("host: 127.0.0.2", None),
    ],
)
def test_what_is_no_mistake_but_worth_a_note(load_text, line: str, noted: str | None) -> None:
    notes = load_text(f"{RULE}\nintake:\n  {line}\n").notes
    assert [noted in note.message for note in notes] == ([True] if noted else [])


def test_the_schema_has_the_section() -> None:
    schema = Settings.model_json_schema(by_alias=True)
    properties = schema["$defs"]["IntakeSettings"]["properties"]
    assert {"host", "port", "api_keys", "rate_limit", "acknowledge_within"} <= properties.keys()
