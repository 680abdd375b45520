"""Names of the labels of a map: FreeSurfer's colour tables and BIDS's dseg.tsv."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from .table import parse_table
from .textfile import read_text
from .typed import shortened

COLOUR_CELLS = 4  # red, green, blue, alpha: the last of each line of a colour table


def read_label_table(path: Path) -> dict[int, str]:
    """The name of each label in a table.

    The table has lines of `number name red green blue alpha` and comments that begin with #, or it is
    tab-separated with the columns index and name. Raises InputError, with the number of a wrong line.
    """
    text = read_text(path, "a table of labels")
    columns, _ = parse_table(text)
    rows = _bids_rows(text) if "index" in columns else _freesurfer_rows(text)
    names = {}
    for line, (number, name) in rows.items():
        try:
            names[int(number)] = name
        except ValueError as error:
            raise InputError(f"{path}: line {line}: {shortened(number)!r} is no label number") from error
        if not name:
            raise InputError(f"{path}: line {line}: label {number} has no name")
    if not names:
        raise InputError(f"{path}: names no label")
    return names


def _bids_rows(text: str) -> dict[int, tuple[str, str]]:
    """Number and name by the number of the line, in a table with the columns index and name."""
    columns, rows = parse_table(text)
    cells = {line: dict(zip(columns, row, strict=False)) for line, row in rows.items()}
    return {line: (row.get("index", ""), row.get("name", "")) for line, row in cells.items()}


def _freesurfer_rows(text: str) -> dict[int, tuple[str, str]]:
    """Number and name by the number of the line, in a colour table."""
    lines = {line: row.partition("#")[0].split() for line, row in enumerate(text.splitlines(), start=1)}
    return {line: (cells[0], " ".join(cells[1:-COLOUR_CELLS])) for line, cells in lines.items() if cells}
