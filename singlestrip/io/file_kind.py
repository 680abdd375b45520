"""What there is at a path that is no regular file: a folder, a pipe, a device."""

from __future__ import annotations

import os
import stat


def file_kind(mode: int) -> str:
    """What a file is by its mode, such as "a folder"; "" for a regular file."""
    kinds = (
        *((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket")),
        *((stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device")),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "")


def path_kind(path: str | os.PathLike) -> str:
    """What there is at a path, such as "a folder"; "" for a regular file, or for nothing."""
    try:
        return file_kind(os.stat(path).st_mode)  # noqa: PTH116 - Path("") is a folder
    except (OSError, ValueError):
        return ""
