"""`tua backtest`: the alerts of recorded events equal brute force, and a mistake of the file is told with its line."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from scripts.ground_truth import accepted, episodes
from tua.cli import app
from tua.event_file import EventFile

CONFIG = """
topics:
  orders: {lateness: 1s, max_future: 10s}
rules:
  - {name: hot, topic: orders, where: {action: add}, key: name, count: {at_least: 3, within: 5s}}
"""
START = 1_700_000_000_000


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUA_CONFIG", raising=False)
    Path("tua.yaml").write_text(CONFIG, encoding="utf-8")


def order(name: object, at_ms: int, action: str = "add", **more: Any) -> dict[str, Any]:
    return {"timestamp": START + at_ms, "value": {"name": name, "action": action}, **more}


def backtest(*lines: dict[str, Any] | str, more: tuple[str, ...] = ("--format", "jsonl")) -> Result:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    Path("events.jsonl").write_text(text, encoding="utf-8")
    return CliRunner().invoke(app, ["backtest", "--events", "events.jsonl", *more])


def alerts(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_an_episode_is_one_line_with_all_that_is_fixed_for_it() -> None:
    (alert,) = alerts(backtest(*(order("Nokia", at_ms) for at_ms in (0, 1000, 2000, 4500, 5500))))
    assert isinstance(alert.pop("id"), str)
    assert alert == {
        "rule": "hot", "key": {"name": "Nokia"}, "opened_at_ms": START + 2000, "resolves_at_ms": START + 7000,
        "peak": 4, "peak_exact": True, "events": 5,
    }  # fmt: skip


def test_it_equals_brute_force_on_disordered_orders_of_two_partitions_and_says_the_same_again() -> None:
    generator = random.Random(5)
    names = [f"p{number}" for number in range(12)]
    lines = []
    for number in range(3_000):
        at_ms = number * 40 - generator.randrange(1_500)
        lines.append(order(generator.choice(names), max(0, at_ms), partition=generator.randrange(2)))
    good = accepted([(line["partition"], line["timestamp"]) for line in lines], lateness=1_000)
    assert not all(good)
    must = set()
    for name in names:
        times = [
            line["timestamp"] for line, fine in zip(lines, good, strict=True) if fine and line["value"]["name"] == name
        ]
        must |= {(name, *episode) for episode in episodes(times, 5_000, 3)}
    first = backtest(*lines)
    found = alerts(first)
    assert {(a["key"]["name"], a["opened_at_ms"], a["resolves_at_ms"], a["peak"], a["events"]) for a in found} == must
    assert len(found) == len(must)
    order_of = [(a["opened_at_ms"], a["rule"], json.dumps(a["key"], separators=(",", ":"))) for a in found]
    assert order_of == sorted(order_of)
    assert backtest(*lines).stdout == first.stdout


def test_a_line_may_name_its_topic_partition_offset_and_any_bytes_as_value() -> None:
    value = json.dumps({"name": "Nokia", "action": "add"}).encode()
    found = alerts(
        backtest(
            order("Nokia", 0, topic="orders", partition=1, offset=12, key="17"),
            order("Nokia", 10, partition=1, offset=90),
            {"timestamp": START + 20, "value_base64": base64.b64encode(value).decode()},
        )
    )
    assert [alert["events"] for alert in found] == [3]


def test_keys_keep_their_json_type() -> None:
    found = alerts(backtest(*(order(name, at_ms) for at_ms in range(3) for name in ("17", 17, True))))
    assert [repr(alert["key"]["name"]) for alert in found] == ["'17'", "17", "True"]


def test_what_does_not_count_goes_to_the_rejects_with_its_place_and_reason() -> None:
    result = backtest(
        order("Nokia", 5_000),
        order("Nokia", 3_999),
        order("Nokia", 30_000, arrival=START),
        order(None, 5_000),
        order(None, 5_000, "delete"),
        {"timestamp": START + 5_000, "value_base64": base64.b64encode(b'{"x":').decode()},
        {"timestamp": START + 5_000},
        more=("--rejects", "rejects.jsonl"),
    )
    assert result.exit_code == 0
    assert "7 events, 0 alerts; records that do not count: 1 late, 1 future, 3 invalid" in result.stderr
    rejects = [json.loads(line) for line in Path("rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(r["reason"], r["topic"], r["partition"], r["offset"]) for r in rejects] == [
        ("late", "orders", 0, 1), ("future", "orders", 0, 2), ("invalid", "orders", 0, 3),
        ("invalid", "orders", 0, 5), ("invalid", "orders", 0, 6),
    ]  # fmt: skip
    assert all(r["detail"] for r in rejects)


def test_the_table_is_for_people_and_no_key_reaches_the_terminal_raw() -> None:
    result = backtest(*(order("No\x1b[31mkia", at_ms) for at_ms in (0, 1000, 2000)), more=())
    assert "2023-11-14 22:13:22.000" in result.stdout
    assert "3 seconds" in result.stdout
    assert "\x1b" not in result.stdout
    assert "No\\x1b[31mkia" in result.stdout


def test_the_table_says_what_people_would_have_been_spared_by_a_cooldown() -> None:
    Path("tua.yaml").write_text(CONFIG.replace("within: 5s}}", "within: 5s}, cooldown: 1m}"), encoding="utf-8")
    bursts = [order("Nokia", start + at_ms) for start in (0, 30_000, 90_000) for at_ms in (0, 100, 200)]
    result = backtest(*bursts, order("iPad", 200_000), more=())
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ["told", "yes", "cooldown", "yes"]
    assert "hot: its cooldown spares people 1 alert of these" in result.stderr


@pytest.mark.parametrize(
    ("line", "what"),
    [
        pytest.param("", "blank", id="a blank line"),
        pytest.param("{", "not JSON", id="not JSON"),
        pytest.param('{"value": {}}', "timestamp", id="no timestamp"),
        pytest.param('{"timestamp": "now", "value": {}}', "timestamp", id="a wrong type"),
        pytest.param(json.dumps(order("x", 0, topic="ordres")), "'ordres' is not configured", id="an unknown topic"),
        pytest.param(json.dumps(order("x", 0, offset=3)), "offset 3 of orders[0] follows", id="a falling offset"),
        pytest.param('{"timestamp": 1, "value_base64": "?"}', "value_base64", id="no base64"),
        pytest.param('{"timestamp": 1, "value_base64": "é"}', "value_base64", id="no ASCII"),
    ],
)
def test_a_mistake_of_the_file_is_told_with_its_line_before_anything_is_counted(line: str, what: str) -> None:
    result = backtest(*(order("Nokia", at_ms, offset=at_ms) for at_ms in (4, 5)), line, order("Nokia", 9, offset=9))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("events.jsonl:3: ")
    assert what in result.stderr


def test_a_file_that_is_not_there_is_said_and_an_empty_one_is_fine() -> None:
    missing = CliRunner().invoke(app, ["backtest", "--events", "none.jsonl"])
    assert missing.exit_code == 1
    assert "none.jsonl" in missing.stderr
    assert alerts(backtest()) == []


def run(*arguments: str, stdin: bytes | None = None, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`tua backtest` in a process of its own, as a shell would have it."""
    command = [sys.executable, "-m", "tua", "backtest", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, env={**os.environ, **environment}, check=False)


