"""The options of the command line as data, read from its parser, for wrappers, descriptors and completions."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace

from . import former_names, options

# What the values of an option are to a wrapper, by the argparse type that parses them.
PATH_ROLES: dict[object, str] = {
    options.input_file: "input",  # a file to read
    options.input_list: "list",  # a file to read that names one more a line
    options.input_folder: "input-folder",  # a folder to read
    options.input_table: "table",  # a TSV to read whose cells name more
    options.output_file: "output",  # a file to write
    options.output_folder: "folder",  # a folder to write in
    options.model: "model",  # a file to read, or a name
}


@dataclass(frozen=True)
class Range:
    """Which numbers an option takes. `lowest` and `highest` are None without a limit; `open` excludes `lowest`."""

    integer: bool
    lowest: float | None = None
    highest: float | None = None
    open: bool = False


# The numbers that an option takes, by the argparse type that parses them. Options of other types take text.
NUMBERS: dict[object, Range] = {
    options.positive_int: Range(True, 1),
    options.seed: Range(True, 0, 2**32 - 1),
    options.positive_float: Range(False, 0, open=True),
    options.not_negative: Range(False, 0),
    options.finite_float: Range(False),
    options.millimetres: Range(False),
    options.positive_millimetres: Range(False, 0, open=True),
    options.share: Range(False, 0, 1),
}


@dataclass(frozen=True)
class Option:
    """An option of a subcommand, or a positional argument, which has no flags.

    role: what its values are, one of PATH_ROLES' or "value"; "none" for switches. nargs: the number of values, as
    argparse has it: "+" for one or more, None for one.
    """

    flags: tuple[str, ...]
    role: str
    nargs: int | str | None
    action: argparse.Action

    @property
    def range(self) -> Range | None:
        """The numbers that it takes; None if it takes no numbers."""
        return NUMBERS.get(self.action.type)

    @property
    def name(self) -> str:
        """The long flag without its dashes; the name of a positional argument."""
        return self.flags[-1].lstrip("-") if self.flags else self.action.dest.replace("_", "-")


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each subcommand, by its name, from that of the whole command line."""
    return next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))


def command_options(parser: argparse.ArgumentParser, command: str) -> Iterator[Option]:
    """The options of a subcommand in the order of its help, without --help and --version."""
    for action in subparsers(parser)[command]._actions:
        if isinstance(action, (argparse._HelpAction, argparse._VersionAction)):
            continue
        switch = action.nargs == 0
        role = "none" if switch else PATH_ROLES.get(action.type, "value")
        yield Option(tuple(action.option_strings), role, action.nargs, action)


def former_options(parser: argparse.ArgumentParser, command: str) -> Iterator[Option]:
    """The options of a subcommand by the names that were replaced, which still work.

    If an option became a command, they include the other options that this command alone has.
    """
    present = {flag: option for option in command_options(parser, command) for flag in option.flags}
    for former, flag in former_names.OPTIONS.get(command, {}).items():
        yield replace(present[flag], flags=(former,))
    others: set[str] = set()
    for former, (successor, flag, *_) in former_names.COMMANDS.get(command, {}).items():
        for option in command_options(parser, successor):
            if flag in option.flags:
                yield replace(option, flags=(former,))
            elif not others.union(present).intersection(option.flags):
                others.update(option.flags)
                yield option


def option_table(parser: argparse.ArgumentParser) -> str:
    """All of it as Python source, for bin/singlestrip-container: by subcommand, role, nargs and flags of each
    option, also by former names; a positional argument has its name in place of flags."""
    lines = ["OPTIONS = {"]
    for command in subparsers(parser):
        lines.append(f'    "{command}": (')
        for option in (*command_options(parser, command), *former_options(parser, command)):
            named = option.flags or (option.action.dest,)
            nargs = f'"{option.nargs}"' if isinstance(option.nargs, str) else option.nargs
            words = [f'"{option.role}"', str(nargs), *(f'"{name}"' for name in named)]
            lines.append(f"        ({', '.join(words)}),")
        lines.append("    ),")
    return "\n".join([*lines, "}", ""])
