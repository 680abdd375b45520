"""SIGINT and SIGTERM end the program with status 1 and one line, and leave no half-written file.

The handler itself ends the process. An exception that is raised while a library is imported, in a callback or in a
destructor would get lost or print a traceback. A second signal changes nothing.

The program sets these handlers before it imports anything else. It therefore uses `_signal`, which Python loads
anyway: importing `signal` takes a third of the time that Python takes to start.
"""

from __future__ import annotations

import _signal
import _thread
import os

STOP_SIGNALS = (_signal.SIGINT, _signal.SIGTERM)

unfinished: set[str] = set()  # paths of files that are being written; a signal that ends the process removes them
# Whoever makes one of these files holds this lock meanwhile, so that no other thread makes one after the signal.
making_file = _thread.RLock()
LONGEST_WAIT_S = 5.0  # for a thread that makes a file, such as on a file system that hangs
error_descriptor = 2  # the file descriptor for errors


def end_on_signals() -> None:
    """Handle SIGINT and SIGTERM from now on. A signal that is ignored, as under `nohup`, stays ignored."""
    for number in STOP_SIGNALS:
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, _end)


def ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM from now on, when the exit status of the process is settled."""
    for number in STOP_SIGNALS:
        _signal.signal(number, _signal.SIG_IGN)


def _end(number: int, frame: object) -> None:
    """Remove unfinished files, print the line and end the process."""
    ignore_signals()
    making_file.acquire(timeout=LONGEST_WAIT_S)
    for path in tuple(unfinished):
        try:
            os.unlink(path)  # noqa: PTH108 - pathlib takes longer to import than Python to start
        except (OSError, ValueError):  # ValueError: a name that no file can have
            pass
    try:
        clear_line = b"\r\033[K" if os.isatty(error_descriptor) else b""  # of a progress line
        os.write(error_descriptor, clear_line + b"singlestrip: interrupted\n")
    except OSError:
        pass
    os._exit(1)
