"""The job's flow, which also writes down when it asks for records: `python -m bytewax.run tests.support.counted_polls`.

A line of POLLS_FILE for each call: the seconds of a monotonic clock. Each takes POLL_S longer than it would.
"""

from __future__ import annotations

import os
import time

from connectors.epochs import Epochs
from connectors.poller import Poller
from dataflows.activity_alerts import flow

__all__ = ["flow"]

_file = open(os.environ["POLLS_FILE"], "w", encoding="ascii")  # noqa: SIM115 - open until the process ends
_slower_s = float(os.environ["POLL_S"])
_poll = Poller.poll


def _counted(poller: Poller) -> None:
    _file.write(f"{time.monotonic():.4f}\n")
    if _slower_s:
        time.sleep(_slower_s)
    _poll(poller)


Poller.poll = _counted  # type: ignore[method-assign]
if os.environ.get("OUT_OF_PHASE") == "1":
    Epochs.called = lambda self, epoch: None  # type: ignore[method-assign]
