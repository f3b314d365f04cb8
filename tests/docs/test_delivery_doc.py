"""docs/delivery.md, run: its settings are loaded, its commands do what they say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from actions.delivery.dispatcher import Dispatcher
from actions.registry import ACTION_TYPES
from settings import load
from tests.support.delivering import Broker, clock_ms, opened
from tests.support.receivers import HttpReceiver, Reply
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "delivery.md").read_text(encoding="utf-8")
SETTINGS = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.partition("#")[0].split()
    for block in re.findall(r"^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
RULE = {"name": "hot", "topic": "products", "key": "product.name", "count": {"at_least": 20, "within": "5s"}}
MAIL = {"type": "email", "from": "a@example.com", "to": ["b@example.com"]}


@pytest.mark.parametrize("example", SETTINGS)
def test_an_example_of_a_setting_has_no_mistake(tmp_path: Path, example: str) -> None:
    configuration = {"rules": [RULE], "actions": {"mail": dict(MAIL)}}
    for name, value in yaml.safe_load(example).items():
        if name == "rules":
            configuration["rules"][0] = RULE | value[0]  # type: ignore[index]
        elif name == "delivery":
            configuration[name] = value
        else:
            configuration["actions"]["mail"][name] = value  # type: ignore[index]
    path = tmp_path / "tua.yaml"
    path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    load(path, ACTION_TYPES)


def test_the_commands_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpReceiver() as web:
        configuration = {
            "topics": {"products": {}},
            "rules": [{**RULE, "actions": ["shop-webhook"]}],
            "actions": {"shop-webhook": {"type": "webhook", "url": web.url}},
            "state": {"directory": str(tmp_path / "state")},
        }
        path = tmp_path / "tua.yaml"
        path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
        settings = load(path, ACTION_TYPES)
        dispatcher = Dispatcher(settings, Broker().publish, now_ms=clock_ms)
        web.plan.append(Reply(404, body=b"no such hook"))
        dispatcher.put([opened(settings, "ID", "Nokia")])
        wait_until(lambda: dispatcher.pending() == 0)
        said = []
        for command in COMMANDS:
            assert command[0] == "tua"
            program = [str(ROOT / ".venv" / "bin" / "tua"), *command[1:], "--config", str(path)]
            result = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
            assert result.returncode == 0, (command, result.stderr)
            said.append(result.stdout)
        assert [("no such hook" in one) for one in said[:4]] == [True] * 4
        assert said[4].startswith("1 dead letter will be sent once more")
        assert "delivered: 200 ok" in said[5]
        wait_until(lambda: len(web.requests) == 3 and dispatcher.pending() == 0)
        dispatcher.close()
