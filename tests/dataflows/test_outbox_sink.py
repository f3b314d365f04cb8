"""The last step of the flow, without Bytewax."""

from types import SimpleNamespace

import pytest

from connectors.exchange import Exchange
from dataflows.outbox import OutboxSink


def test_a_number_of_workers_that_rows_are_not_split_for_is_refused() -> None:
    """As with `--workers 2`, which Bytewax takes for `--workers-per-process 2`: alerts would be lost without a word."""
    sink = OutboxSink(SimpleNamespace(exchange=Exchange(1)))  # type: ignore[arg-type]
    sink.build("outbox", 0, 1)
    with pytest.raises(RuntimeError, match="runs 2 workers, and tua reads 1"):
        sink.build("outbox", 0, 2)
