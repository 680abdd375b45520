"""Completion of the command line, as a script that a shell reads. Imports no torch."""

from __future__ import annotations

import argparse

import shtab

from .interface import PATH_ROLES, subparsers


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script that tells `shell` the subcommands, options and choices, and which values are files or folders.

    parser: of `build_parser`; it is changed, and cannot parse afterwards.
    """
    for command in subparsers(parser).values():
        command.description = (command.description or "").partition("\n")[0]
        for action in command._actions:
            role = PATH_ROLES.get(action.type)
            if role is None:
                continue
            kind = shtab.DIRECTORY if role in ("folder", "input-folder") else shtab.FILE
            action.complete = kind  # type: ignore[attr-defined]  # shtab reads an attribute that argparse lacks
            # After an option with "+" shtab's script for bash completes files alone, and no further option.
            action.nargs = None if action.nargs in ("+", "*") else action.nargs
    return shtab.complete(parser, shell)
