"""How the C library hands out memory while networks train."""

from __future__ import annotations


def keep_memory() -> None:
    """Make glibc keep freed memory for reuse, in this process alone.

    By default every large tensor is returned to the system, and its pages are zeroed again at the next allocation.
    That takes 3 % of a step with the default networks, and a fifth with wider ones at full resolution
    (benchmarks/README.md). It has no effect with other C libraries.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return
    for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 64 * 2**20)):  # M_MMAP_MAX, TRIM, TOP_PAD
        mallopt(parameter, value)
