"""`kill -9` at random moments under load, again and again: nothing is lost, and only what was in flight is repeated.

TUA_KILL_CYCLES sets how often (20). The figures are printed: pytest -s.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from tests.support.delivering import rows
from tests.support.receivers import HttpReceiver, MailReceiver, Reply
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]
CYCLES = int(os.environ.get("TUA_KILL_CYCLES", "20"))
TRANSITIONS_PER_SECOND = 100  # 50 alerts, each opens and resolves
REPLAYED = 100  # an epoch of a second
MORE_THAN_ENOUGH = 1_000_000
QUIET_END = 300


class Flow:
    """One life of the process. `said` is the last transition that it said was in the outbox."""

    def __init__(self, state: Path, web: HttpReceiver, mail: MailReceiver, first: int, last: int) -> None:
        self.said = first - 1
        self.done = threading.Event()
        arguments = [state, web.url, mail.port, first, last, TRANSITIONS_PER_SECOND]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.flow_of_alerts", *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == "done\n":
                self.done.set()
            elif line.strip().isdigit():
                self.said = int(line)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self._end()

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("stop\n")
        self.process.stdin.flush()
        self._end()

    def _end(self) -> None:
        self.process.wait(60)
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def test_no_kill_loses_a_delivery_or_repeats_one_that_was_not_in_flight(
    tmp_path: Path, web: HttpReceiver, mail: MailReceiver
) -> None:
    chance = random.Random(4)
    replies = [Reply(500 if chance.random() < 0.2 else 200, delay_s=0.05) for _ in range(MORE_THAN_ENOUGH // 10)]
    web.plan.extend(replies)
    pause = threading.Event()  # never set: its wait is the random moment
    put, in_flight = 0, set()
    for _ in range(CYCLES):
        flow = Flow(tmp_path, web, mail, max(0, put - chance.randrange(REPLAYED)), MORE_THAN_ENOUGH)
        wait_until(lambda flow=flow, put=put: flow.said > put, 60)
        pause.wait(chance.uniform(0, 1.5))
        flow.kill()
        put = max(put, flow.said + 1)
        in_flight |= {row["id"] for row in rows(tmp_path) if row["leased"]}
    last = put + put % 2 + QUIET_END
    flow = Flow(tmp_path, web, mail, max(0, put - REPLAYED), last)
    assert flow.done.wait(60)
    wait_until(lambda: all(row["state"] == "delivered" for row in rows(tmp_path)), 120)
    flow.stop()

    found = rows(tmp_path)
    ids = {name: {row["id"] for row in found if row["action"] == name} for name in ("web", "mail")}
    assert len(found) == 3 * last, "one for the webhook, the mailbox and the alerts topic of each transition"
    accepted = Counter(id_ for id_, reply in zip(web.ids(), replies, strict=False) if reply.status == 200)
    mails = Counter(str(one.message["Message-ID"]).strip("<>").partition("@")[0] for one in mail.mails)
    assert accepted.keys() == ids["web"]
    assert mails.keys() == ids["mail"]
    repeated = {id_ for counts in (accepted, mails) for id_, times in counts.items() if times > 1}
    assert repeated <= in_flight
    print(
        f"\n{CYCLES} kills: {last} transitions, {sum(accepted.values())} webhook calls accepted of"
        f" {len(web.requests)}, {sum(mails.values())} mails; 0 lost; in flight at a kill {len(in_flight)},"
        f" of those repeated {len(repeated)}; others repeated 0"
    )
