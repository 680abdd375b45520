"""The log of the package on standard error: a line for each remark of a command.

Library code says remarks through `logging.getLogger(__name__)`: WARNING for what is unusual in a file, INFO for
news of the work. What happens to them in other programs is for those programs to choose.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from .streams import tell

PACKAGE = logging.getLogger(__name__.partition(".")[0])


class LineHandler(logging.Handler):
    """Writes each record as one line, `singlestrip: TEXT`. A warning that was written before is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            if text in self.warned:
                return
            self.warned.add(text)
        tell(text)


@contextmanager
def show_log(quiet: bool) -> Iterator[None]:
    """Write warnings and news of the package to standard error while the context is open; `quiet`: write none."""
    handler = LineHandler()
    before = PACKAGE.level, PACKAGE.propagate
    PACKAGE.addHandler(handler)
    PACKAGE.setLevel(logging.CRITICAL + 1 if quiet else logging.INFO)
    PACKAGE.propagate = False  # with --debug a library's own handler would write each line again
    try:
        yield
    finally:
        PACKAGE.removeHandler(handler)
        PACKAGE.setLevel(before[0])
        PACKAGE.propagate = before[1]
