"""`tua deliveries` and `tua dead-letters`, beside a dispatcher that runs."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from actions.delivery.dispatcher import Dispatcher
from actions.registry import ACTION_TYPES
from settings import load
from tests.support.delivering import Broker, clock_ms, opened, resolved
from tests.support.receivers import HttpReceiver, Reply
from tests.support.waiting import wait_until
from tua.cli import app

CONFIGURATION = """
topics: {{products: {{}}}}
rules:
  - name: hot
    topic: products
    key: product.name
    count: {{at_least: 20, within: 5s}}
    actions: [{rule}]
actions:
  {name}: {{type: webhook, url: "{url}", retry: {{delays: [0s, 30ms], give_up: 1h}}}}
state: {{directory: {state}}}
"""


@pytest.fixture
def web():
    with HttpReceiver() as receiver:
        yield receiver


@pytest.fixture
def configuration(tmp_path: Path, web: HttpReceiver, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TUA_BOOTSTRAP_SERVERS", raising=False)
    return configure(tmp_path, web)


def configure(directory: Path, web: HttpReceiver, name: str = "hook") -> Path:
    file = directory / "tua.yaml"
    text = CONFIGURATION.format(rule=name, name=name, url=web.url, state=directory / "state")
    file.write_text(text, encoding="utf-8")
    return file


class Job:
    """The delivery of a job, with its configuration."""

    def __init__(self, configuration: Path) -> None:
        self.settings = load(configuration, ACTION_TYPES)
        self.broker = Broker()
        self.dispatcher = Dispatcher(self.settings, self.broker.publish, now_ms=clock_ms)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self.dispatcher.close(0)

    def put(self, *alerts: str) -> None:
        self.dispatcher.put([opened(self.settings, alert, f"Nokia {alert}") for alert in alerts])

    def done(self) -> None:
        wait_until(lambda: self.dispatcher.pending() == 0)


def tua(configuration: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--config", str(configuration)])


def lines(result: Result) -> list[dict]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_what_was_sent_is_listed_with_every_attempt_while_the_job_runs(configuration: Path, web: HttpReceiver) -> None:
    web.plan.append(Reply(503, body=b"come back later"))
    with Job(configuration) as job:
        life = opened(job.settings, "a", "Nokia")
        job.dispatcher.put([life, resolved(life)])
        job.done()
        first, second = lines(tua(configuration, "deliveries", "--format", "jsonl"))
    assert (first["alert"], first["sequence"], first["action"], first["state"]) == ("a", 1, "hook", "delivered")
    assert first["delivery"] == web.ids()[0]
    assert first["told"]["key"] == {"product.name": "Nokia"}
    history = [(one["attempt"], one["outcome"], one["answer"]) for one in first["history"]]
    assert history == [(1, "retry", "503 come back later"), (2, "delivered", "200 ok")]
    assert first["made_at"] <= first["history"][0]["at"] <= first["history"][1]["at"] <= first["ended_at"]
    assert (second["sequence"], second["attempts"]) == (2, 1)


def test_a_table_says_it_in_short(configuration: Path, web: HttpReceiver) -> None:
    web.plan.append(Reply(404, body=b"\x1b[2Jno such hook"))
    with Job(configuration) as job:
        job.put("a")
        job.done()
        result = tua(configuration, "deliveries")
    assert result.exit_code == 0
    (row,) = result.stdout.splitlines()[1:]
    assert "hot: Nokia a opened" in row
    assert "dead: refused" in row
    assert "404 \\u001b[2Jno such hook" in row
    assert result.stderr == "1 delivery\n"


def test_they_can_be_filtered(configuration: Path, web: HttpReceiver) -> None:
    web.plan.extend([Reply(404)])
    with Job(configuration) as job:
        job.put("a")
        job.done()
        job.put("b", "c")
        job.done()
        assert [one["alert"] for one in lines(tua(configuration, "deliveries", "--format", "jsonl"))] == ["a", "b", "c"]
        chosen = {
            "--alert b": ["b"],
            "--failed": ["a"],
            "--action tua.alerts": ["a", "b", "c"],
            "--action nothing": [],
            "--limit 2": ["b", "c"],
        }
        for option, alerts in chosen.items():
            found = lines(tua(configuration, "deliveries", "--format", "jsonl", *option.split()))
            assert [one["alert"] for one in found] == alerts, option


def test_more_than_a_page_is_listed_whole(configuration: Path) -> None:
    with Job(configuration) as job:
        job.put(*(str(n) for n in range(1_100)))
        job.done()
        found = lines(tua(configuration, "deliveries", "--format", "jsonl"))
        table = tua(configuration, "deliveries")
    assert [one["alert"] for one in found] == [str(n) for n in range(1_100)]
    assert table.stderr == "the newest 100 of 1100 deliveries\n"
    assert "Nokia 1000 opened" in table.stdout.splitlines()[1]


def test_what_was_given_up_is_sent_once_more_to_where_the_configuration_says_now(
    configuration: Path, web: HttpReceiver, tmp_path: Path
) -> None:
    web.plan.append(Reply(404, body=b"no such hook"))
    with Job(configuration) as job:
        job.put("a", "b")
        job.done()
        (letter,) = lines(tua(configuration, "dead-letters", "list", "--format", "jsonl"))
        assert (letter["last_answer"], letter["reason"]) == ("404 no such hook", "refused")
        refused = web.ids()[0]
    with HttpReceiver() as elsewhere, Job(configure(tmp_path, elsewhere)) as job:
        result = tua(configuration, "dead-letters", "redrive", "--alert", letter["alert"])
        assert result.stdout.startswith("1 dead letter will be sent once more")
        wait_until(lambda: elsewhere.requests)
        job.done()
        assert elsewhere.ids() == [refused]
        assert lines(tua(configuration, "dead-letters", "list", "--format", "jsonl")) == []


def test_what_dies_again_is_a_dead_letter_again(configuration: Path, web: HttpReceiver) -> None:
    web.default = Reply(404)
    with Job(configuration) as job:
        job.put("a")
        job.done()
        assert tua(configuration, "dead-letters", "redrive", "--all").exit_code == 0
        wait_until(lambda: len(job.broker.on("tua.dead-letters")) == 2)
        assert [letter["attempts"] for letter in job.broker.on("tua.dead-letters")] == [1, 2]


def test_opened_comes_before_resolved_also_when_both_are_redriven(configuration: Path, web: HttpReceiver) -> None:
    web.default = Reply(404)
    with Job(configuration) as job:
        life = opened(job.settings, "a", "Nokia")
        job.dispatcher.put([life, resolved(life)])
        job.done()
    web.default = Reply(200)
    assert tua(configuration, "dead-letters", "redrive", "--action", "hook").exit_code == 0
    web.requests.clear()
    with Job(configuration) as job:
        wait_until(lambda: len(web.requests) == 2)
    assert [json.loads(request.body)["type"] for request in web.requests] == ["alert.opened", "alert.resolved"]


def test_what_has_nowhere_to_go_stays_and_is_named(configuration: Path, web: HttpReceiver, tmp_path: Path) -> None:
    web.default = Reply(404)
    with Job(configuration) as job:
        job.put("a")
        job.done()
    result = tua(configure(tmp_path, web, name="hooks"), "dead-letters", "redrive", "--all")
    assert result.exit_code == 1
    assert "1 dead letter of 'hook', which is no longer configured (did you mean 'hooks'?)" in result.stderr
    assert [one["alert"] for one in lines(tua(configuration, "dead-letters", "list", "--format", "jsonl"))] == ["a"]


def test_what_would_come_after_its_sequel_is_left_alone_unless_it_is_wanted(
    configuration: Path, web: HttpReceiver
) -> None:
    web.plan.append(Reply(404))
    with Job(configuration) as job:
        life = opened(job.settings, "a", "Nokia")
        job.dispatcher.put([life])
        job.done()
        job.dispatcher.put([resolved(life)])
        job.done()
        result = tua(configuration, "dead-letters", "redrive", "--all")
        assert result.exit_code == 1
        assert "left alone: 1 dead letter whose recipient was told since how the alert went on" in result.stderr
        assert tua(configuration, "dead-letters", "redrive", "--all", "--overtaken").exit_code == 0
        wait_until(lambda: len(web.requests) == 3)


def test_many_are_redriven_in_bites(configuration: Path, web: HttpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actions.delivery.audit.SLICE", 10)
    web.default = Reply(404)
    with Job(configuration) as job:
        job.put(*(str(n) for n in range(35)))
        job.done()
    assert tua(configuration, "dead-letters", "redrive", "--all").stdout.startswith("35 dead letters will be")
    assert lines(tua(configuration, "dead-letters", "list", "--format", "jsonl")) == []


def test_looking_needs_no_right_to_write_and_waits_for_nobody(configuration: Path, tmp_path: Path) -> None:
    with Job(configuration) as job:
        job.put("a")
        job.done()
        with closing(sqlite3.connect(tmp_path / "state" / "outbox.sqlite", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            assert len(lines(tua(configuration, "deliveries", "--format", "jsonl"))) == 1
            db.execute("ROLLBACK")


def test_json_lines_steer_no_terminal_either(configuration: Path) -> None:
    name = "\x9b31m\u202e\u2028\x7f"
    with Job(configuration) as job:
        job.dispatcher.put([opened(job.settings, "a", name)])
        job.done()
    result = tua(configuration, "deliveries", "--format", "jsonl")
    assert all(char.isprintable() for char in result.stdout.rstrip("\n"))
    assert lines(result)[0]["told"]["key"] == {"product.name": name}


def test_a_row_that_cannot_be_read_is_listed_all_the_same(configuration: Path, tmp_path: Path) -> None:
    with Job(configuration) as job:
        job.put("a", "b")
        job.done()
    with closing(sqlite3.connect(tmp_path / "state" / "outbox.sqlite")) as db, db:
        db.execute("UPDATE deliveries SET body = x'ff00' WHERE alert_id = 'a'")
    assert "(cannot be read)" in tua(configuration, "deliveries").stdout
    found = lines(tua(configuration, "deliveries", "--format", "jsonl"))
    assert [one["told"] is None for one in found] == [True, False]


def test_redrive_wants_to_be_told_what(configuration: Path) -> None:
    result = tua(configuration, "dead-letters", "redrive")
    assert result.exit_code == 2
    assert "--all" in result.stderr


@pytest.mark.parametrize("command", [("deliveries",), ("dead-letters", "list"), ("dead-letters", "redrive", "--all")])
def test_without_an_outbox_it_says_so_and_makes_none(configuration: Path, tmp_path: Path, command: tuple[str]) -> None:
    result = tua(configuration, *command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no outbox at" in result.stderr
    assert not (tmp_path / "state").exists()


def test_what_is_no_outbox_is_said_to_be_none(configuration: Path, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "outbox.sqlite").write_text("hello", encoding="utf-8")
    result = tua(configuration, "deliveries")
    assert result.exit_code == 1
    assert "cannot be opened" in result.stderr
