"""Files appear whole or not at all: written under another name beside the place, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError


@contextmanager
def whole(*paths: Path) -> Iterator[list[Path]]:
    """Hidden names to write, which become `paths`, in this order, when the block ends well.

    Whatever ends it otherwise, a signal too, leaves nothing behind and older files as they were.
    Raises OutputError where the system, or what writes the format, refuses.
    """
    partial = [path.with_name(f".{os.getpid()}-partial-{path.name}") for path in paths]
    try:
        yield partial
        for written, path in zip(partial, paths, strict=True):
            os.replace(written, path)
    except (OSError, ValueError, RuntimeError) as error:
        raise OutputError(f"{paths[0]}: cannot be written ({error})") from error
    finally:
        for written in partial:
            written.unlink(missing_ok=True)
