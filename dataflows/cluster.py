"""What this process is of, by the options of `bytewax.run` and the environment that stands in for them."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import NamedTuple

_EPOCH_S = "10"


class Cluster(NamedTuple):
    """This process, the addresses of all (none: there is no other), the workers of each, and the epoch interval."""

    process: int
    addresses: tuple[str, ...]
    workers_each: int
    epoch_s: float

    @classmethod
    def of(cls, argv: Sequence[str]) -> Cluster:
        """By the options as bytewax.run reads them."""
        parser = ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("-i", "--process-id", type=int, default=os.environ.get("BYTEWAX_PROCESS_ID", "0"))
        parser.add_argument("-a", "--addresses", default=os.environ.get("BYTEWAX_ADDRESSES"))
        workers = os.environ.get("BYTEWAX_WORKERS_PER_PROCESS", "1")
        parser.add_argument("-w", "--workers-per-process", type=int, default=workers)
        interval = os.environ.get("BYTEWAX_SNAPSHOT_INTERVAL", _EPOCH_S)
        parser.add_argument("-s", "--snapshot-interval", type=float, default=interval)
        options = parser.parse_known_args(argv)[0]
        addresses = () if options.addresses is None else tuple(options.addresses.split(";"))
        return cls(options.process_id, addresses, options.workers_per_process, options.snapshot_interval)

    @property
    def workers(self) -> int:
        """Of all processes."""
        return max(1, len(self.addresses)) * self.workers_each

    @property
    def is_spread(self) -> bool:
        """Whether the addresses name more than one host."""
        hosts = {address.rpartition(":")[0] for address in self.addresses}
        return len({"localhost" if host in ("127.0.0.1", "[::1]") else host for host in hosts}) > 1
