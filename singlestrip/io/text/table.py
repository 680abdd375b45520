"""Tables of tab-separated values: a header and a line for each row, with cells as `escaping` has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..output import atomic_write
from .escaping import from_cell, to_cell


def table_line(cells: Iterable[str]) -> str:
    """One line of a table, with its line end."""
    return "\t".join(map(to_cell, cells)) + "\n"


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write a table whole or not at all. A cell that a row lacks is empty. Raises OutputError."""
    lines = [table_line(columns), *(table_line(row.get(name, "") for name in columns) for row in rows)]
    with atomic_write(path) as (partial,):
        partial.write_text("".join(lines), encoding="utf-8")


def parse_table(text: str) -> tuple[list[str], dict[int, list[str]]]:
    """The columns of a table, and the cells of each row by the number of its line. Empty lines do not count."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    columns, *rows = ([from_cell(cell) for cell in line.split("\t")] if line else [] for line in lines)
    return columns, {number: row for number, row in enumerate(rows, start=2) if row}
