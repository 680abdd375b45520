"""The limits on memory that the system sets for this process (`ulimit -v`, `ulimit -d`). Imports no library."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import SingleStripError

GIB = 2**30
# With less the libraries cannot be loaded, and some of them end the process without a message. torch maps 0.6 GiB;
# everything that stripping loads, with two threads, mapped 0.8 GiB.
LEAST_BYTES = GIB


def memory_left() -> int | None:
    """Bytes that this process may still map before it reaches a limit; None without a limit."""
    try:
        import resource
    except ImportError:  # not on this system
        return None
    mapped, data = _bytes_in_use()
    limits = (
        (resource.getrlimit(resource.RLIMIT_AS)[0], mapped),
        (resource.getrlimit(resource.RLIMIT_DATA)[0], data),
    )
    return min((max(0, limit - used) for limit, used in limits if limit != resource.RLIM_INFINITY), default=None)


def check_memory_limit() -> None:
    """Raise SingleStripError if the process may not map what its libraries need."""
    left = memory_left()
    if left is not None and left < LEAST_BYTES:
        raise SingleStripError(
            f"a limit of this process (ulimit -v or -d) leaves {left / GIB:.2f} GiB of memory, and the libraries "
            f"alone need {LEAST_BYTES / GIB:g} GiB; raise it"
        )


def _bytes_in_use() -> tuple[int, int]:
    """The bytes that this process has mapped, and how many of them are data; 0 if the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text().split()
    except OSError:
        return 0, 0
    page = os.sysconf("SC_PAGE_SIZE")
    return int(pages[0]) * page, int(pages[5]) * page
