"""Standard output and standard error of the program: nothing but its own lines, and no error in writing them."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, TextIO

from .. import interruption
from ..io.text.escaping import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CLEAR_LINE = "\r\033[K"
_line_is_open = False  # whether the last line on the terminal is one of progress, which the next replaces


def tell(text: str) -> None:
    """Write one line to standard error: an error, a warning or news of the work."""
    clear_progress()
    print(f"singlestrip: {printable(text)}", file=sys.stderr)


def show_progress(text: str, keep: bool = False) -> None:
    """Write a line to the terminal in place of the last one of progress; keep: leave it there for good."""
    global _line_is_open
    clear_progress()
    print(printable(text), end="\n" if keep else "", file=sys.stderr, flush=True)
    _line_is_open = not keep


def clear_progress() -> None:
    """Remove the line of progress that is on the terminal, if there is one."""
    global _line_is_open
    if _line_is_open:
        print(CLEAR_LINE, end="", file=sys.stderr, flush=True)
    _line_is_open = False


def _is_own(logger: logging.Logger) -> bool:
    """Whether a logger is of this package."""
    return logger.name.partition(".")[0] == __name__.partition(".")[0]


class _OwnLogger(logging.Logger):
    """A logger that drops its records unless it is of this package."""

    def isEnabledFor(self, level: int) -> bool:
        return _is_own(self) and super().isEnabledFor(level)


class _Descriptor(io.FileIO):
    """A descriptor whose writes never raise: what cannot be written is dropped, and `failure` says why."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            return memoryview(data).nbytes


class _SafeStream(io.TextIOWrapper):
    """A text stream on a descriptor, with the encoding of the stream that it replaces.

    replaced: None if its descriptor was closed.
    """

    def __init__(self, descriptor: int, replaced: TextIO | None, always_by_line: bool = False) -> None:
        self.descriptor = _Descriptor(descriptor, "w", closefd=False)
        by_line = always_by_line or self.descriptor.isatty()
        encoding = "utf-8" if replaced is None else replaced.encoding
        super().__init__(io.BufferedWriter(self.descriptor), encoding, "backslashreplace", line_buffering=by_line)


def prepare_streams(debug: bool) -> None:
    """Replace sys.stdout and sys.stderr. Unless `debug`, drop what libraries log, warn of and print from C.

    A character that the terminal's encoding lacks is escaped. A reader that has gone (`| head`) is no error.
    """
    _fill_closed_descriptors()
    sys.stdout = _SafeStream(1, sys.stdout)
    if debug:
        sys.stderr = _SafeStream(2, sys.stderr)
        return
    interruption.error_descriptor = os.dup(2)
    sys.stderr = _SafeStream(interruption.error_descriptor, sys.stderr, always_by_line=True)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # for libraries in C
    os.close(nowhere)
    _drop_library_logs()
    warnings.showwarning = lambda *args, **keywords: None  # libraries override filters
    sys.unraisablehook = lambda unraisable: None


def _drop_library_logs() -> None:
    """Drop the log records of other libraries, those already imported and those to come."""
    logging.root.disabled = True
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and not _is_own(logger):
            logger.disabled = True
    logging.setLoggerClass(_OwnLogger)


def finish_streams(status: int) -> int:
    """Write what is left. Returns the exit status, which is 1 if standard output could not be written."""
    clear_progress()
    failure = _finish(sys.stdout)
    if failure is not None and failure.errno != errno.EPIPE:
        tell(f"standard output cannot be written ({failure.strerror})")
        status = 1
    _finish(sys.stderr)
    return status


def _finish(stream: TextIO) -> OSError | None:
    """Write what a stream still holds. Returns why some of its text could not be written, if that is so."""
    stream.flush()
    return stream.descriptor.failure if isinstance(stream, _SafeStream) else None


def _fill_closed_descriptors() -> None:
    """Without this the next file opened would take the place of standard output, and its prints."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
