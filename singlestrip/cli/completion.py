"""Completion of the command line in a shell, as a script that the shell reads. Imports no torch."""

from __future__ import annotations

import argparse

import shtab

from .interface import PATH_ROLES, subparsers


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What `shell` runs to know subcommands, options, choices, and which values are files or folders.

    parser: from `build_parser`, and not to be used to parse afterwards.
    """
    for command in subparsers(parser).values():
        command.description = command.description.partition("\n")[0]
        for action in command._actions:
            role = PATH_ROLES.get(action.type)
            if role is None:
                continue
            action.complete = shtab.DIRECTORY if role in ("folder", "input-folder") else shtab.FILE
            # To shtab's bash all that follows an option for one file or more is a file, the next option too.
            action.nargs = None if action.nargs == "+" else action.nargs
    return shtab.complete(parser, shell)
