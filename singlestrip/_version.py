"""The version of the installed package, in a module of its own: `import singlestrip` does not wait for it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("singlestrip")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"
