"""Tables of masks to assess, and tables of their quality. Imports no torch."""

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
    """The cases in a TSV file with a column `mask` and optional columns `image`, `reference` and `note`.

    Relative paths start from the working folder; an empty cell stands for no file. Raises InputError.
    """
    columns, rows = table.parse_table(read_text(path, "a table"))
    if not rows or "mask" not in columns:
        raise InputError(f"{path}: needs a header with the column mask, and at least one row")

    def path_in(row: dict[str, str], column: str) -> Path | None:
        return volume.merge_pairs([named_path(row[column])])[0] if row.get(column) else None

    cases = []
    for number, fields in rows.items():
        row = dict(zip(columns, fields, strict=False))
        mask = path_in(row, "mask")
        if mask is None:
            raise InputError(f"{path}: no mask in line {number}")
        cases.append(Case(mask, path_in(row, "image"), path_in(row, "reference"), note=row.get("note", "")))
    return cases


def write_table(path: Path, assessments: list[Assessment]) -> None:
    """Write a TSV with the columns of COLUMNS, or JSON: an object for one mask, a list for several."""
    if path.suffix != ".json":
        _write_rows(path, [assessment.row() for assessment in assessments])
        return
    records = [assessment.record() for assessment in assessments]
    with atomic_write(path) as (partial,):
        partial.write_text(to_json(records[0] if len(records) == 1 else records), encoding="utf-8")


def read_growing_table(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a table that `update_table` wrote, by mask; none if there is no table.

    Raises OutputError if rows cannot be added to it; called before masks are made, so that no work is lost.
    """
    check_table(path)
    if not path.exists():
        return {}
    try:
        columns, rows = table.parse_table(read_text(path, "a table"))
    except InputError as error:
        raise OutputError(f"{error}; rows will be added: repair or remove the table") from error
    by_mask = {}
    for number, fields in rows.items():
        fault = _row_fault(columns, fields)
        if fault:
            raise OutputError(f"{path}: line {number} {fault}; rows will be added: repair or remove the table")
        row = dict(zip(columns, fields, strict=True))
        by_mask[row["mask"]] = row
    return by_mask


def _row_fault(columns: list[str], fields: list[str]) -> str:
    """What is wrong with a row of a table, as a clause; "" if nothing is."""
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
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def update_table(path: Path, assessments: list[Assessment]) -> None:
    """Write assessments to a TSV table, which keeps its rows of other masks; all rows are sorted, worst first."""
    rows = read_growing_table(path)
    rows |= {row["mask"]: row for row in (assessment.row() for assessment in assessments)}

    def rank(row: dict[str, str]) -> tuple[float, str]:
        return float(row["estimated_dice"] or -1), row["mask"]

    _write_rows(path, sorted(rows.values(), key=rank))


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Write a table with the columns of COLUMNS, and after them further columns that the rows have."""
    columns = list(dict.fromkeys([*COLUMNS, *(column for row in rows for column in row)]))
    table.write_table(path, columns, rows)


def check_table(path: Path) -> None:
    """Raise OutputError if a table cannot be written at this path."""
    if path.suffix not in (".tsv", ".json"):
        raise OutputError(f"{path}: name the table with .tsv or .json")
    check_writable(path)
