"""Several processes on one outbox, and one that is killed in the middle: real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.delivering import rows
from tests.support.receivers import HttpReceiver, MailReceiver, Reply
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]

PROGRAM = """
import sys, time
from pathlib import Path
from actions.delivery.dispatcher import Dispatcher
from tests.support.delivering import Broker, action, clock_ms, email_action, opened, settings

directory, web, mail, name, alerts = sys.argv[1:]
actions = {"web": action("webhook", url=web), "mail": email_action(int(mail))}
made = settings(Path(directory), actions)
dispatcher = Dispatcher(made, Broker().publish, now_ms=clock_ms)
for n in range(int(alerts)):
    dispatcher.put([opened(made, f"{name}{n}", f"{name} {n}")])
print("put", flush=True)
sys.stdin.readline()
dispatcher.close()
"""


class Process:
    def __init__(self, state: Path, web: HttpReceiver, mail: MailReceiver, name: str, alerts: int) -> None:
        arguments = [str(state), web.url, str(mail.port), name, str(alerts)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_until_put(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == "put\n":
                return
        raise AssertionError("it ended before it had put anything")

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> None:
        self.process.communicate("stop\n", timeout=60)


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for one in started:
        if one.process.poll() is None:
            one.kill()
        for pipe in (one.process.stdin, one.process.stdout):
            if pipe is not None:
                pipe.close()


def all_ended(state: Path) -> bool:
    return all(row["state"] == "delivered" for row in rows(state))


def test_two_processes_deliver_each_once(
    tmp_path: Path, web: HttpReceiver, mail: MailReceiver, processes: list[Process]
) -> None:
    processes += [Process(tmp_path, web, mail, name, 60) for name in ("left", "right")]
    for one in processes:
        one.wait_until_put()
    wait_until(lambda: all_ended(tmp_path))
    for one in processes:
        one.stop()
    assert len(rows(tmp_path)) == 120 * 3
    assert Counter(web.ids()).most_common(1)[0][1] == 1
    assert Counter(mail["Message-ID"] for mail in (mail.message for mail in mail.mails)).most_common(1)[0][1] == 1
    assert (len(web.requests), len(mail.mails)) == (120, 120)
    assert {row["attempts"] for row in rows(tmp_path)} == {1}


def test_what_two_processes_leave_is_finished_by_three_and_told_once(
    tmp_path: Path, web: HttpReceiver, mail: MailReceiver, processes: list[Process]
) -> None:
    web.default = Reply(delay_s=0.1)
    processes += [Process(tmp_path, web, mail, name, 100) for name in ("left", "right")]
    for one in processes:
        one.wait_until_put()
    wait_until(lambda: len(web.requests) >= 30)
    for one in processes:
        one.stop()
    sent = len(web.requests)
    assert sent < 200, "something is left to do"
    web.default = Reply()
    more = [
        Process(tmp_path, web, mail, name, 50) for name in ("left", "right", "third")
    ]  # two put again what is known
    processes += more
    for one in more:
        one.wait_until_put()
    wait_until(lambda: all_ended(tmp_path), 60)
    for one in more:
        one.stop()
    assert len(rows(tmp_path)) == 250 * 3
    assert Counter(web.ids()).most_common(1)[0][1] == 1
    assert (len(web.requests), len(mail.mails)) == (250, 250)
    assert len({mail.message["Message-ID"] for mail in mail.mails}) == 250


def test_who_is_killed_in_flight_loses_nothing_and_repeats_only_under_the_same_id(
    tmp_path: Path, web: HttpReceiver, mail: MailReceiver, processes: list[Process]
) -> None:
    web.default = Reply(delay_s=0.05)
    processes.append(Process(tmp_path, web, mail, "a", 100))
    processes[0].wait_until_put()
    wait_until(lambda: len(web.requests) >= 20)
    processes[0].kill()
    seen = len(web.requests)
    assert seen < 100
    processes.append(Process(tmp_path, web, mail, "a", 100))  # it puts the same again, as a replay does
    processes[1].wait_until_put()
    wait_until(lambda: all_ended(tmp_path), 60)
    processes[1].stop()
    assert len(rows(tmp_path)) == 100 * 3
    assert len(set(web.ids())) == 100
    repeated = [id_ for id_, times in Counter(web.ids()).items() if times > 1]
    assert len(repeated) <= 8  # what was in flight
    assert {row["id"] for row in rows(tmp_path) if row["action"] == "web"} == set(web.ids())
    assert len({mail.message["Message-ID"] for mail in mail.mails}) == 100
