"""The services that give out one URL for each channel: the URL is a secret, wherever it is judged or shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actions.base import Action, ActionError
from actions.registry import create
from settings import Secret
from tests.support.channels import loaded, mistake_in
from tests.support.delivering import action, context

TOKEN = "T0kenInTheUrl"
TYPES = {
    "slack": "hooks.slack.com/services/T000/B000/" + TOKEN,
    "discord": "discord.com/api/webhooks/123/" + TOKEN,
    "teams": "prod-1.westeurope.logic.azure.com:443/workflows/1/invoke?sig=" + TOKEN,
}
EACH = pytest.mark.parametrize(("type_", "place"), TYPES.items(), ids=TYPES)


def made(monkeypatch: pytest.MonkeyPatch, type_: str, url: str) -> Action[Any]:
    monkeypatch.setenv("CHAT", url)
    return create("chat", action(type_, url=Secret(env="CHAT")), context())


@EACH
def test_recipients_show_the_host_alone(monkeypatch: pytest.MonkeyPatch, type_: str, place: str) -> None:
    hook = made(monkeypatch, type_, f"https://{place}")
    assert hook.recipients() == (f"https://{place.partition('/')[0].removesuffix(':443')}",)
    assert TOKEN in hook.secrets()


@EACH
def test_a_url_in_the_file_is_a_mistake_that_does_not_quote_it(tmp_path: Path, type_: str, place: str) -> None:
    for written in (f"https://{place}", TOKEN, "12345", f"{{url: {TOKEN}}}"):
        problem = mistake_in(tmp_path, type_, f"url: {written}")
        assert "write {env: NAME}" in problem
        assert TOKEN not in problem
        assert "12345" not in problem
    assert "a secret must not stand in the configuration" in mistake_in(tmp_path, type_, f"url: https://{place}")
    assert "'url' is missing" in mistake_in(tmp_path, type_)


@EACH
def test_the_default_of_a_url_is_judged_and_noted(tmp_path: Path, type_: str, place: str) -> None:
    problem = mistake_in(tmp_path, type_, f"url: {{env: U, default: 'http://{place}'}}")
    assert "a url must be https" in problem
    assert TOKEN not in problem
    lines = ("allow_insecure: true", f"url: {{env: U, default: 'http://{place}'}}")
    assert loaded(tmp_path, type_, *lines).notes() == ("the default of 'url' is a secret that stands in the file",)
    assert loaded(tmp_path, type_, "url: {env: U}").notes() == ()


@EACH
def test_a_url_that_is_not_set_or_not_safe_is_said_without_quoting_it(
    monkeypatch: pytest.MonkeyPatch, type_: str, place: str
) -> None:
    with pytest.raises(ActionError, match="must be https") as error:
        made(monkeypatch, type_, f"http://{place}")
    assert TOKEN not in str(error.value)
    with pytest.raises(ActionError, match="the environment variable CHAT, which is not set"):
        made(monkeypatch, type_, "")
