"""`tua send-test` as a process of its own, against real servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from tests.support.cluster import Cluster
from tests.support.receivers import HttpReceiver, MailReceiver, Reply, free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0IQ=="
TOKEN = "T0kenInTheUrl"

Tua = Callable[..., subprocess.CompletedProcess[str]]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tua", "send-test", *arguments]


def environment(more: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TUA_")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


@pytest.fixture
def tua(tmp_path: Path) -> Tua:
    """`tua({name: action}, NAME)` runs the command in a directory of its own, with a rule that names the actions."""

    def run(
        actions: dict[str, Any], *arguments: str, kafka: dict[str, Any] | None = None, **more: str
    ) -> subprocess.CompletedProcess[str]:
        configure(tmp_path, actions, kafka)
        done = subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            env=environment(more),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert sorted(file.name for file in tmp_path.iterdir()) == ["tua.yaml"]  # no outbox, no state
        return done

    return run


def configure(directory: Path, actions: dict[str, Any], kafka: dict[str, Any] | None = None) -> None:
    rule = {"name": "hot", "topic": "products", "key": "product.name", "actions": list(actions)}
    config = {
        "kafka": kafka or {"bootstrap_servers": f"127.0.0.1:{free_port()}"},
        "rules": [{**rule, "count": {"at_least": 20, "within": "5s"}}],
        "actions": actions,
    }
    (directory / "tua.yaml").write_text(json.dumps(config))


def mail_action(port: int, **more: Any) -> dict[str, Any]:
    fixed = {"type": "email", "host": "127.0.0.1", "port": port, "tls": "none", "from": "alerts@example.com"}
    return {**fixed, "to": ["support@example.com"], **more}


def test_a_mail_arrives_and_what_the_server_said_is_printed(tua: Tua) -> None:
    with MailReceiver() as mail:
        done = tua({"support": mail_action(mail.port, send=["resolved"])}, "support")
    assert (done.returncode, done.stdout) == (0, "support@example.com: delivered: 250 Accepted\n")
    assert done.stderr == "support: sending a test alert to support@example.com; at most 60 s for each answer …\n"
    (got,) = mail.mails
    assert got.message["Subject"] == "[test] test: test"
    text = got.message.get_body(("plain",))
    assert text is not None
    assert text.get_content().startswith("This is a test of the action 'support', sent by tua send-test.")
    assert "this is a test; nothing happened" in text.get_content()


def test_each_recipient_has_an_answer_of_its_own_and_one_that_fails_is_exit_code_1(tua: Tua) -> None:
    with MailReceiver() as mail:
        mail.refuse = {"b@example.com": "550 no such user", "c@example.com": "450 busy\x1b[2J"}
        to = ["a@example.com", "b@example.com", "c@example.com"]
        done = tua({"support": mail_action(mail.port, to=to)}, "support")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "a@example.com: delivered: 250 Accepted",
        "b@example.com: refused for good: 550 no such user",
        "c@example.com: failed; the job would try it again: 450 busy\\u001b[2J",
    ]
    assert len(mail.mails) == 1


def test_a_template_that_needs_the_rules_key_is_tried_as_it_is(tua: Tua) -> None:
    with MailReceiver() as mail:
        templates = {"subject": "{{ key['product.name'] }} is hot ({{ status }}, {{ label }})"}
        done = tua({"support": mail_action(mail.port, templates=templates)}, "support")
    assert done.returncode == 0
    assert mail.subjects() == ["test is hot (opened, test)"]


def test_a_webhook_is_signed_and_marked_and_another_one_each_time(tua: Tua) -> None:
    with HttpReceiver(default=Reply(200, body=b"thanks")) as web:
        actions = {"shop": {"type": "webhook", "url": web.url, "secret": {"env": "HOOK"}}}
        for _ in range(2):
            done = tua(actions, "shop", HOOK=SECRET)
            assert (done.returncode, done.stdout) == (0, f"http://127.0.0.1:{web.port}: delivered: 200 thanks\n")
    for request in web.requests:
        body = Webhook(SECRET).verify(request.body, request.headers)
        assert body["type"] == "alert.opened"
        assert body["data"]["test"] is True
        assert (body["data"]["rule"], body["data"]["key"]) == ("test", {"product.name": "test"})
    assert len({json.loads(request.body)["data"]["id"] for request in web.requests}) == 2
    assert len(set(web.ids())) == 2


def test_secrets_are_printed_neither_when_it_works_nor_when_it_fails(tua: Tua) -> None:
    with HttpReceiver() as web:
        actions = {"shop": {"type": "webhook", "url": {"env": "URL"}, "secret": {"env": "HOOK"}}}
        for status in (200, 404, 500):
            web.plan.append(Reply(status, body=f"{SECRET} for /alerts/{TOKEN}?key={TOKEN} it is".encode()))
            done = tua(actions, "shop", HOOK=SECRET, URL=f"{web.url}/{TOKEN}?key={TOKEN}")
            assert done.returncode == (0 if status == 200 else 1)
            assert f"{status} whsec_***== for *** it is" in done.stdout
            assert TOKEN not in done.stdout + done.stderr
            assert SECRET.removeprefix("whsec_") not in done.stdout + done.stderr


def test_an_unknown_action_is_exit_code_2_with_the_nearest_name(tua: Tua) -> None:
    done = tua({"support-email": mail_action(25), "log": {"type": "log"}}, "suport-email")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no action 'suport-email' below `actions:` (did you mean 'support-email'?)" in done.stderr
    assert tua({"log": {"type": "log"}}).returncode == 2


def test_an_action_that_cannot_be_built_says_why(tua: Tua) -> None:
    done = tua({"shop": {"type": "webhook", "url": {"env": "NOT_SET"}}}, "shop")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "action shop: the url comes from the environment variable NOT_SET, which is not set\n"


def test_a_mistake_of_the_configuration_is_said_as_by_check(tua: Tua) -> None:
    done = tua({"log": {"type": "lgo"}}, "log")
    assert done.returncode == 1
    assert "there is no type of action 'lgo' (did you mean 'log'?)" in done.stderr


def test_another_action_that_cannot_be_built_is_in_nobodys_way(tua: Tua) -> None:
    done = tua({"log": {"type": "log"}, "shop": {"type": "webhook", "url": {"env": "NOT_SET"}}}, "log")
    assert done.returncode == 0
    alert, said = done.stdout.splitlines()
    assert json.loads(alert)["test"] is True
    assert said == "log: delivered: written"


def test_a_server_that_is_not_there_is_exit_code_1(tua: Tua) -> None:
    done = tua({"shop": {"type": "webhook", "url": f"http://127.0.0.1:{free_port()}/"}}, "shop")
    assert done.returncode == 1
    assert done.stdout.endswith(": failed; the job would try it again: cannot connect: the connection was refused\n")


def test_a_program_is_run_within_its_own_time_limit(tua: Tua) -> None:
    done = tua({"page": {"type": "exec", "command": ["/bin/cat"]}}, "page")
    assert done.returncode == 0
    assert done.stdout.startswith('/bin/cat: delivered: exit 0 {"id":')
    done = tua({"page": {"type": "exec", "command": ["/bin/sleep", "60"], "timeout": "100ms"}}, "page")
    assert done.returncode == 1
    assert done.stdout == "/bin/sleep: failed; the job would try it again: no answer within 0.1 s\n"
    assert "at most 0.1 s for each answer" in done.stderr


def test_ctrl_c_ends_it_while_it_waits_and_it_had_said_for_what(tmp_path: Path) -> None:
    with HttpReceiver(default=Reply(hang=True)) as web:
        configure(tmp_path, {"shop": {"type": "webhook", "url": web.url}})
        process = subprocess.Popen(
            command("shop"),
            cwd=tmp_path,
            env=environment({}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: web.requests)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert time.monotonic() - began < 5
    assert "sending a test alert to" in err
    assert "Traceback" not in err


def test_kafka_that_is_not_there_is_said_while_it_waits(tua: Tua) -> None:
    done = tua({"team": {"type": "kafka", "topic": "shop.alerts"}}, "team")
    assert done.returncode == 1
    assert done.stdout.startswith("shop.alerts: failed; the job would try it again: the brokers have not taken it: ")
    assert "no connection to Kafka" in done.stderr


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"bogus.property": "x"}, "kafka.properties: "),
        ({"sasl.password": {"env": "NOT_SET"}}, "sasl.password: the environment variable NOT_SET is not set"),
    ],
)
def test_properties_of_kafka_that_are_of_no_use_are_said(tua: Tua, properties: dict[str, Any], said: str) -> None:
    kafka = {"bootstrap_servers": "127.0.0.1:1", "properties": properties}
    done = tua({"team": {"type": "kafka", "topic": "shop.alerts"}}, "team", kafka=kafka)
    assert done.returncode == 1
    assert said in done.stdout
    done = tua({"log": {"type": "log"}}, "log", kafka=kafka)  # which is of no matter to others
    assert done.returncode == 0


@pytest.mark.kafka
def test_a_kafka_action_writes_to_the_real_brokers(tua: Tua, kafka: Cluster) -> None:
    kafka.create_topic("send-test.alerts")
    brokers = {"bootstrap_servers": kafka.bootstrap}
    done = tua({"team": {"type": "kafka", "topic": "send-test.alerts"}}, "team", kafka=brokers)
    assert (done.returncode, done.stdout) == (0, "send-test.alerts: delivered: acknowledged\n")
    (message,) = kafka.read_all("send-test.alerts")
    alert = json.loads(message.value() or b"")
    assert alert["test"] is True
    assert message.key() == alert["id"].encode()
