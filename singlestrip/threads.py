"""How many threads of the processor this process uses. Imports neither NumPy nor torch."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as in `typing`, which takes time to import
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    Item = TypeVar("Item")

_IMPORTING_PROCESS = os.getpid()  # a forked worker has another number
_limit: int | None = None


def set_thread_limit(threads: int) -> None:
    """Let this process use so many threads."""
    global _limit
    _limit = threads


def thread_limit() -> int | None:
    """The number that `set_thread_limit` was given; None if it was not called."""
    return _limit


def is_forked() -> bool:
    """Whether this process was forked from the one that imported singlestrip.

    The threads of libraries do not survive a fork, and a worker that waits for them would wait for ever.
    """
    return os.getpid() != _IMPORTING_PROCESS


def thread_count() -> int:
    """The number of threads to use: the limit, or else that of $OMP_NUM_THREADS, or one per core; 1 in a forked
    worker."""
    if is_forked():
        return 1
    if _limit is not None:
        return _limit
    named = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if named.isascii() and named.isdigit() and int(named) > 0:
        return int(named)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return len(cores)


def for_each(function: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Call a function, which releases Python's lock for most of its time, with each item, on all threads."""
    threads = min(thread_count(), len(items))
    if threads <= 1:
        for item in items:
            function(item)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(function, items):  # raises what was raised in a thread
            pass
