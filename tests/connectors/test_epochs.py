"""Epochs in phase, in a small model of when Bytewax ends them; the real thing is in tests/integration/test_phase.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from connectors.epochs import AT_ONCE, Epochs

INTERVAL_S = 1.0
START_S = 1_000.0


class Worker:
    """A worker that asks its one slot again and again. A round takes `round_s`."""

    def __init__(self, round_s: float, in_phase: bool = True, built_s: float = START_S) -> None:
        self.now_s = self._began_s = built_s
        self.round_s = round_s
        self.rounds = 0
        self.polls: list[float] = []
        self._epoch = 0
        self.epochs = Epochs(
            INTERVAL_S if in_phase else None,
            lambda: False,
            monotonic=lambda: self.now_s,
            wall=lambda: self.now_s,
            sleep=self._sleep,
        )

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def live(self, released_s: float) -> float:
        """One epoch: asked from when the last one of all has ended. When its own ended."""
        self.now_s = max(self.now_s, released_s)
        while True:
            awake = self.epochs.next_awake()
            if awake != AT_ONCE:
                self.now_s = max(self.now_s, awake.timestamp())
            round_began_s = self.now_s
            self.epochs.called(self._epoch)
            self.polls.append(self.now_s)
            self.now_s += self.round_s
            if round_began_s - self._began_s >= INTERVAL_S:
                self._began_s = round_began_s
                self._epoch += 1
                self.epochs.ended(self._epoch)
                return self.now_s


def run(workers: Sequence[Worker], seconds: float, closing_s: float = 0.02) -> None:
    """All live for a while; an epoch is closed `closing_s` after the last has ended it."""
    released_s = START_S
    while released_s < START_S + seconds:
        released_s = max([worker.live(released_s) for worker in workers]) + closing_s


def polled(worker: Worker, since_s: float) -> list[float]:
    """Of each ten seconds the part in which the worker was at work."""
    start_s, end_s = START_S + since_s, worker.polls[-1] - 10
    parts = []
    while start_s < end_s:
        parts.append(sum(start_s <= at < start_s + 10 for at in worker.polls) * worker.round_s / 10)
        start_s += 10
    return parts


def test_without_it_the_quick_one_stands_still_in_the_end() -> None:
    """The model shows what Bytewax does."""
    workers = [Worker(0.002, in_phase=False), Worker(0.03, in_phase=False)]
    run(workers, 200)
    assert polled(workers[0], 0)[0] > 0.75
    assert polled(workers[0], 150)[0] < 0.05
    assert min(polled(workers[1], 0)) > 0.9


@pytest.mark.parametrize(
    "rounds_s",
    [
        pytest.param([0.002, 0.03], id="unequal"),
        pytest.param([0.002, 0.1], id="very unequal"),
        pytest.param([0.002, 0.005, 0.02, 0.035], id="four"),
    ],
)
@pytest.mark.parametrize("apart_s", [0.0, 0.4, 0.95, 2.5])
def test_nobody_waits_for_long_however_they_began(rounds_s: list[float], apart_s: float) -> None:
    workers = [Worker(round_s, built_s=START_S + apart_s * number) for number, round_s in enumerate(rounds_s)]
    run(workers, 200)
    for worker in workers:
        assert min(polled(worker, 15)) > 0.75


@pytest.mark.parametrize("stall_s", [0.5, 1.5, 5.0])
@pytest.mark.parametrize("rounds_s", [[0.002, 0.03], [0.03, 0.002]])
def test_after_one_stood_still_they_find_together_again(rounds_s: list[float], stall_s: float) -> None:
    workers = [Worker(round_s) for round_s in rounds_s]
    run(workers, 20)
    workers[1].now_s += stall_s
    run(workers, 60)
    for worker in workers:
        assert min(polled(worker, 40)) > 0.75


def test_the_end_of_an_epoch_that_takes_long_is_not_waited_for_twice() -> None:
    """Snapshots of 200 ms: 0.8 s are left of each. To make up for all of them would take another 0.2."""
    workers = [Worker(0.002), Worker(0.02)]
    run(workers, 100, closing_s=0.2)
    for worker in workers:
        assert min(polled(worker, 10)) > 0.65


def test_a_stop_does_not_wait_for_the_end_of_a_hold() -> None:
    stopping, naps = [False], [0]
    now_s = [0.0]

    def sleep(seconds: float) -> None:
        now_s[0] += seconds
        naps[0] += 1
        stopping[0] = True

    epochs = Epochs(1.0, lambda: stopping[0], monotonic=lambda: now_s[0], wall=lambda: now_s[0], sleep=sleep)
    ask: Callable[[float, int], None] = lambda at_s, epoch: (now_s.__setitem__(0, at_s), epochs.called(epoch))[0]  # noqa: E731
    ask(1.0, 0)
    epochs.ended(1)
    for at_s in (1.4, 1.5, 1.6, 1.7, 1.8, 1.9):
        ask(at_s, 1)
    assert naps[0] == 1
    assert now_s[0] < 2.0
