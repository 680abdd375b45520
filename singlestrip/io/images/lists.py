"""Lists of images: text files with one path per line, or with those of an image and its mask, and folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ...errors import InputError
from ..output import atomic_write
from ..text.escaping import from_cell
from ..text.textfile import named_path, read_text
from .names import merge_pairs, suffix_of

LONGEST_PATH = 2**15  # bytes of a line; systems allow less
COMMENT_MARK = "#"
UNSAFE_STARTS = (COMMENT_MARK, "~", " ", "\t", "\r", "\ufeff")  # a path in a list begins with none of these


def read_list(path: Path) -> list[Path]:
    """The image paths in a text file or pipe, one per line. Blank lines and lines that begin with # do not count.

    Relative paths start from the working folder. Whether the files exist is not checked. Raises InputError if the
    file is no such list.
    """
    if suffix_of(path):
        raise InputError(
            f"{path}: an image by its name; a list is a text file with the path of one image per line"
        )
    lines = [line.strip(" \t\r") for line in read_text(path, "a list of paths", pipe=True).split("\n")]
    images = [named_path(line) for line in lines if line and not line.startswith(COMMENT_MARK)]
    if not images:
        raise InputError(f"{path}: the list names no image")
    if any(len(os.fsencode(image)) > LONGEST_PATH for image in images):
        raise InputError(f"{path}: not a list of paths: a line has more than {LONGEST_PATH} bytes")
    return merge_pairs(images)


def read_pair_list(path: Path) -> list[tuple[Path, Path]]:
    """The paths of an image and of its mask in each line of a text file, with a tab between them.

    Cells are as in tables. Blank lines and lines that begin with # do not count. Relative paths start from the
    folder of the list. Whether the files exist is not checked. Raises InputError if the file is no such list.
    """
    if suffix_of(path):
        raise InputError(f"{path}: an image by its name; a list of pairs is a text file with two paths per line")
    pairs = []
    for number, line in enumerate(read_text(path, "a list of pairs").split("\n"), start=1):
        line = line.strip(" \t\r")
        if not line or line.startswith(COMMENT_MARK):
            continue
        paths = [named_path(text) for text in map(from_cell, line.split("\t")) if text]
        if len(paths) != 2:
            raise InputError(
                f"{path}: line {number} has {len(paths)} paths between tabs; name an image and its mask, with a "
                "tab between them"
            )
        image, mask = (merge_pairs([path.parent / each])[0] for each in paths)
        pairs.append((image, mask))
    if not pairs:
        raise InputError(f"{path}: the list names no image")
    return pairs


def write_list(path: Path, images: Iterable[Path]) -> None:
    """Write a list that `read_list` reads, unless the file has this content already.

    Raises InputError for a path that no list can hold, OutputError.
    """
    lines = []
    for image in images:
        text = str(image)
        if "\n" in text or text != text.rstrip(" \t\r"):
            raise InputError(f"{image}: no list can hold a name with a line end, or a blank at its end; rename it")
        lines.append(f"./{text}\n" if text.startswith(UNSAFE_STARTS) else f"{text}\n")
    data = os.fsencode("".join(lines))
    if not path.is_file() or path.read_bytes() != data:
        with atomic_write(path) as (partial,):
            partial.write_bytes(data)


def images_below(folder: Path, leave_out: Path) -> list[Path]:
    """The images in a folder and the folders below it, sorted, without hidden ones and those below `leave_out`.

    Raises InputError if there is no such folder, or it is `leave_out`.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    outputs = os.path.realpath(leave_out)
    if os.path.realpath(folder) == outputs:
        raise InputError(f"{folder}: the folder of the outputs; name another for them")
    files: list[Path] = []
    for above, folders, names in os.walk(folder):
        folders[:] = [
            name for name in folders if not name.startswith(".") and os.path.realpath(Path(above, name)) != outputs
        ]
        files += [Path(above, name) for name in names if not name.startswith(".")]
    return sorted(path for path in merge_pairs(files) if suffix_of(path) not in ("", ".hdr"))
