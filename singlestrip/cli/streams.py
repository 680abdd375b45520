"""Standard output and standard error of the program: nothing but its own lines, and no error in writing them."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import warnings

from .. import interruption
from ..io.escaping import printable


def tell(text: str) -> None:
    """Write one line to standard error: an error, a warning or what the program does."""
    print(f"singlestrip: {printable(text)}", file=sys.stderr)


class _Descriptor(io.FileIO):
    """A descriptor whose writes never raise: what cannot be written is dropped, and `failure` says why."""

    failure: OSError | None = None

    def write(self, data) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            return len(data)


def prepare_streams(debug: bool) -> None:
    """Replace sys.stdout and sys.stderr, and unless `debug` drop whatever libraries print to standard error.

    A character that the terminal's encoding lacks is escaped. A reader that has gone (`| head`) is no error.
    """
    _fill_closed_descriptors()
    sys.stdout = _text_stream(1, sys.stdout)
    if debug:
        sys.stderr = _text_stream(2, sys.stderr)
        return
    interruption.error_descriptor = os.dup(2)
    sys.stderr = _text_stream(interruption.error_descriptor, sys.stderr, always_by_line=True)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # for libraries in C
    os.close(nowhere)
    logging.disable()
    warnings.showwarning = lambda *args, **keywords: None  # libraries override filters
    sys.unraisablehook = lambda unraisable: None


def finish_streams(status: int) -> int:
    """Write what is left; returns the exit status, which is 1 if standard output could not be written."""
    failure = _finish(sys.stdout)
    if failure is not None and failure.errno != errno.EPIPE:
        tell(f"standard output cannot be written ({failure.strerror})")
        status = 1
    _finish(sys.stderr)
    return status


def _finish(stream: io.TextIOWrapper) -> OSError | None:
    stream.flush()
    return stream.buffer.raw.failure


def _fill_closed_descriptors() -> None:
    """Without this the next file opened would take the place of standard output, and its prints."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _text_stream(
    descriptor: int, before: io.TextIOWrapper | None, always_by_line: bool = False
) -> io.TextIOWrapper:
    """A stream with the encoding of the one `before`, which is None if its descriptor was closed."""
    raw = _Descriptor(descriptor, "w", closefd=False)
    by_line = always_by_line or raw.isatty()
    encoding = "utf-8" if before is None else before.encoding
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=by_line)
