"""The program: the command `singlestrip`, and `python -m singlestrip`."""

from __future__ import annotations

import sys

from . import interruption


def main() -> int:
    """Run the command line of the process; returns the exit status."""
    interruption.end_on_signals()  # before the imports below, which take longer than many a signal
    from .cli.streams import finish_streams, prepare_streams

    prepare_streams(debug="--debug" in sys.argv)
    from .cli.main import main as run

    try:
        status = run()
    except SystemExit as stop:  # of the parser
        status = stop.code
    status = finish_streams(status)
    interruption.ignore_signals()
    return status


if __name__ == "__main__":
    sys.exit(main())
