"""Files appear whole or not at all: written under another name beside the place, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from . import interruption
from .errors import OutputError


def _identity(path: Path) -> Path:
    """One name for all names of a file: links followed, both files of an .img/.hdr pair alike."""
    path = path.resolve()
    return path.with_suffix(".img") if path.suffix.lower() == ".hdr" else path


def check_distinct(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Raise OutputError if an output would overwrite an input or another output."""
    taken = {_identity(path): "is an input" for path in inputs}
    for path in outputs:
        if _identity(path) in taken:
            raise OutputError(f"{path}: {taken[_identity(path)]}; name another file or folder for the output")
        taken[_identity(path)] = "is named for two outputs"


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises OutputError where the system refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error})") from error


@contextmanager
def whole(*paths: Path) -> Iterator[list[Path]]:
    """Hidden names to write, which become `paths`, in this order, when the block ends well.

    Whatever ends it otherwise, a signal too, leaves nothing behind and older files as they were.
    Raises OutputError where the system, or what writes the format, refuses.
    """
    mark = token_hex(4)  # not the number of the process, which another machine or container may have too
    partial = [path.with_name(f".{mark}-partial-{path.name}") for path in paths]
    names = {str(path.absolute()) for path in partial}
    interruption.unfinished |= names
    try:
        yield partial
        for written, path in zip(partial, paths, strict=True):
            os.replace(written, path)
    except (OSError, ValueError, RuntimeError) as error:
        raise OutputError(f"{paths[0]}: cannot be written ({error})") from error
    finally:
        for written in partial:
            with suppress(OSError):
                written.unlink(missing_ok=True)
        interruption.unfinished -= names
