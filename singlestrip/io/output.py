"""Files appear whole or not at all: written under another name beside the place, then renamed."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path, PurePath
from secrets import token_hex

from .. import interruption
from ..errors import OutputError
from .textfile import file_kind

PARTIAL = re.compile(r"\.[0-9a-f]{8}-partial-")
ABANDONED_S = 24 * 3600  # see _remove_leftover
LONGEST_ENDING = 20


def file_identity(path: Path) -> str:
    """One name for all names of a file: links followed, both files of an .img/.hdr pair alike."""
    try:
        stem, ending = os.path.splitext(os.path.realpath(path))  # noqa: PTH122 - faster, of 100 000 paths
    except ValueError:  # a NUL: there is no such file
        return str(path)
    return f"{stem}.img" if ending.lower() == ".hdr" else stem + ending


def check_distinct(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Raise OutputError if an output would overwrite an input or another output."""
    taken = {file_identity(path): "is an input" for path in inputs}
    for path in outputs:
        identity = file_identity(path)
        if identity in taken:
            raise OutputError(f"{path}: {taken[identity]}; name another file or folder for the output")
        taken[identity] = "is named for two outputs"


def check_writable(path: Path) -> None:
    """Raise OutputError if no file can be written at this path: before any work is done."""
    if "\0" in str(path):
        raise OutputError(f"{path}: no file name may hold a NUL character; name another")
    folder = path.parent
    try:
        if not folder.is_dir():
            raise OutputError(f"{path}: folder {folder} does not exist")
        longest, size = os.pathconf(folder, "PC_NAME_MAX"), len(os.fsencode(path.name))
        if size > longest:
            raise OutputError(f"{path}: the name has {size} bytes, {longest} at most are possible; shorten it")
        kind = file_kind(path.stat().st_mode) if path.exists() else ""
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    if kind:
        raise OutputError(f"{path}: is {kind}; name a file")
    _check_access(path, folder)


def _check_access(path: Path, folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: folder {folder} cannot be written to")


def path_exists(path: Path) -> bool:
    """Whether there is a file or folder; of names that no file can have there is none."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises where a name is too long


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises OutputError where the system refuses, or nothing can be written
    in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{folder}: cannot be made (there is a file of that name)") from error
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
    except ValueError as error:  # a NUL
        raise OutputError(f"{folder}: cannot be made ({error})") from error
    _check_access(folder, folder)


@contextmanager
def atomic_write(*paths: Path) -> Iterator[list[Path]]:
    """Hidden names to write, which become `paths`, in this order, when the block ends well.

    The hidden names lie beside `paths`, and keep their endings, in which several paths must differ.
    Whatever ends it otherwise, a signal too, leaves nothing behind and older files as they were. What a process
    left that could not clean up, killed by SIGKILL, is removed here too: see `_remove_leftover`.
    Raises OutputError where the system, or what writes the format, refuses.
    """
    mark = token_hex(4)  # not the number of the process, which another machine or container may have too
    partial = [path.with_name(f".{mark}-partial-{_kernel()}{_ending(path.name)}") for path in paths]
    locks = []
    names = {str(path.absolute()) for path in partial}
    interruption.unfinished |= names
    try:
        for written in partial:
            locks.append(_create_locked(written))
            _clean_once(written.parent, os.fstat(locks[-1]).st_mtime)
        yield partial
        for written, path in zip(partial, paths, strict=True):
            os.replace(written, path)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error  # without the hidden name
        raise OutputError(f"{paths[0]}: cannot be written ({reason})") from error
    finally:
        for written in partial:
            with suppress(OSError, ValueError):
                written.unlink(missing_ok=True)
        interruption.unfinished -= names
        for lock in locks:
            os.close(lock)


def _ending(name: str) -> str:
    """What tells a file's format at the end of its name: the last suffix, and the one before .gz."""
    suffixes = PurePath(f"_{name}").suffixes  # of .nii too, which is all suffix
    ending = "".join(suffixes[-2:] if name.lower().endswith(".gz") else suffixes[-1:])
    return ending if len(os.fsencode(ending)) <= LONGEST_ENDING else ""


@lru_cache
def _kernel() -> str:
    """8 hexadecimal digits that processes have in common if they run on one kernel: on one machine, between two
    starts of it, in whatever container. Elsewhere no other process has the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return token_hex(4)
    return sha256(boot).hexdigest()[:8]


def _create_locked(path: Path) -> int:
    """Make a file and lock it, for as long as the file descriptor that comes back is open: until the process
    ends, however it ends. Where the file system has no locks the file is not locked."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path_exists(path):
            return descriptor
        os.close(descriptor)  # another process took it for a leftover before it was locked


_cleaned: set[str] = set()


def _clean_once(folder: Path, now: float) -> None:
    """Remove leftovers from a folder, the first time that this process writes there: listing it takes time.

    now: seconds, by the clock of the file system.
    """
    name = os.path.abspath(folder)  # noqa: PTH100 - resolve would follow links, at a cost
    if name in _cleaned:
        return
    _cleaned.add(name)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if PARTIAL.match(entry.name) and entry.is_file(follow_symlinks=False):
                _remove_leftover(Path(entry.path), now)


def _remove_leftover(path: Path, now: float) -> None:
    """Remove a partial file that no process writes any more; when in doubt it stays.

    Its lock must be free. On the kernel that the name tells that is enough. On a file system that several machines
    share, locks may hold on one of them alone: a file from another kernel must also be unchanged for a day.
    """
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)  # over NFS a lock needs the right to write
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = PARTIAL.sub("", path.name, count=1).startswith(_kernel())
            if ours or now - os.fstat(descriptor).st_mtime > ABANDONED_S:
                path.unlink()
        finally:
            os.close(descriptor)
