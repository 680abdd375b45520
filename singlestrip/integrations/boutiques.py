"""Boutiques descriptors of the subcommands, made from the parser.

    python -m singlestrip.integrations.boutiques FOLDER

Boutiques (boutiques.github.io) describes a command line as data, for platforms that run tools. This module writes
the files in docs/boutiques.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .._version import __version__
from ..cli.interface import Option, command_options, subparsers
from ..cli.parser import EXIT_STATUS, build_parser

# Boutiques' type of an option by its role; other options are texts. To Boutiques a folder is a file too.
TYPES = {"none": "Flag", **dict.fromkeys(("input", "list", "table", "input-folder", "model"), "File")}
# Groups of options of which a command needs at least one, by command and by what they have in common.
ONE_REQUIRED: dict[str, dict[str, tuple[str, ...]]] = {
    "strip": {
        "images": ("image", "list"),
        "outputs": ("out", "mask", "sdt", "picture", "doubt", "probability", "lesions", "out-dir"),
    },
    "segment": {"images": ("image", "list"), "outputs": ("out", "posteriors", "picture", "out-dir")},
    "train": {"examples": ("image", "labels"), "results": ("out", "picture")},
    "qc": {"masks": ("mask", "table")},
}
# For one image of 256³ on 2 cores, see docs/benchmarks.md.
RESOURCES = {"strip": {"cpu-cores": 2, "ram": 0.7, "walltime-estimate": 3.5}}


def descriptor(command: str) -> dict[str, Any]:
    """The Boutiques descriptor of a subcommand."""
    parser = build_parser()
    # Positional arguments go before options that take several values.
    options = sorted(command_options(parser, command), key=lambda option: bool(option.flags))
    title, _, text = (subparsers(parser)[command].description or "").partition("\n")
    fields: dict[str, Any] = {
        "name": f"singlestrip {command}",
        "schema-version": "0.5",
        "tool-version": __version__,
        "description": f"{title[0].upper()}{title[1:]}.\n{text}".strip(),
        "command-line": " ".join([f"singlestrip {command}", *map(_key, options)]),
        "inputs": [_input(option) for option in options],
        "output-files": [_output(option) for option in options if option.role in ("output", "folder")],
        "groups": [
            {
                "id": name,
                "name": name.capitalize(),
                "members": [member.replace("-", "_") for member in members],
                "one-is-required": True,
            }
            for name, members in ONE_REQUIRED.get(command, {}).items()
        ],
        "error-codes": [{"code": code, "description": text} for code, text in EXIT_STATUS.items() if code],
        "suggested-resources": RESOURCES.get(command),
        "tags": {"domain": ["neuroinformatics", "image processing", "mri"]},
    }
    return {name: value for name, value in fields.items() if value}


def _id(option: Option) -> str:
    """The name of an option in an invocation."""
    return option.name.replace("-", "_")


def _key(option: Option) -> str:
    """What stands for an option's value in the template of the command line."""
    return f"[{_id(option).upper()}]"


def _title(option: Option) -> str:
    """The name of an option for people."""
    return option.name.replace("-", " ").capitalize()


def _input(option: Option) -> dict[str, Any]:
    """The description of an option as an input."""
    fields: dict[str, Any] = {
        "id": _id(option),
        "name": _title(option),
        "type": TYPES.get(option.role, "Number" if option.range else "String"),
        "description": option.action.help,
        "optional": option.nargs == "*" or not option.action.required,
        "value-key": _key(option),
    }
    if option.flags:
        fields["command-line-flag"] = option.flags[-1]
    if option.nargs in ("+", "*"):
        fields |= {"list": True, "min-list-entries": 1}
    elif option.nargs is None and option.flags:
        fields["command-line-flag-separator"] = "="  # a value may begin with a dash
    elif isinstance(option.nargs, int) and option.role != "none":
        fields |= {"list": True, "min-list-entries": option.nargs, "max-list-entries": option.nargs}
    if option.action.choices is not None:
        fields["value-choices"] = list(option.action.choices)
    if option.range is not None:
        limits = {"minimum": option.range.lowest, "maximum": option.range.highest}
        fields |= {"integer": option.range.integer} | {k: v for k, v in limits.items() if v is not None}
        fields |= {"exclusive-minimum": True} if option.range.open else {}
    return fields


def _output(option: Option) -> dict[str, Any]:
    """The description of the file or folder that an option names for writing."""
    return {
        "id": f"{_id(option)}_written",
        "name": _title(option),
        "description": option.action.help,
        "path-template": _key(option),
        "optional": not option.action.required,
    }


def path(folder: Path, command: str) -> Path:
    """The path of a subcommand's descriptor."""
    return folder / f"singlestrip-{command}.json"


def write(folder: Path) -> None:
    """Write the descriptors of all subcommands."""
    for command in subparsers(build_parser()):
        text = json.dumps(descriptor(command), indent=2, ensure_ascii=False)
        path(folder, command).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m singlestrip.integrations.boutiques FOLDER")
    write(Path(sys.argv[1]))
