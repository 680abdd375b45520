"""Tables of the labels of a map: FreeSurfer's colour tables and BIDS's dseg.tsv."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from .table import parse_table
from .textfile import read_text
from .typed import shortened

COLOUR_CELLS = 4  # red, green, blue, alpha: the last of each line of a colour table


@dataclass(frozen=True)
class LabelRow:
    """A line of a table. cells: by the name of their column."""

    line: int
    number: int
    name: str
    cells: dict[str, str]


def read_label_table(path: Path) -> dict[int, str]:
    """The name of each label in a table. Takes the tables and raises the errors of `read_label_rows`."""
    return {row.number: row.name for row in read_label_rows(path)}


def read_label_rows(path: Path) -> list[LabelRow]:
    """The lines of a table, at least one.

    The table has lines of `number name red green blue alpha` and comments that begin with #, or it is
    tab-separated with the columns index and name. Colours of the first kind become a cell of the column color, as
    the second kind has them: #rrggbb. Raises InputError, with the number of a wrong line.
    """
    text = read_text(path, "a table of labels")
    rows = _bids_rows(text) if is_bids_table(text) else _freesurfer_rows(text)
    read = []
    for line, cells in rows.items():
        number, name = cells.get("index", ""), cells.get("name", "")
        try:
            read.append(LabelRow(line, int(number), name, cells))
        except ValueError as error:
            raise InputError(f"{path}: line {line}: {shortened(number)!r} is no label number") from error
        if not name:
            raise InputError(f"{path}: line {line}: label {number} has no name")
    if not read:
        raise InputError(f"{path}: names no label")
    return read


def is_bids_table(text: str) -> bool:
    """Whether a table of labels is tab-separated with a column index, and no colour table."""
    return "index" in parse_table(text)[0]


def _bids_rows(text: str) -> dict[int, dict[str, str]]:
    """Cells by column, by the number of the line, in a table with the columns index and name."""
    columns, rows = parse_table(text)
    return {line: dict(zip(columns, row, strict=False)) for line, row in rows.items()}


def _freesurfer_rows(text: str) -> dict[int, dict[str, str]]:
    """Cells by column, by the number of the line, in a colour table."""
    rows = {}
    for line, row in enumerate(text.splitlines(), start=1):
        if words := row.partition("#")[0].split():
            name, colour = " ".join(words[1:-COLOUR_CELLS]), words[-COLOUR_CELLS:-1]
            rows[line] = {"index": words[0], "name": name, "color": _hexadecimal(colour)}
    return rows


def _hexadecimal(colour: list[str]) -> str:
    """Red, green and blue as #rrggbb; "" if they are no bytes."""
    try:
        return "#" + bytes(map(int, colour)).hex()
    except ValueError:
        return ""
