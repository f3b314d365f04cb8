"""docs/actions.md, run: its YAML is loaded, its receiver gets a webhook, its action goes through the kit."""

from __future__ import annotations

import base64
import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from actions.base import Delivered, Outcome, Refused
from actions.registry import ACTION_TYPES
from actions.webhook import WebhookAction
from settings import load
from tests.actions.test_alert import ALERT
from tests.support.delivering import action, context, delivery
from tests.support.receivers import free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "actions.md").read_text(encoding="utf-8")
BUILT_IN, OF_YOUR_OWN = TEXT.split("## An action of your own")
SECRET, OTHER = ("whsec_" + base64.b64encode(text * 24).decode() for text in (b"a", b"b"))


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def configuration(directory: Path, example: str) -> Path:
    """An example with a rule that uses its actions."""
    names = ", ".join(yaml.safe_load(example)["actions"])
    rule = f"{{name: hot, topic: products, key: product.name, count: {{at_least: 20, within: 5s}}, actions: [{names}]}}"
    path = directory / "tua.yaml"
    path.write_text(f"{example}rules: [{rule}]\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("example", blocks("yaml", BUILT_IN))
def test_an_example_of_a_configuration_has_no_mistake(tmp_path: Path, example: str) -> None:
    assert load(configuration(tmp_path, example), ACTION_TYPES).actions


def test_every_type_has_its_section_with_an_example() -> None:
    sections = re.findall(r"^## (.*)$", BUILT_IN, re.MULTILINE)
    assert sorted(sections) == sorted(ACTION_TYPES)
    for section in sections:
        examples = blocks("yaml", BUILT_IN.partition(f"## {section}\n")[2].partition("\n## ")[0])
        assert {one["type"] for text in examples for one in yaml.safe_load(text)["actions"].values()} == {section}


@pytest.mark.parametrize(("secret", "outcome"), [(SECRET, Delivered), (OTHER, Refused)])
async def test_the_receiver_accepts_a_webhook_of_its_own_secret_alone(
    monkeypatch: pytest.MonkeyPatch, secret: str, outcome: type[Outcome]
) -> None:
    (receiver,) = blocks("python", BUILT_IN)
    port = free_port()
    assert receiver.count("8090") == 1
    monkeypatch.setenv("SHOP_WEBHOOK_SECRET", SECRET)
    process = subprocess.Popen(
        [sys.executable, "-c", receiver.replace("8090", str(port))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        wait_until(lambda: is_open(port))
        monkeypatch.setenv("HOOK", secret)
        settings = action("webhook", url=f"http://127.0.0.1:{port}/", secret={"env": "HOOK"})
        hook = WebhookAction("web", settings, context())  # type: ignore[arg-type]
        alert = delivery(ALERT, "web")
        assert isinstance(await hook.deliver(alert), outcome)
        await hook.close()
    finally:
        process.terminate()
        printed, _ = process.communicate(timeout=20)
    assert printed == (f"{alert.id} opened …\n" if outcome is Delivered else "")


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Package:
    """The example of an action, as pip would install it."""

    def __init__(self, directory: Path) -> None:
        module, test, (project,) = *blocks("python", OF_YOUR_OWN), blocks("toml", OF_YOUR_OWN)
        self.lines = [line for text in (module, project, test) for line in text.splitlines() if line.strip()]
        information = directory / "tua_sms-1.0.dist-info"
        information.mkdir()
        points = tomllib.loads(project)["project"]["entry-points"]["tua.actions"]
        entries = "".join(f"{name} = {value}\n" for name, value in points.items())
        (information / "entry_points.txt").write_text(f"[tua.actions]\n{entries}")
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: tua-sms\nVersion: 1.0\n")
        (directory / "tua_sms.py").write_text(module)
        (directory / "test_tua_sms.py").write_text(test)
        self._directory = directory

    def run(self, *arguments: str) -> tuple[int, str]:
        """The exit code and the output of Python with the package beside tua."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(self._directory), str(ROOT)]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=self._directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return result.returncode, result.stdout + result.stderr


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return Package(tmp_path)


def test_the_action_of_your_own_passes_the_kit(package: Package) -> None:
    code, output = package.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_tua_sms.py")
    assert (code, "8 passed" in output) == (0, True), output


def test_the_action_of_your_own_is_known_to_tua_check(package: Package, tmp_path: Path) -> None:
    (example,) = blocks("yaml", OF_YOUR_OWN)
    code, output = package.run("-m", "tua", "check", str(configuration(tmp_path, example)))
    assert (code, "no mistakes in 1 rule and 1 action" in output) == (0, True), output


def test_the_action_of_your_own_is_under_forty_lines(package: Package) -> None:
    assert len(package.lines) < 40
