"""The last step of the flow: every transition into the outbox, before its epoch can end."""

from __future__ import annotations

from bytewax.outputs import DynamicSink, StatelessSinkPartition

from dataflows.job import Job
from detection.transitions import Transition


class OutboxSink(DynamicSink[Transition]):
    """Hands transitions to the process's dispatcher, which makes them durable and delivers them beside the flow."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Part:
        """Raises RuntimeError where Bytewax has not as many workers as rows are split for: each would lack some."""
        if worker_count != self._job.exchange.workers:
            raise RuntimeError(
                f"Bytewax runs {worker_count} workers, and tua reads {self._job.exchange.workers} from its options."
                " Write them in full, as -a ADDRESSES, -w WORKERS and -i PROCESS (not BYTEWAX_HOSTFILE_PATH)"
            )
        return _Part(self._job)


class _Part(StatelessSinkPartition[Transition]):
    def __init__(self, job: Job) -> None:
        self._job = job

    def write_batch(self, items: list[Transition]) -> None:
        self._job.dispatcher.put(items)

    def close(self) -> None:
        self._job.close()
