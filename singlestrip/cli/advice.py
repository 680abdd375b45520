"""Errors in the words of the command line: the options that do what an error advises."""

from __future__ import annotations

import argparse

from ..errors import (
    BrainLabelsError,
    DivergedError,
    EarlierRunError,
    Interrupted,
    LabelNamesError,
    describe_error,
)

ADVISED_OPTIONS: dict[type[Exception], tuple[str, ...]] = {
    EarlierRunError: ("resume",),
    Interrupted: ("resume",),
    DivergedError: ("resume", "amp", "lr"),
    BrainLabelsError: ("brain",),
    LabelNamesError: ("brain", "label_table"),
}


def describe_with_options(error: Exception, args: argparse.Namespace) -> str:
    """What to tell the user about an error, with the names of those options that the command has."""
    text = describe_error(error)
    names = ADVISED_OPTIONS.get(type(error), ())
    options = ", ".join(f"--{name.replace('_', '-')}" for name in names if hasattr(args, name))
    return f"{text} ({options})" if options else text
