"""SIGINT and SIGTERM end the program: status 1, one line, no half-written file.

The handler itself ends the process. An exception would not do: raised while a library is imported, in a callback
or in a destructor, it gets lost or prints a traceback. A second signal changes nothing.

The program sets these handlers before it imports anything else. Hence `_signal`, which is loaded with Python:
`signal` takes a third of the time that Python takes to start.
"""

from __future__ import annotations

import _signal
import os

STOP_SIGNALS = (_signal.SIGINT, _signal.SIGTERM)

unfinished: set[str] = set()  # paths of files that are being written, to be removed if a signal ends the process
error_descriptor = 2  # where the program says its errors


def end_on_signals() -> None:
    """Handle SIGINT and SIGTERM from now on. What the parent process ignores, as `nohup` does, stays ignored."""
    for number in STOP_SIGNALS:
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, _end)


def ignore_signals() -> None:
    """For the last moments of the process, when its exit status stands."""
    for number in STOP_SIGNALS:
        _signal.signal(number, _signal.SIG_IGN)


def _end(number: int, frame: object) -> None:
    ignore_signals()
    for path in tuple(unfinished):
        try:
            os.unlink(path)  # noqa: PTH108 - pathlib takes longer to import than Python to start
        except (OSError, ValueError):  # the latter for a name that no file can have
            pass
    try:
        clear_line = b"\r\033[K" if os.isatty(error_descriptor) else b""  # of a progress line
        os.write(error_descriptor, clear_line + b"singlestrip: interrupted\n")
    except OSError:
        pass
    os._exit(1)
