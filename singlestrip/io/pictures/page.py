"""The QC page: one HTML file that shows each scan, and keeps and exports what people say about it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from ...errors import InputError
from ..output import atomic_write

FLAGS = ("pass", "look", "fail")
TEMPLATES = Path(__file__).parent / "templates" / "qc"
# The page's JavaScript modules, in the order in which one script holds them. Each imports from earlier ones only.
SCRIPTS = ("data", "storage", "cards", "list", "viewer", "review", "export", "keyboard", "main")
DATA_SCRIPT = '<script type="application/json" id="data">'
IMPORT_OR_EXPORT = re.compile(r"^import [^;]*;\n|^export ", re.MULTILINE)


@dataclass(frozen=True)
class Reason:
    """A clause that speaks against a mask. group: what it shares with others of its kind, to filter by."""

    text: str
    group: str


@dataclass(frozen=True)
class PageEntry:
    """What the page shows of one scan.

    name: any text; the page shows it unchanged. Each entry of a page has its own.
    flag: one of FLAGS.
    estimated_dice: in [0, 1]; None if there is none, for example because the mask cannot be read.
    picture: POSIX path of a PNG, relative to the page's folder and not quoted for URLs. The picture is 9 wide and
        4 high.
    numbers: the text to show for each column, by the column's title with its unit. All entries of a page have the
        same titles. An empty text is shown as a dash.
    note: one sentence that says why the scan failed or what to look at.
    interval: the ends, in [0, 1], between which the true Dice probably lies; None if they are not known.
    evidence: what the scan was judged by, in words; "" is not shown.
    reasons: what speaks against the mask, the gravest first.
    """

    name: str
    flag: str
    estimated_dice: float | None
    picture: str | None
    numbers: dict[str, str] = field(default_factory=dict)
    note: str = ""
    interval: tuple[float, float] | None = None
    evidence: str = ""
    reasons: tuple[Reason, ...] = ()


def _check(entries: Sequence[PageEntry]) -> None:
    """Raise InputError if the entries do not fit on one page."""
    names = set()
    for entry in entries:
        if entry.name in names:
            raise InputError(f"{entry.name}: named more than once; give each scan of a page a name of its own")
        names.add(entry.name)
        if entry.flag not in FLAGS:
            raise InputError(f"{entry.name}: flag {entry.flag!r} is not one of {', '.join(FLAGS)}")
        if entry.estimated_dice is not None and not 0 <= entry.estimated_dice <= 1:
            raise InputError(f"{entry.name}: estimated Dice {entry.estimated_dice} is not between 0 and 1")
        if entry.interval is not None and not 0 <= entry.interval[0] <= entry.interval[1] <= 1:
            raise InputError(f"{entry.name}: {entry.interval} is no interval between 0 and 1")
        if entry.picture is not None and PurePosixPath(entry.picture).is_absolute():
            raise InputError(f"{entry.name}: {entry.picture} is not a path from the page's folder")
        if entry.numbers.keys() != entries[0].numbers.keys():
            raise InputError(f"{entry.name}: its numbers are not those of {entries[0].name}")


def _data(entries: Sequence[PageEntry], title: str, about: str) -> str:
    """The page's data as JSON, safe inside a script element.

    Numbers are lists in the order of the columns, because JavaScript reorders keys that look like integers.
    """
    columns = list(entries[0].numbers) if entries else []
    scans = [
        {
            "name": entry.name,
            "flag": entry.flag,
            "estimated_dice": None if entry.estimated_dice is None else float(entry.estimated_dice),
            "picture": None if entry.picture is None else quote(os.fsencode(entry.picture)),
            "numbers": [entry.numbers[column] for column in columns],
            "note": entry.note,
            "interval": None if entry.interval is None else [float(end) for end in entry.interval],
            "evidence": entry.evidence,
            "reasons": [{"text": reason.text, "group": reason.group} for reason in entry.reasons],
        }
        for entry in entries
    ]
    text = json.dumps({"title": title, "about": about, "columns": columns, "scans": scans}, allow_nan=False)
    return text.replace("<", "\\u003c")  # json has escaped what is not ASCII, such as U+2028


def _read_part(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _join_scripts(names: Sequence[str]) -> str:
    """Join JavaScript modules into one script.

    Browsers load no modules for a page that is a local file. Imports and the word `export` are therefore removed;
    the modules then share one scope, in which no name may occur twice.
    """
    return "\n".join(IMPORT_OR_EXPORT.sub("", _read_part(f"{name}.js")) for name in names)


def _html(data: str) -> str:
    """The page with this data, as one self-contained file."""
    theme, scripts = _join_scripts(["theme"]), _join_scripts(SCRIPTS)
    parts = {
        '<link rel="stylesheet" href="style.css">': f"<style>\n{_read_part('style.css')}</style>",
        '<script src="theme.js"></script>': f'<script>\n"use strict";\n\n{theme}</script>',
        f"{DATA_SCRIPT}{{}}</script>": f"{DATA_SCRIPT}{data}</script>",
        '<script type="module" src="main.js"></script>': f'<script type="module">\n{scripts}</script>',
    }
    places = re.compile("|".join(map(re.escape, parts)))
    return places.sub(lambda place: parts[place[0]], _read_part("page.html"))  # searches no text that it inserts


def write_page(folder: Path, entries: Sequence[PageEntry], title: str, about: str) -> Path:
    """Write `folder`/index.html, whole or not at all, and return its path.

    The page works offline: it loads nothing but the pictures beside it.
    title: shown above the scans. The browser keeps the ratings of pages apart by title, names and estimated Dice.
    about: one line that says where the page comes from.
    Raises InputError if two entries share a name, if the titles of their numbers differ, or if a flag, estimated
    Dice, interval or picture is not as PageEntry says. Raises OutputError if the file cannot be written.
    """
    _check(entries)
    page = _html(_data(entries, title, about))
    path = folder / "index.html"
    with atomic_write(path) as (partial,):
        partial.write_text(page, encoding="utf-8", newline="\n")
    return path
