"""The program, which `singlestrip` and `python -m singlestrip` run."""

from __future__ import annotations

import sys

from . import interruption


def main() -> int:
    """Run the process's command line; returns the exit status."""
    interruption.end_on_signals()  # before the slow imports below
    from .cli.streams import finish_streams, prepare_streams

    prepare_streams(debug="--debug" in sys.argv)
    from .cli.main import main as run

    try:
        status = run()
    except SystemExit as stop:  # of the parser
        status = int(stop.code or 0)
    status = finish_streams(status)
    interruption.ignore_signals()
    return status


if __name__ == "__main__":
    sys.exit(main())
