"""How long Bytewax's epochs are, for the source of a cluster, which keeps them in phase."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Sequence

_BY_DEFAULT_S = 10.0


def epoch_interval_s(argv: Sequence[str]) -> float | None:
    """The seconds of `-s` as bytewax.run reads it; None for one worker alone, whose epochs wait for nobody."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-a", "--addresses", default=os.environ.get("BYTEWAX_ADDRESSES"))
    parser.add_argument("-w", "--workers-per-process", default=os.environ.get("BYTEWAX_WORKERS_PER_PROCESS", "1"))
    parser.add_argument("-s", "--snapshot-interval", default=os.environ.get("BYTEWAX_SNAPSHOT_INTERVAL"))
    options = parser.parse_known_args(argv)[0]
    if ";" not in (options.addresses or "") and options.workers_per_process == "1":
        return None
    return _BY_DEFAULT_S if options.snapshot_interval is None else float(options.snapshot_interval)
