"""The manual page of each subcommand as Markdown, made from the parser, for the documentation site."""

from __future__ import annotations

import re
import textwrap

from ..cli.interface import Option, command_options, subparsers
from ..cli.parser import EXIT_STATUS, build_parser, command_module


def page(command: str) -> str:
    """The manual page of a subcommand as Markdown: description, tables of options, examples and exit statuses."""
    parser = build_parser()
    module = command_module(command)
    title, _, text = module.DESCRIPTION.partition("\n")
    options = {id(option.action): option for option in command_options(parser, command)}
    parts = [
        f"# singlestrip {command}",
        f"{title[0].upper()}{title[1:]}.",
        _code("\n".join(module.SYNOPSIS)),
        *(" ".join(_escape(part).split()) for part in text.strip().split("\n\n") if part.strip()),
    ]
    for group in subparsers(parser)[command]._action_groups:
        rows = [_row(options[id(action)]) for action in group._group_actions if id(action) in options]
        if rows:
            name = "Options" if group.title == "options" else (group.title or "").capitalize()
            parts.append("\n".join([f"## {name}", "", "| option | value | meaning |", "|---|---|---|", *rows]))
    statuses = [f"| {status} | {meaning} |" for status, meaning in EXIT_STATUS.items()]
    parts += ["## Examples", _code(textwrap.dedent(module.EXAMPLES))]
    parts.append("\n".join(["## Exit status", "", "| status | means |", "|---|---|", *statuses]))
    return "\n\n".join(parts) + "\n"


def _row(option: Option) -> str:
    """A row of a table of options."""
    names = ", ".join(f"`{flag}`" for flag in option.flags) or f"`{option.action.metavar or option.action.dest}`"
    metavar = option.action.metavar or ""
    if isinstance(metavar, tuple):
        metavar = " ".join(metavar)
    if option.action.choices:
        metavar = ", ".join(map(str, option.action.choices))
    value = "" if option.role == "none" or not option.flags else metavar
    help_text = (option.action.help or "").replace("%%", "%")
    return f"| {names} | {_escape(value)}{' …' if option.nargs == '+' else ''} | {_escape(help_text)} |"


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, with options and paths as code."""
    text = re.sub(r"([\\`*_<>|\[\]])", r"\\\1", text)
    return re.sub(r"(?<![\w/-])(--[a-z][a-z-]*)", r"`\1`", text)


def _code(text: str) -> str:
    """A block of shell lines."""
    return f"```\n{text.strip()}\n```"
