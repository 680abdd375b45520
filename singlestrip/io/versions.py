"""Versions of libraries, for records and reports. Imports none of the libraries."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from .._version import __version__

# The name of the folder or file that describes an installed library: its name, its version, and the rest.
DESCRIPTION = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(-[^-]+)?\.(dist-info|egg-info)")


def library_version(name: str) -> str | None:
    """The version of a library by its name in the package index; None if it is not installed."""
    return _installed(tuple(sys.path)).get(_plain(name))


@lru_cache(maxsize=1)
def _installed(folders: tuple[str, ...]) -> dict[str, str]:
    """The versions of the libraries in the folders of the import path, by their plain names.

    They stand in the names of files. `importlib.metadata` reads the files, and its import takes longer than the
    start of the program.
    """
    versions: dict[str, str] = {}
    for folder in folders:
        with suppress(OSError):
            for path in Path(folder).iterdir():
                if described := DESCRIPTION.fullmatch(path.name):
                    versions.setdefault(_plain(described["name"]), described["version"])
    return versions


def _plain(name: str) -> str:
    """The one spelling of a library's name that stands for all of them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def recorded_versions(*libraries: str) -> dict[str, str | None]:
    """The version of this package and of libraries, by name, for the record of an output."""
    return {"singlestrip": __version__} | {name: library_version(name) for name in libraries}
