"""Actions of installed packages: known to `tua check` by their entry points, each loaded only where it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actions.log import LogAction
from actions.registry import ACTION_TYPES
from tua.plugin import ActionSettings

ROOT = Path(__file__).parents[2]
SMS = """
from typing import Literal
from tua.plugin import Action, ActionSettings, Delivered, Delivery

class SmsSettings(ActionSettings):
    type: Literal["sms"] = "sms"
    number: str

class SmsAction(Action[SmsSettings]):
    settings_type = SmsSettings
    async def deliver(self, delivery: Delivery) -> Delivered:
        return Delivered()
"""
USED = """\
rules:
  - name: hot
    topic: products
    key: product.name
    count: {at_least: 20, within: 5s}
    actions: [phone]
actions:
  phone:
    type: %s
    number: "+43 1"
"""
UNUSED = USED.replace("type: %s\n    number", "type: webhook\n    url: https://example.com\n    secret: {env: X}\n#")


class Site:
    """A folder with installed packages, and `tua check` in a process that has it on its path."""

    def __init__(self, directory: Path) -> None:
        self._packages, self._file = directory / "site", directory / "tua.yaml"

    def install(self, package: str, module: str, *entry_points: str) -> None:
        information = self._packages / f"{package.replace('-', '_')}-1.0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text("\n".join(["[tua.actions]", *entry_points, ""]))
        (self._packages / f"{package.replace('-', '_')}.py").write_text(module)

    def check(self, configuration: str) -> tuple[int, str]:
        """The exit code and what is on standard error, the file's name in short."""
        self._file.write_text(configuration)
        path = os.pathsep.join([str(self._packages), str(ROOT)])
        result = subprocess.run(
            [sys.executable, "-m", "tua", "check", str(self._file)],
            env={**os.environ, "PYTHONPATH": path, "X": "whsec_eHh4"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return result.returncode, result.stderr.replace(str(self._file), "tua.yaml")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_type_of_an_installed_package_is_known_with_its_settings(site: Site) -> None:
    site.install("tua-sms", SMS, "sms = tua_sms:SmsAction")
    assert site.check(USED % "sms") == (0, "")
    code, said = site.check((USED % "sms").replace("number", "nummer"))
    assert code == 1
    assert "tua.yaml:10:5: error: unknown setting 'nummer' (did you mean 'number'?)" in said
    _, said = site.check(USED % "sns")
    assert "tua.yaml:9:11: error: there is no type of action 'sns' (did you mean 'sms'?)" in said


BROKEN = [
    pytest.param("import nothing_of_the_kind", "raised ModuleNotFoundError: No module named", id="lacks a module"),
    pytest.param("", "raised AttributeError: module 'tua_sms' has no attribute 'SmsAction'", id="lacks the class"),
    pytest.param("def", "raised SyntaxError: invalid syntax (tua_sms.py, line 1)", id="cannot be read"),
    pytest.param("raise ValueError('first\\nsecond')", "raised ValueError: first second", id="says two lines"),
    pytest.param("raise SystemExit('go away')", "raised SystemExit: go away", id="ends the program"),
    pytest.param("SmsAction = dict", "of the package tua-sms is no subclass of Action", id="is no action"),
    pytest.param("SmsAction = 17", "is no subclass of Action", id="is no class"),
    pytest.param("from tua.plugin import HttpAction as SmsAction", "lacks compose", id="is abstract"),
    pytest.param(
        SMS.replace("settings_type =", "settings ="),
        "has no settings_type that is a subclass of ActionSettings",
        id="has no settings",
    ),
    pytest.param(
        SMS.replace("settings_type = SmsSettings", "settings_type = dict"),
        "has no settings_type that is a subclass of ActionSettings",
        id="has settings of another kind",
    ),
    pytest.param(
        SMS.replace('Literal["sms"] = "sms"', "str"),
        "has settings whose type is not 'sms' by default",
        id="does not say its type",
    ),
]


@pytest.mark.parametrize(("module", "message"), BROKEN)
def test_a_broken_one_that_is_used_is_a_mistake_with_its_place(site: Site, module: str, message: str) -> None:
    site.install("tua-sms", module, "sms = tua_sms:SmsAction")
    code, said = site.check(USED % "sms")
    mistake, count = said.splitlines()
    assert code == 1
    assert mistake.startswith("tua.yaml:9:11: error: the type 'sms' ")
    assert message in mistake
    assert count == "tua.yaml: 1 mistake"


def test_broken_ones_that_are_not_used_break_nothing(site: Site) -> None:
    for number, case in enumerate(BROKEN):
        site.install(f"tua-sms-{number}", str(case.values[0]), f"sms{number} = tua_sms_{number}:SmsAction")
    assert site.check(UNUSED) == (0, "")


def test_a_name_of_tuas_own_is_not_taken_from_it(site: Site) -> None:
    site.install("tua-sms", SMS.replace("sms", "webhook"), "webhook = tua_sms:SmsAction", "sms = tua_sms:SmsAction")
    code, said = site.check(UNUSED)
    assert code == 1
    assert said.splitlines()[0] == (
        "tua.yaml:9:11: error: the type 'webhook' comes from tua itself and from tua-sms (uninstall what is not wanted)"
    )


def test_a_name_that_two_packages_have_is_nobodys(site: Site) -> None:
    site.install("tua-sms", SMS, "sms = tua_sms:SmsAction")
    site.install("other-sms", SMS, "sms = other_sms:SmsAction")
    assert site.check(UNUSED) == (0, "")
    code, said = site.check(USED % "sms")
    assert code == 1
    assert said.splitlines()[0] == (
        "tua.yaml:9:11: error: the type 'sms' comes from other-sms and from tua-sms (uninstall what is not wanted)"
    )


def test_a_class_can_be_lent_to_a_test_whether_it_is_installed_or_not() -> None:
    class Settings(ActionSettings):
        type: str = "lent"

    class Lent(LogAction):
        settings_type = Settings  # type: ignore[assignment]

    with ACTION_TYPES.lent(Lent):
        assert ACTION_TYPES["lent"] is Settings
        assert "lent" in list(ACTION_TYPES)
        assert len(ACTION_TYPES) == len(list(ACTION_TYPES))
    assert "lent" not in ACTION_TYPES
    with pytest.raises(KeyError):
        ACTION_TYPES["lent"]
