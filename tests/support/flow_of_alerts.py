"""A process that puts alerts into an outbox at a steady rate, and delivers them, until it is killed or told to stop.

    python -m tests.support.flow_of_alerts STATE_DIRECTORY WEBHOOK_URL SMTP_PORT FIRST LAST PER_SECOND

Transition number n is the opening of alert n // 2 or (odd) its end. Each is said on standard output when it is in the
outbox. After the last one it says `done`, and goes on to deliver.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from actions.delivery.dispatcher import Dispatcher
from detection.transitions import Transition
from settings import RetrySettings, Settings
from tests.support.delivering import Broker, action, clock_ms, email_action, opened, resolved, settings

QUICK = RetrySettings(delays=(0, 50, 100, 200), give_up=3_600_000)


def transition(made: Settings, number: int) -> Transition:
    """The same for the same number, as detection tells it again on a replay."""
    opening = opened(made, f"alert-{number // 2}", f"P{number // 2}", 1_000_000 + number)
    return opening if number % 2 == 0 else resolved(opening)


def main() -> None:
    directory, url, port, first, last, per_second = sys.argv[1:]
    actions = {"web": action("webhook", url=url, retry=QUICK), "mail": email_action(int(port), retry=QUICK)}
    made = settings(Path(directory), actions)
    dispatcher = Dispatcher(made, Broker().publish, now_ms=clock_ms)
    never = threading.Event()
    started, pause_s = time.monotonic(), 1 / float(per_second)
    for count, number in enumerate(range(int(first), int(last)), 1):
        dispatcher.put([transition(made, number)])
        print(number, flush=True)
        never.wait(max(0.0, started + count * pause_s - time.monotonic()))
    print("done", flush=True)
    sys.stdin.readline()
    dispatcher.close()


if __name__ == "__main__":
    main()
