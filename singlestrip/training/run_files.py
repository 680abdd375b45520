"""What a training run writes, known and checked before it begins. Imports no torch."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, OutputError
from ..io.output import atomic_write, check_writable
from ..io.textfile import file_bytes


@dataclass(frozen=True)
class RunFiles:
    """What a run writes, all beside the model and named after it."""

    model: Path

    @property
    def _stem(self) -> str:
        return self.model.name.removesuffix(".safetensors")

    @property
    def checkpoint(self) -> Path:
        return self.model.with_name(f"{self._stem}.checkpoint")

    @property
    def metrics(self) -> Path:
        return self.model.with_name(f"{self._stem}.metrics.csv")

    @property
    def curve(self) -> Path:
        return self.model.with_name(f"{self._stem}.curve.png")

    @property
    def all(self) -> tuple[Path, ...]:
        return self.model, self.checkpoint, self.metrics, self.curve

    def check(self, resume: bool) -> None:
        """Raise OutputError if one of them cannot be written, or an earlier run is there that is not resumed."""
        for path in self.all:
            check_writable(path)
        if self.checkpoint.exists() and not resume:
            raise OutputError(f"{self.checkpoint}: holds an earlier run; continue with --resume, or remove it")


class Metrics:
    """metrics.csv: a row per report; a resumed run drops the rows after its checkpoint."""

    COLUMNS = ("step", "segmenter_loss", "locator_loss", "rate", "validation_dice", "seconds")
    MAY_BE_EMPTY = ("validation_dice",)

    def __init__(self, path: Path, step: int):
        self.path = path
        kept = [row for row in self.rows() if int(row["step"]) <= step] if step and path.exists() else []
        with atomic_write(path) as (partial,), partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.COLUMNS)
            writer.writeheader()
            writer.writerows(kept)

    def rows(self) -> list[dict[str, str]]:
        """All but a last one that a kill cut short. Raises InputError where the file is damaged."""
        try:
            text = file_bytes(self.path).decode()
            whole_lines = text.rpartition("\n")[0].splitlines()
            rows = list(csv.DictReader(whole_lines, strict=True))
            for row in rows:
                if tuple(row) != self.COLUMNS or None in row.values():
                    raise ValueError("other columns")
                int(row["step"])
                numbers = [float(row[name]) for name in self.COLUMNS if row[name] or name not in self.MAY_BE_EMPTY]
                if not all(map(math.isfinite, numbers)):
                    raise ValueError("a number that is not finite")
        except (ValueError, csv.Error) as error:
            raise InputError(f"{self.path}: damaged; remove it to go on without its rows") from error
        return rows

    def add(self, **values) -> None:
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.COLUMNS).writerow(values)
