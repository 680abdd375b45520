"""Errors in the words of the command line: the options that do what an error advises."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ..errors import (
    BrainLabelsError,
    DeviceError,
    DivergedError,
    EarlierRunError,
    GridError,
    Interrupted,
    LabelNamesError,
    NoBrainError,
    describe_error,
    describe_file_error,
)

ADVISED_OPTIONS: dict[type[Exception], tuple[str, ...]] = {
    EarlierRunError: ("resume",),
    Interrupted: ("resume",),
    DivergedError: ("resume", "amp", "lr"),
    BrainLabelsError: ("brain",),
    LabelNamesError: ("brain", "label-table"),
    GridError: ("trust-voxels",),
    NoBrainError: ("centre",),
    DeviceError: ("device",),
}


def describe_with_options(error: Exception, args: argparse.Namespace) -> str:
    """What to tell the user about an error, with the names of those options that the command has."""
    return describe_error(error) + _options_in_brackets(error, args)


def describer_with_options(args: argparse.Namespace) -> Callable[[Path, Exception], str]:
    """`describe_file_error`, with the names of those options that the command has."""
    return lambda path, error: describe_file_error(path, error) + _options_in_brackets(error, args)


def _options_in_brackets(error: Exception, args: argparse.Namespace) -> str:
    """The options that do what an error advises, as far as the command has them; "" if it has none."""
    names = ADVISED_OPTIONS.get(type(error), ())
    options = ", ".join(f"--{name}" for name in names if hasattr(args, name.replace("-", "_")))
    return f" ({options})" if options else ""
