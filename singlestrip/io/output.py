"""Outputs: checks before any work is done, and writing that leaves complete files or none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from .. import interruption
from ..errors import OutputError
from .file_kind import file_kind
from .partial_files import create_locked, partial_path, remove_leftovers_once

PICTURES = (".png", ".jpg", ".pdf", ".svg")


def file_identity(path: Path) -> str:
    """The one name that stands for all names of a file. Links are followed; a pair is known by its .img."""
    try:
        stem, ending = os.path.splitext(os.path.realpath(path))  # noqa: PTH122 - faster, for 100 000 paths
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
    """Raise OutputError if no file can be written at this path."""
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


def check_picture(path: Path) -> None:
    """Raise OutputError if a picture cannot be written at this path."""
    if path.suffix.lower() not in PICTURES:
        raise OutputError(f"{path}: name pictures with one of {', '.join(PICTURES)}")
    check_writable(path)


def _check_access(path: Path, folder: Path) -> None:
    """Raise OutputError, which names `path`, if this process may not make files in a folder."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: folder {folder} cannot be written to")


def path_exists(path: Path) -> bool:
    """Whether there is a file or folder. No error for names that no file can have."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises where a name is too long


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises OutputError if that fails or the folder cannot be written to."""
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
    """Give hidden files to write, and rename them to `paths`, in this order, if the block ends without an error.

    The hidden files lie beside `paths` and keep their endings; several paths must differ in these. If the block
    ends otherwise, also by a signal, nothing is left behind and older files stay as they were. The leftovers of
    killed processes in the same folders are removed. Raises OutputError if the system, or what writes the format,
    refuses.
    """
    mark = token_hex(4)  # another machine or container may have a process of the same number
    partial = [partial_path(path, mark) for path in paths]
    locks = []
    names = {str(path.absolute()) for path in partial}
    interruption.unfinished |= names
    try:
        for written in partial:
            with interruption.making_file:
                locks.append(create_locked(written))
            remove_leftovers_once(written.parent, os.fstat(locks[-1]).st_mtime)
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
