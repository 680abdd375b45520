"""The QC page: one HTML file that shows each scan, and keeps and exports ratings and notes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from ..errors import InputError
from .output import atomic_write

FLAGS = ("pass", "look", "fail")
TEMPLATE = Path(__file__).parent / "templates" / "qc.html"
PLACE_OF_DATA = "__DATA__"


@dataclass(frozen=True)
class PageEntry:
    """What the page shows of one scan.

    name: any text; no two entries of a page have the same.
    flag: one of FLAGS.
    estimated_dice: in [0, 1]; None if there is none, as for a mask that cannot be read.
    picture: POSIX path from the page's folder, not quoted for URLs, of a PNG about three times as wide as high.
    numbers: the text of each column by its title, which has the unit; all entries of a page have the same titles.
    note: one sentence on why the scan failed, or on what to look at.
    """

    name: str
    flag: str
    estimated_dice: float | None
    picture: str | None
    numbers: dict[str, str] = field(default_factory=dict)
    note: str = ""


def _check(entries: Sequence[PageEntry]) -> None:
    """Raise InputError if the entries do not make one page."""
    names = set()
    for entry in entries:
        if entry.name in names:
            raise InputError(f"{entry.name}: named more than once; give each scan of a page a name of its own")
        names.add(entry.name)
        if entry.flag not in FLAGS:
            raise InputError(f"{entry.name}: flag {entry.flag!r} is not one of {', '.join(FLAGS)}")
        if entry.estimated_dice is not None and not 0 <= entry.estimated_dice <= 1:
            raise InputError(f"{entry.name}: estimated Dice {entry.estimated_dice} is not between 0 and 1")
        if entry.picture is not None and PurePosixPath(entry.picture).is_absolute():
            raise InputError(f"{entry.name}: {entry.picture} is not a path from the page's folder")
        if entry.numbers.keys() != entries[0].numbers.keys():
            raise InputError(f"{entry.name}: its numbers are not those of {entries[0].name}")


def _data(entries: Sequence[PageEntry], title: str, about: str) -> str:
    """The text of the page as JSON for a script element, which no text in it can end.

    Numbers are a list in the order of the columns, since JavaScript would reorder keys that look like integers.
    """
    columns = list(entries[0].numbers) if entries else []
    scans = [
        {
            "name": entry.name,
            "flag": entry.flag,
            "score": None if entry.estimated_dice is None else float(entry.estimated_dice),
            "picture": None if entry.picture is None else quote(os.fsencode(entry.picture)),
            "numbers": [entry.numbers[column] for column in columns],
            "note": entry.note,
        }
        for entry in entries
    ]
    text = json.dumps({"title": title, "about": about, "columns": columns, "scans": scans}, allow_nan=False)
    return text.replace("<", "\\u003c")  # json has escaped all that is not ASCII, U+2028 and U+2029 among it


def write_page(folder: Path, entries: Sequence[PageEntry], title: str, about: str) -> Path:
    """Write `folder`/index.html, whole or not at all, and return its path.

    The page needs no network, only this file and the pictures beside it.
    title: the heading; with names and estimated Dice, it tells one page's ratings from another's in the browser.
    about: one line on where the page comes from.
    Raises InputError for entries that share a name, differ in the titles of their numbers, or have a flag,
    estimated Dice or picture that PageEntry does not allow; OutputError if the file cannot be written.
    """
    _check(entries)
    page = TEMPLATE.read_text(encoding="utf-8").replace(PLACE_OF_DATA, _data(entries, title, about), 1)
    path = folder / "index.html"
    with atomic_write(path) as (partial,):
        partial.write_text(page, encoding="utf-8", newline="\n")
    return path
