"""The programs: `singlestrip`, which `python -m singlestrip` runs too, and `mri_singlestrip`."""

from __future__ import annotations

import sys

from . import interruption


def main() -> int:
    """Run the process's command line; returns the exit status."""
    return _run(of_synthstrip=False)


def mri_singlestrip() -> int:
    """Run the process's command line, which is one of SynthStrip's; returns the exit status."""
    return _run(of_synthstrip=True)


def _run(of_synthstrip: bool) -> int:
    """Run the process's command line, in the form of SynthStrip's or of `singlestrip`."""
    interruption.end_on_signals()  # before the slow imports below
    from .cli.streams import finish_streams, prepare_streams

    prepare_streams(debug="--debug" in sys.argv)
    if of_synthstrip:
        from .cli.synthstrip import main as run
    else:
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
