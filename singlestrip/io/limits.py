"""Limits on memory that the system sets to this process (`ulimit -v`, `ulimit -d`). Imports next to nothing."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import SingleStripError

GIB = 2**30
# Below it the libraries cannot be loaded, and some of them end the process rather than say so: torch maps 0.6 GiB,
# and 0.8 GiB were needed to load all that strip does (with two threads).
LEAST_BYTES = GIB


def memory_left() -> int | None:
    """Bytes this process may still map before it reaches a limit of its own; None without one."""
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
    """Raise SingleStripError if the process may not map what its libraries take."""
    left = memory_left()
    if left is not None and left < LEAST_BYTES:
        raise SingleStripError(
            f"a limit of this process (ulimit -v or -d) leaves {left / GIB:.2f} GiB of memory, and the libraries "
            f"alone need {LEAST_BYTES / GIB:g} GiB; raise it"
        )


def _bytes_in_use() -> tuple[int, int]:
    """Bytes mapped by this process, and those of them that are data; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text().split()
    except OSError:
        return 0, 0
    page = os.sysconf("SC_PAGE_SIZE")
    return int(pages[0]) * page, int(pages[5]) * page
