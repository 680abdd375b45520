"""Tables of masks: which are to be assessed, and what was found. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError, OutputError
from ..io.images import volume
from ..io.output import atomic_write, check_writable
from ..io.pictures.page import FLAGS
from ..io.text import table
from ..io.text.escaping import to_json
from ..io.text.textfile import named_path, read_text
from .assessment import COLUMNS, NUMBERS, Assessment, Case


def read_table(path: Path) -> list[Case]:
    """Cases of a TSV file with a column `mask`, and where wanted `image`, `reference` and `note`.

    Relative paths are as seen from the working folder; an empty field stands for none. Raises InputError.
    """
    columns, rows = table.parse_table(read_text(path, "a table"))
    if not rows or "mask" not in columns:
        raise InputError(f"{path}: needs a header with the column mask, and at least one row")

    def named(row: dict[str, str], column: str) -> Path | None:
        return volume.merge_pairs([named_path(row[column])])[0] if row.get(column) else None

    cases = []
    for number, fields in rows.items():
        row = dict(zip(columns, fields, strict=False))
        mask = named(row, "mask")
        if mask is None:
            raise InputError(f"{path}: no mask in line {number}")
        cases.append(Case(mask, named(row, "image"), named(row, "reference"), note=row.get("note", "")))
    return cases


def write_table(path: Path, assessments: list[Assessment]) -> None:
    """TSV with the columns of COLUMNS, or JSON (an object for one mask, a list for several), by suffix."""
    if path.suffix != ".json":
        _write_rows(path, [assessment.row() for assessment in assessments])
        return
    records = [assessment.record() for assessment in assessments]
    with atomic_write(path) as (partial,):
        partial.write_text(to_json(records[0] if len(records) == 1 else records), encoding="utf-8")


def read_growing_table(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a table that `update_table` wrote, by mask; empty where there is none.

    Raises OutputError if rows could not be added to it: before masks are made, so that none is lost.
    """
    check_table(path)
    if not path.exists():
        return {}
    try:
        columns, rows = table.parse_table(read_text(path, "a table"))
    except InputError as error:
        raise OutputError(f"{error}; it is to be added to: mend or remove it") from error
    by_mask = {}
    for number, fields in rows.items():
        fault = _row_fault(columns, fields)
        if fault:
            raise OutputError(f"{path}: line {number} {fault}; rows are to be added: mend or remove the table")
        row = dict(zip(columns, fields, strict=True))
        by_mask[row["mask"]] = row
    return by_mask


def _row_fault(columns: list[str], fields: list[str]) -> str:
    """What is wrong in a row of a whole table, or ""."""
    if len(fields) != len(columns):
        return f"has {len(fields)} fields, the header {len(columns)}"
    row = dict(zip(columns, fields, strict=True))
    missing = [column for column in ("mask", "flag", "estimated_dice") if column not in row]
    if missing:
        return f"has no column {missing[0]}"
    if not row["mask"]:
        return "names no mask"
    if row["flag"] not in FLAGS:
        return f"has the flag {row['flag']!r}, which is none of {', '.join(FLAGS)}"
    for column in NUMBERS:
        if row.get(column) and not _is_number(row[column]):
            return f"has {row[column]!r} as {column}, not a number"
    if row["estimated_dice"] and not 0 <= float(row["estimated_dice"]) <= 1:
        return f"has {row['estimated_dice']!r} as estimated_dice, not from 0 to 1"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def update_table(path: Path, assessments: list[Assessment]) -> None:
    """Write assessments to a TSV table, worst first, among the rows of other masks that it has already."""
    rows = read_growing_table(path)
    rows |= {row["mask"]: row for row in (assessment.row() for assessment in assessments)}

    def rank(row: dict[str, str]) -> tuple[float, str]:
        return float(row["estimated_dice"] or -1), row["mask"]

    _write_rows(path, sorted(rows.values(), key=rank))


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """The columns of COLUMNS, and behind them those that someone added to a row."""
    columns = list(dict.fromkeys([*COLUMNS, *(column for row in rows for column in row)]))
    table.write_table(path, columns, rows)


def check_table(path: Path) -> None:
    """Raise OutputError if a table cannot be written at this path."""
    if path.suffix not in (".tsv", ".json"):
        raise OutputError(f"{path}: name the table with .tsv or .json")
    check_writable(path)
