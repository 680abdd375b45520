"""Versions of libraries, for records and reports. Imports none of the libraries."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from .._version import __version__


def library_version(name: str) -> str | None:
    """The version of a library by its name in the package index; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def recorded_versions(*libraries: str) -> dict[str, str | None]:
    """The version of this package and of libraries, by name, for the record of an output."""
    return {"singlestrip": __version__} | {name: library_version(name) for name in libraries}
