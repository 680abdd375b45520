"""How much memory is free for this process."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from . import limits

GIB = 2**30


class ControlGroup(NamedTuple):
    """The files in which a version of Linux's control groups tells the limit and the use of memory."""

    folder: str
    limit: str
    usage: str
    file_cache: str  # field of memory.stat: cached files count as used, but give way


CONTROL_GROUPS = (
    ControlGroup("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ControlGroup("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available() -> int | None:
    """Bytes of memory that this process may still take; None if the system does not tell.

    It is the least of what the machine, the process's control group and its own limits leave.
    """
    sources = (limits.memory_left(), _machine_bytes_left(), *map(_group_bytes_left, CONTROL_GROUPS))
    return min((left for left in sources if left is not None), default=None)


def _machine_bytes_left() -> int | None:
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return None


def _group_bytes_left(group: ControlGroup) -> int | None:
    folder = Path(group.folder)
    try:
        left = int((folder / group.limit).read_text()) - int((folder / group.usage).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return left + int(statistics.get(group.file_cache, 0))
    except (OSError, ValueError):  # no control group, or the limit is "max"
        return None
