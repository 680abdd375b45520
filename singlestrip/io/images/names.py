"""The names of image files: what they tell of the format, and which of them name the same image.

Nothing is read, and no library is imported.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from ...errors import InputError, OutputError
from ..output import check_writable, path_exists

log = logging.getLogger(__name__)
Item = TypeVar("Item")
SUFFIXES = (".nii.gz", ".nii", ".img", ".hdr", ".mgz", ".mgh")


def suffix_of(path: Path) -> str:
    """The image suffix of a path, in lower case; "" if it has none of those supported."""
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")


def is_mgh(path: Path) -> bool:
    """Whether a path has a suffix of MGH or MGZ."""
    return suffix_of(path) in (".mgh", ".mgz")


def is_packed(path: Path) -> bool:
    """Whether a path has the suffix of a format that is compressed with gzip."""
    return suffix_of(path) in (".nii.gz", ".mgz")


def header_and_data(path: Path) -> tuple[Path, Path]:
    """The files that hold an image's header and its voxels: two of an .img/.hdr pair, otherwise the same."""
    if suffix_of(path) not in (".img", ".hdr"):
        return path, path
    change_case = str.upper if path.suffix.isupper() else str
    return path.with_suffix(change_case(".hdr")), path.with_suffix(change_case(".img"))


def beside(path: Path, ending: str) -> Path:
    """The path of a file beside an image: its name with another ending in place of its suffix."""
    return path.with_name(path.name[: len(path.name) - len(suffix_of(path))] + ending)


def distinct_names(paths: list[Path]) -> list[Path]:
    """Names of image files without suffix. If two are equal, all names keep their folders below the shared one.

    Names of files that differ only in suffix stay equal. Raises InputError if a file is named twice.
    """
    resolved = [Path(_absolute(path)) for path in paths]
    check_named_once(resolved)
    stems = [path.name[: len(path.name) - len(suffix_of(path))] or path.name for path in resolved]
    if len(set(stems)) == len(stems):
        return [Path(stem) for stem in stems]
    shared = Path(os.path.commonpath([path.parent for path in resolved]))
    return [path.parent.relative_to(shared) / stem for path, stem in zip(resolved, stems, strict=True)]


def check_named_once(paths: Iterable[Path]) -> None:
    """Raise InputError if two paths name the same file. A link counts as another file."""
    twice = [path for path, count in Counter(map(_absolute, paths)).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]}: named more than once")


def without_repeats(items: Iterable[Item], files_of: Callable[[Item], tuple[Path | None, ...]]) -> list[Item]:
    """The items in their order, without those that name the same files as an earlier one.

    files_of: the files that an item names; a warning about a repeat names the first. A link counts as another
    file.
    """
    counts: Counter[tuple[str | None, ...]] = Counter()
    kept = []
    for item in items:
        files = tuple(None if path is None else _absolute(path) for path in files_of(item))
        counts[files] += 1
        if counts[files] == 1:
            kept.append(item)
        elif counts[files] == 2:
            log.warning("%s: named more than once; it is taken once", files_of(item)[0])
    return kept


def _absolute(path: Path) -> str:
    """The absolute path, with links as they are."""
    return os.path.abspath(path)  # noqa: PTH100 - links stay as named


def merge_pairs(paths: Iterable[Path]) -> list[Path]:
    """Paths of images in their order; an .img/.hdr pair counts once, by its .img, whichever file is named."""

    def stem(path: Path) -> str:
        return _absolute(path.with_suffix(""))

    paths = list(paths)
    stems = {stem(path) for path in paths if path.suffix.lower() == ".img"}
    alone = [path for path in paths if path.suffix.lower() != ".hdr" or stem(path) not in stems]
    return [voxel_file(path) if path_exists(voxel_file(path)) else path for path in alone]


def voxel_file(path: Path) -> Path:
    """The file of an image that holds its voxels: the .img of an .img/.hdr pair, else the path itself."""
    return header_and_data(path)[1]


def check_output(path: Path) -> None:
    """Raise OutputError if no image can be written at this path; called before any work is done."""
    if not suffix_of(path):
        raise OutputError(f"{path}: name outputs with one of {', '.join(SUFFIXES)}")
    check_writable(path)
