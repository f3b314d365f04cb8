import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tua.cli import app

ROOT = Path(__file__).parents[2]
SENTENCE = (
    "hot-product: alerts (warning) when one product.name has 20 events within 5 seconds"
    " on topic products where action is add -> log, support-email, shop-webhook"
)
BAD = """
rules:
  - name: hot
    topic: product
    where: {action: on}
    key: product.name
    count: {at_least: 0, within: 5}
    actions: [log]
"""


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TUA_")]:
        monkeypatch.delenv(name)


def tua(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_the_shipped_configuration_is_understood_in_one_sentence_a_rule(monkeypatch) -> None:
    monkeypatch.setenv("TUA_WEBHOOK_SECRET", "nobody reads this")
    result = tua("check", str(ROOT / "tua.yaml"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [f"{ROOT / 'tua.yaml'}: no mistakes in 1 rule and 3 actions", SENTENCE]


def test_every_mistake_is_one_line_on_standard_error_and_the_exit_code_is_1() -> None:
    Path("tua.yaml").write_text(BAD)
    result = tua("check")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "tua.yaml:4:12: error: there is no topic 'product' below `topics:` (did you mean 'products'?)",
        "tua.yaml:5:21: error: 'on' may be read as a boolean or as text (write true, or \"on\" in quotes for text)",
        "tua.yaml:7:23: error: this must be at least 1, not 0",
        "tua.yaml:7:34: error: 5 is a duration without a unit (write 5s for seconds; units are ms, s, m, h and d)",
        "tua.yaml: 4 mistakes",
    ]


def test_the_file_is_the_argument_or_the_option_or_the_environments_or_tua_yaml(monkeypatch) -> None:
    for name in ("argument", "option", "environment", "tua"):
        Path(f"{name}.yaml").write_text((ROOT / "tua.yaml").read_text())
    monkeypatch.setenv("TUA_CONFIG", "environment.yaml")
    assert tua("check", "argument.yaml").stdout.startswith("argument.yaml: ")
    assert tua("check", "--config", "option.yaml").stdout.startswith("option.yaml: ")
    assert tua("check").stdout.startswith("environment.yaml: ")
    monkeypatch.setenv("TUA_CONFIG", "")
    assert tua("check").stdout.startswith("tua.yaml: ")


def test_a_file_that_is_not_there_is_said_so() -> None:
    result = tua("check", "none.yaml")
    assert result.exit_code == 1
    assert result.stderr.startswith("none.yaml:1:1: error: there is no such file (give another with --config FILE")


def test_notes_do_not_make_it_fail() -> None:
    Path("tua.yaml").write_text(
        BAD.replace("product\n", "products\n").replace("on}", "add}").replace("0, within: 5", "1, within: 5s")
        + "topics: {products: {}, spare: {}}\n"
    )
    result = tua("check")
    assert result.exit_code == 0
    assert result.stderr == "tua.yaml:9:24: note: no rule reads the topic 'spare'\n"


def test_a_webhook_without_a_secret_is_said_not_to_be_signed() -> None:
    text = (ROOT / "tua.yaml").read_text()
    Path("tua.yaml").write_text("\n".join(line for line in text.splitlines() if "secret: {env" not in line))
    result = tua("check")
    assert result.exit_code == 0
    assert "note: shop-webhook: " in result.stderr
    assert "not signed" in result.stderr


def test_a_secret_that_is_not_set_is_said_not_to_sign() -> None:
    result = tua("check", str(ROOT / "tua.yaml"))
    assert result.exit_code == 0
    assert "note: shop-webhook: the environment variable TUA_WEBHOOK_SECRET is not set here" in result.stderr


@pytest.mark.parametrize("arguments", [["check", "tua.yaml"], ["check", "--config", "tua.yaml"]])
def test_a_file_that_must_not_be_read_is_a_mistake_like_any_other(monkeypatch, arguments: list[str]) -> None:
    def refuse(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    Path("tua.yaml").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    result = tua(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("tua.yaml:1:1: error: the file cannot be read: Permission denied")


def test_a_rule_with_several_keys_and_values_is_still_a_sentence() -> None:
    Path("tua.yaml").write_text("""
rules:
  - name: r
    topic: products
    where: {action: [add, "17", 17, true, null], "user.kind": new user}
    key: [user_id, ip]
    count: {at_least: 1, within: 90s}
""")
    assert tua("check").stdout.splitlines()[1] == (
        "r: alerts (warning) when one combination of user_id and ip has 1 event within 90 seconds on topic products"
        ' where action is add, "17", 17, true or null and user.kind is "new user" -> the alerts topic alone'
    ).replace("90 seconds", "1 minute 30 seconds")


@pytest.mark.parametrize("arguments", [["check", "--nope"], ["nope"], [], ["check", "a", "--config", "b"]])
def test_a_wrong_use_of_the_command_is_exit_code_2(arguments: list[str]) -> None:
    assert tua(*arguments).exit_code == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("arguments", [["check", str(ROOT / "tua.yaml")], ["--help"]])
def test_what_cannot_be_written_is_said_without_a_traceback(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tua", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "tua: what there is to say cannot be written to standard output: No space left on device"
    )
    assert "Traceback" not in done.stderr


def test_it_runs_as_a_module_in_plain_text_and_without_a_traceback(tmp_path: Path) -> None:
    Path("tua.yaml").write_text(BAD + "x" * 300 + ": 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "tua", "check"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "40", "TERM": "xterm-256color"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["tua.yaml"] * 6  # none is wrapped
