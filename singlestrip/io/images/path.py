"""What a path leads to where an image is expected."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ...errors import InputError

NOT_A_FILE = (
    (stat.S_ISDIR, "a folder; name an image (DICOM folders: convert to NIfTI first)"),
    (stat.S_ISFIFO, "a FIFO (pipe), not a file; save what comes through it as a file first"),
    (stat.S_ISSOCK, "a socket, not a file; name an image"),
    (stat.S_ISCHR, "a device, not a file; name an image"),
    (stat.S_ISBLK, "a device, not a file; name an image"),
)
# What small files begin with that stand for a large file whose content was not fetched.
PLACEHOLDERS = (
    (b"/annex/objects/", "its content is not here; fetch it with 'datalad get' or 'git annex get'"),
    (b"version https://git-lfs", "its content is not here; fetch it with 'git lfs pull'"),
)


def check_is_file(path: Path) -> None:
    """Raise InputError if a path leads to no regular file; the error says what it leads to. Opens nothing."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - Path.stat is the same, and Path.is_file hides the reason
    except ValueError as error:
        raise InputError(f"{path}: no file can have this name ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: {_why_absent(path, error)}") from error
    for is_kind, text in NOT_A_FILE:
        if is_kind(mode):
            raise InputError(f"{path}: {text}")


def _why_absent(path: Path, error: OSError) -> str:
    """Why there is no file at a path, as a clause."""
    if error.errno == errno.ELOOP:
        return "a link that leads back to itself"
    if error.errno == errno.ENAMETOOLONG:
        return "the name is longer than a file's can be"
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        return f"cannot be read ({error.strerror})"
    if not path.is_symlink():
        return "no such file"
    target = os.path.realpath(path)
    if "/annex/objects/" in target:
        return PLACEHOLDERS[0][1]
    return f"a link to {target}, which does not exist"
