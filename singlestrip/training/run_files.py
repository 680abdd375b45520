"""The files of a training run, known and checked before it begins. Imports no torch."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import EarlierRunError, InputError
from ..io.output import atomic_write, check_writable
from ..io.text.textfile import file_bytes

QUALITY_PART = "quality"  # names the run that makes the quality network for the model file of a cascade


@dataclass(frozen=True)
class RunFiles:
    """The model of a run, and the files beside it that are named after it.

    part: names the part of the model that the run makes, if another run makes the rest.
    """

    model: Path
    part: str = ""

    @property
    def _stem(self) -> str:
        name = self.model.name.removesuffix(".safetensors")
        return f"{name}.{self.part}" if self.part else name

    @property
    def checkpoint(self) -> Path:
        """The state of a run that is not finished."""
        return self.model.with_name(f"{self._stem}.checkpoint")

    @property
    def metrics(self) -> Path:
        """The table of losses and validations."""
        return self.model.with_name(f"{self._stem}.metrics.csv")

    @property
    def curve(self) -> Path:
        """The picture of that table."""
        return self.model.with_name(f"{self._stem}.curve.png")

    @property
    def labelled(self) -> Path:
        """The picture of the labelled scans as the finished model strips them; not every run has one."""
        return self.model.with_name(f"{self._stem}.labelled.png")

    @property
    def beside(self) -> tuple[Path, ...]:
        """Every file that all runs have but the model."""
        return self.checkpoint, self.metrics, self.curve

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file that all runs have."""
        return self.model, *self.beside

    def check(self, resume: bool) -> None:
        """Raise OutputError if a file cannot be written, EarlierRunError if there is a run that is not resumed."""
        for path in self.all:
            check_writable(path)
        if self.checkpoint.exists() and not resume:
            raise EarlierRunError(f"{self.checkpoint}: holds an earlier run; remove the file, or resume the run")


class Metrics:
    """metrics.csv: a row for each report. A resumed run drops the rows after its checkpoint."""

    MAY_BE_EMPTY = ("validation_dice",)

    def __init__(self, path: Path, losses: Sequence[str], validates: bool, step: int) -> None:
        """losses: their names; validates: whether there can be validation; step: at which the run is.

        Raises InputError if a file of a resumed run is damaged.
        """
        self.path = path
        dice = ("validation_dice",) if validates else ()
        self.columns = ("step", *(f"{name}_loss" for name in losses), "rate", *dice, "seconds")
        kept = [row for row in self.rows() if int(row["step"]) <= step] if step and path.exists() else []
        with atomic_write(path) as (partial,), partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(kept)

    def rows(self) -> list[dict[str, str]]:
        """All rows but a last one that a kill cut short. Raises InputError if the file is damaged."""
        try:
            text = file_bytes(self.path).decode()
            whole_lines = text.rpartition("\n")[0].splitlines()
            rows = list(csv.DictReader(whole_lines, strict=True))
            for row in rows:
                self._check(row)
        except (ValueError, csv.Error) as error:
            raise InputError(f"{self.path}: damaged; remove it to go on without its rows") from error
        return rows

    def _check(self, row: dict[str, str]) -> None:
        """Raise ValueError unless a row has the columns and finite numbers."""
        if tuple(row) != self.columns or None in row.values():
            raise ValueError("other columns")
        int(row["step"])
        numbers = [float(row[name]) for name in self.columns if row[name] or name not in self.MAY_BE_EMPTY]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a number that is not finite")

    def add(
        self, step: int, losses: Mapping[str, float], rate: float, validation_dice: float | None, seconds: float
    ) -> None:
        """Write the row of a report. losses: means by name; seconds: of all updates of the run."""
        values = {"step": str(step), "rate": f"{rate:.3g}", "seconds": f"{seconds:.1f}"}
        values |= {f"{name}_loss": f"{mean:.5f}" for name, mean in losses.items()}
        if "validation_dice" in self.columns:
            values["validation_dice"] = "" if validation_dice is None else f"{validation_dice:.5f}"
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(values)
