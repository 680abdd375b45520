"""Tables of structures, a row for each image or frame: their volumes, and how far the networks' views agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from ..configuration import TargetClass
from ..errors import OutputError
from ..io.output import check_writable
from ..io.text.table import write_table
from .pipeline import Outcome
from .segment import StructureMeasures

FIRST_COLUMNS = ("image", "frame", "note")
INTRACRANIAL, MEAN, LOWEST = "total_intracranial", "mean", "lowest"
Outcomes = Sequence[Outcome[list[StructureMeasures]]]
UNKNOWN = "outputs of another program, or changed since: kept, not measured"


def check_table(path: Path) -> None:
    """Raise OutputError if a table cannot be written at this path."""
    if path.suffix != ".tsv":
        raise OutputError(f"{path}: name the table with .tsv")
    check_writable(path)


def write_volumes(path: Path, outcomes: Outcomes, structures: Sequence[TargetClass]) -> None:
    """Write the soft volumes in mm³ of structures, and of the brain with the fluid around it."""

    def cells(measures: StructureMeasures) -> dict[str, float | None]:
        return {INTRACRANIAL: measures.intracranial_mm3}

    _write(path, outcomes, structures, "volumes_mm3", ".3f", (INTRACRANIAL,), cells)


def write_agreement(path: Path, outcomes: Outcomes, structures: Sequence[TargetClass]) -> None:
    """Write the Dice with which views agree on structures, and the mean and the lowest of these."""

    def cells(measures: StructureMeasures) -> dict[str, float | None]:
        values = list(measures.agreement.values())
        return {MEAN: fmean(values) if values else None, LOWEST: min(values, default=None)}

    _write(path, outcomes, structures, "agreement", ".4f", (MEAN, LOWEST), cells)


def _write(
    path: Path,
    outcomes: Outcomes,
    structures: Sequence[TargetClass],
    measure: str,
    style: str,
    summary: Sequence[str],
    summary_of: Callable[[StructureMeasures], Mapping[str, float | None]],
) -> None:
    """Write a table of one measure of structures. summary_of: the cells of the columns `summary`."""
    columns = structure_columns(structures, (*FIRST_COLUMNS, *summary))
    rows = []
    for outcome in outcomes:
        row = {"image": str(outcome.job.image)}
        if outcome.failed or not outcome.measured:
            rows.append(row | {"note": outcome.text if outcome.failed else UNKNOWN})
            continue
        for frame, measures in enumerate(outcome.measured):
            values: dict[str, float | None] = {**summary_of(measures)}
            values |= {columns[number]: value for number, value in getattr(measures, measure).items()}
            texts = {name: format(value, style) for name, value in values.items() if value is not None}
            rows.append(row | ({"frame": str(frame)} if len(outcome.measured) > 1 else {}) | texts)
    write_table(path, [*FIRST_COLUMNS, *summary, *columns.values()], rows)


def structure_columns(structures: Sequence[TargetClass], taken: Sequence[str]) -> dict[int, str]:
    """The name of each structure's column by its number: its own name, with the number if that is taken."""
    names = [*taken, *(each.name for each in structures)]
    return {
        each.number: each.name if names.count(each.name) == 1 else f"{each.name} {each.number}"
        for each in structures
    }
