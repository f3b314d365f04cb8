"""The cases of `scripts/bench throughput`: what differs from the usual case, each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scripts.benchmarks.orders import Orders

QUICK_ORDERS = 100_000


@dataclass(frozen=True)
class Case:
    """One case. `pace` is orders a second in event time; by default 8 orders of each product are usual within 5 s.

    So products hover below the shipped threshold of 20 and pass it now and then, and each holds about 24 orders that
    are not older than window and lateness. A case has `times` as many orders as others.
    """

    name: str
    products: int = 1_000
    pace: int | None = None
    rules: int = 1
    partitions: int = 4
    hot: float | None = None
    spread: bool = False
    disorder_ms: int = 0
    processes: int = 1
    recovery: bool = True
    message_bytes: int | None = None
    times: int = 1

    def orders(self, count: int, quick: bool) -> Orders:
        """What fills its topic."""
        return Orders(
            count=count if quick else count * self.times,
            products=self.products,
            partitions=self.partitions,
            pace=self.pace or max(1, self.products * 8 // 5),
            hot=self.hot,
            spread=self.spread,
            disorder_ms=self.disorder_ms,
            message_bytes=self.message_bytes,
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """For the results."""
        return {name: value for name, value in asdict(self).items() if name not in ("name", "times", "pace")}


USUAL = Case("keys-1000")
CASES = (
    # A single product that is ordered this often is in breach all the time: one alert, and a state that is thinned.
    Case("keys-1", products=1, pace=100_000),
    USUAL,
    Case("keys-100000", products=100_000),
    Case("keys-1000000", products=1_000_000, times=10),
    # As live traffic of that size would be: every product is in breach from its 20th order on.
    Case("pace-200000", pace=200_000),
    Case("rules-5", rules=5),
    Case("rules-20", rules=20),
    Case("partitions-1", partitions=1),
    Case("partitions-16", partitions=16),
    Case("partitions-4-hot", hot=0.9),
    # The orders of a product on all partitions, as without a key: an episode is found from several of them.
    Case("partitions-4-spread", spread=True),
    Case("disorder-5s", disorder_ms=5_000),
    Case("processes-2", processes=2),
    Case("processes-2-keys-100000", products=100_000, processes=2),
    Case("recovery-off", recovery=False),
    Case("recovery-off-keys-100000", products=100_000, recovery=False),
    Case("bytes-1000", message_bytes=1_000),
)


def chosen(names: Sequence[str]) -> list[Case]:
    """The cases with these names, or all that a name is the beginning of: `keys`, `rules`. Without names, all.

    Raises KeyError with a name that no case has.
    """
    found: list[Case] = []
    for name in names:
        exact = [case for case in CASES if case.name == name]
        matching = exact or [case for case in CASES if case.name.startswith(f"{name}-")]
        if not matching:
            raise KeyError(name)
        found += [case for case in matching if case not in found]
    return found or list(CASES)
