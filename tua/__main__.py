"""The entry point of `tua`, and of `python -m tua`."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Exit codes: 0 fine, 1 found something wrong, 2 usage, 130 Ctrl-C."""
    try:
        if sys.argv[1:2] == ["run"]:
            # Held back until the job can stop cleanly: the imports alone take most of a second.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        from tua import cli  # noqa: PLC0415 - as late as that for the same reason

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
