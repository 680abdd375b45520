"""Hidden files that become outputs when they are complete, and those that killed processes left behind."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path, PurePath
from secrets import token_hex

PARTIAL = re.compile(r"\.[0-9a-f]{8}-partial-")  # what the names of partial files begin with
ABANDONED_S = 24 * 3600
LONGEST_ENDING = 20


def partial_path(path: Path, mark: str) -> Path:
    """The hidden file beside `path` that becomes it. mark: 8 hexadecimal digits of which no other writer knows."""
    return path.with_name(f".{mark}-partial-{_kernel()}{_ending(path.name)}")


def _ending(name: str) -> str:
    """The end of a name that tells the file's format: the last suffix, and the one before .gz."""
    suffixes = PurePath(f"_{name}").suffixes  # the letter makes `.nii` alone a suffix, too
    ending = "".join(suffixes[-2:] if name.lower().endswith(".gz") else suffixes[-1:])
    return ending if len(os.fsencode(ending)) <= LONGEST_ENDING else ""


@lru_cache
def _kernel() -> str:
    """8 hexadecimal digits that all processes on this kernel share, in any container, until it restarts."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return token_hex(4)
    return sha256(boot).hexdigest()[:8]


def create_locked(path: Path) -> int:
    """Make a file and lock it as long as the returned file descriptor is open, at most until the process ends.

    The file is not locked if its file system has no locks.
    """
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():
            return descriptor
        os.close(descriptor)  # another process removed it as a leftover before it was locked


_cleaned: set[str] = set()  # folders


def remove_leftovers_once(folder: Path, now: float) -> None:
    """Remove the leftovers in a folder when this process first writes there; listing a folder takes time.

    now: seconds, by the clock of the file system.
    """
    name = os.path.abspath(folder)  # noqa: PTH100 - resolve takes longer
    if name in _cleaned:
        return
    _cleaned.add(name)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if PARTIAL.match(entry.name) and entry.is_file(follow_symlinks=False):
                _remove_leftover(Path(entry.path), now)


def _remove_leftover(path: Path, now: float) -> None:
    """Remove a partial file if it is certain that no process writes it any more.

    Its lock must be free, which is enough for a file of this kernel. On a file system that several machines share,
    a lock may be visible to one of them alone: a file of another kernel must also be unchanged for ABANDONED_S.
    """
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)  # over NFS a lock needs the right to write
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            of_this_kernel = PARTIAL.sub("", path.name, count=1).startswith(_kernel())
            if of_this_kernel or now - os.fstat(descriptor).st_mtime > ABANDONED_S:
                path.unlink()
        finally:
            os.close(descriptor)
