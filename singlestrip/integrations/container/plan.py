"""From a command line to mounts: which paths it names, and which its lists and tables name."""

import argparse
import os
import re
import stat
from typing import Any, Iterable, List, NoReturn, Sequence, Tuple

from .mounts import Mount, Mounts
from .options import OPTIONS
from .places import SYSTEM_FOLDERS, Refusal, can_be_mounted, lies_in

MAX_TEXT_BYTES = 64 * 2**20  # of a list or table; singlestrip refuses longer ones


class LenientParser(argparse.ArgumentParser):
    """A parser that leaves mistakes to singlestrip, which describes them better."""

    def error(self, message: str) -> NoReturn:
        """Raise ValueError in place of ending the program."""
        raise ValueError(message)


def named_paths(command: str, arguments: Sequence[str]) -> Tuple[List[Tuple[str, str]], str]:
    """Role and value of each path in a command line, and the device; nothing if it cannot be parsed.

    The device is the value of --device, or "cuda" for --gpu; the last of them counts.
    """
    parser = LenientParser(add_help=False, allow_abbrev=False)
    roles = {}
    for number, (role, nargs, *flags) in enumerate(OPTIONS[command]):
        destination = f"option{number}"
        roles[destination] = role
        if not flags[0].startswith("-"):
            parser.add_argument(destination, nargs=nargs, metavar=flags[0])
        elif "--gpu" in flags:
            parser.add_argument(*flags, dest="device", action="store_const", const="cuda")
        elif "--device" in flags:
            parser.add_argument(*flags, dest="device")
        elif role == "none":
            parser.add_argument(*flags, dest=destination, action="store_true")
        else:
            parser.add_argument(*flags, dest=destination, action="append", nargs=nargs)
    try:
        values = vars(parser.parse_known_args(arguments)[0])
    except ValueError:
        return [], ""
    path_roles = {name: role for name, role in roles.items() if role not in ("value", "none")}
    paths = [(role, path) for name, role in path_roles.items() for path in _flat(values[name])]
    return paths, values.get("device") or ""


def _flat(value: Any) -> List[str]:
    """The texts in lists of lists, in their order."""
    if isinstance(value, list):
        return [text for part in value for text in _flat(part)]
    return [] if value is None else [value]


def plan_mounts(
    paths: Iterable[Tuple[str, str]], model_folders: Iterable[str], create: bool
) -> Tuple[List[Mount], str]:
    """The mounts for the paths of a command line and for folders of models, and the working folder inside.

    paths: role and value, as of `named_paths`. model_folders: empty names are skipped. create: make output folders
    that are missing.
    """
    mounts = Mounts(os.getcwd())
    for role, value in paths:
        _add(mounts, role, mounts.absolute(value), create)
    for folder in filter(None, model_folders):
        mounts.add_linked_folder(mounts.absolute(folder))
    working_folder = mounts.working_folder
    if can_be_mounted(working_folder):
        mounts.add_folder(working_folder)
    elif any(lies_in(working_folder, folder) for folder in SYSTEM_FOLDERS):
        working_folder = "/"
    return mounts.as_list(), working_folder


def _add(mounts: Mounts, role: str, path: str, create: bool) -> None:
    """Add what an option of this role names. The roles are those of singlestrip.cli.interface."""
    if role == "input":
        mounts.add_file(path)
    elif role == "input-folder":
        mounts.add_linked_folder(path)
    elif role == "list":
        _add_list(mounts, path)
    elif role == "table":
        _add_table(mounts, path)
    elif role == "model":
        if os.path.isfile(path):  # otherwise it is a model's name
            mounts.add_file(path)
    elif role == "output":
        mounts.add_new_file(path, create)
    elif role == "folder":
        mounts.add_new_folder(path, create)
    else:
        raise KeyError(role)


def _add_list(mounts: Mounts, path: str) -> None:
    """Add a list of images, and the images; relative paths in it start from the working folder."""
    if os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode):
        raise Refusal(f"{path}: a pipe, which no container is given; write the list to a file")
    mounts.add_file(path)
    for line in (line.strip(" \t\r") for line in read_lines(path)):
        if line and not line.startswith("#"):
            mounts.add_file(mounts.absolute(os.path.expanduser(line)))


def _add_table(mounts: Mounts, path: str) -> None:
    """Add a TSV, and the files that its cells name from the working folder or from the table's folder."""
    mounts.add_file(path)
    cells = {unescape(cell) for line in read_lines(path) for cell in line.split("\t")}
    for cell in sorted(os.path.expanduser(cell) for cell in cells if cell and "\0" not in cell):
        for base in (mounts.working_folder, os.path.dirname(path)):
            named = mounts.absolute(cell, base)
            if os.path.lexists(named) and not os.path.isdir(named):
                mounts.add_file(named)


def read_lines(path: str) -> List[str]:
    """The lines of a list or table, other bytes than UTF-8 kept as surrogates.

    A file that cannot be read has no lines: singlestrip itself will report it.
    """
    try:
        if not os.path.isfile(path):
            return []
        with open(path, "rb") as file:
            text = file.read(MAX_TEXT_BYTES).decode("utf-8-sig", "surrogateescape")
    except OSError:
        return []
    return [line.rstrip("\r") for line in text.split("\n") if "\0" not in line]


def unescape(cell: str) -> str:
    """The text of a table's cell, escaped as docs/stable/tables.md describes."""

    def character(match: "re.Match[str]") -> str:
        letter, byte, code = match.groups()
        if letter:
            return {"t": "\t", "n": "\n", "r": "\r"}.get(letter, letter)
        number = int(byte or code, 16)
        return chr(number + 0xDC00 if byte and number >= 0x80 else number)

    cell = cell.strip()
    return re.sub(r"\\(?:([tnr\\])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4}))", character, cell[cell.startswith("'") :])