HOT = b"".join(json.dumps(order("N\N{SNOWMAN}", at_ms)).encode() + b"\n" for at_ms in (0, 1000, 2000))


def test_events_may_come_through_a_pipe() -> None:
    result = run("--events", "/dev/stdin", "--format", "jsonl", stdin=HOT)
    assert (result.returncode, result.stdout.count(b"opened_at_ms")) == (0, 1), result.stderr


def test_what_is_added_to_the_file_meanwhile_is_left_out() -> None:
    path = Path("events.jsonl")
    path.write_bytes(HOT)
    file = EventFile(path, ["orders"])
    with path.open("ab") as more:
        more.write(HOT + b'{"partition": 1, "timestamp": 1, "value": {}}\n')
    assert len(list(file.records())) == sum(file.sizes.values()) == 3
    file.close()


def test_the_rejects_never_overwrite_the_events() -> None:
    Path("events.jsonl").write_bytes(HOT)
    Path("link.jsonl").symlink_to("events.jsonl")
    result = run("--events", "events.jsonl", "--rejects", "link.jsonl")
    assert (result.returncode, Path("events.jsonl").read_bytes()) == (2, HOT)
    Path("rejects.jsonl").write_text("of the last time", encoding="utf-8")
    result = run("--events", "no.jsonl", "--rejects", "rejects.jsonl")
    assert (result.returncode, Path("rejects.jsonl").read_text(encoding="utf-8")) == (1, "of the last time")


@pytest.mark.parametrize("format_", ["table", "jsonl"])
def test_any_terminal_and_any_file_can_take_what_it_says(format_: str) -> None:
    result = run("--events", "/dev/stdin", "--format", format_, stdin=HOT, PYTHONIOENCODING="latin-1")
    assert (result.returncode, b"Traceback" in result.stderr) == (0, False)
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "tua", "backtest", "--events", "/dev/stdin", "--format", format_]
        result = subprocess.run(command, input=HOT, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (result.returncode, b"Traceback" in result.stderr) == (1, False)
    assert b"No space left" in result.stderr


def test_where_no_alert_is_raised_it_says_what_became_of_the_events() -> None:
    typo = {"timestamp": START, "value": {"nmae": "Nokia", "action": "add"}}
    result = backtest(order("Nokia", 0), order("Nokia", 1, "dd"), typo, typo)
    assert "4 events, 0 alerts; records that do not count: 2 invalid" in result.stderr
    assert "most often: key name: missing" in result.stderr
    assert "hot: no alert; 1 of the events pass its `where` and have its key" in result.stderr
    assert "1 alert;" in backtest(*(order("Nokia", at_ms) for at_ms in (0, 1, 2))).stderr


def test_a_byte_order_mark_is_no_mistake_and_keys_of_other_types_look_different() -> None:
    keys = ["1", 1, True, "true"]
    lines = [json.dumps(order(key, at_ms)) for key in keys for at_ms in (0, 0, 0)]
    result = backtest("\ufeff" + lines[0], *lines[1:], more=())
    assert result.exit_code == 0, result.stderr
    found = [line.split("warning")[1].split()[0] for line in result.stdout.splitlines()[1:]]
    assert sorted(found) == ['"1"', '"true"', "1", "true"]
