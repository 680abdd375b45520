"""Parts of a list of images, for several processes that do not communicate."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..errors import InputError

Item = TypeVar("Item")

SLURM_VARIABLES = tuple(f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "STEP", "COUNT"))


@dataclass(frozen=True)
class Shard:
    """One of `count` parts. number: from 1 to `count`; another raises ValueError."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"{self.number} is not from 1 to {self.count}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def deal(self, items: Sequence[Item]) -> list[Item]:
        """The items of this part: every `count`-th item, starting with item `number`.

        The parts of a list are disjoint, together have all items, and differ in length by one at most.
        """
        return list(items[self.number - 1 :: self.count])


def table_name(part: Shard | None) -> str:
    """The name of the table of quality that the process of a part writes; None for a single process."""
    return "qc.tsv" if part is None else f"qc-{part.number}-of-{part.count}.tsv"


def shard_table(path: Path, part: Shard) -> Path:
    """The path of the table of one of several processes, such as volumes-2-of-8.tsv."""
    return path.with_name(f"{path.stem}-{part.number}-of-{part.count}{path.suffix}")


def parse_shard(text: str) -> Shard:
    """The part that "K/N" names. Raises ValueError."""
    number, _, count = text.partition("/")
    return Shard(int(number), int(count))


def slurm_shard(environment: Mapping[str, str] = os.environ) -> Shard:
    """The part of this task of a SLURM job array, by its place in the array's range.

    Raises InputError outside an array, and if the array has gaps, because its tasks would leave out images.
    """
    missing = [name for name in SLURM_VARIABLES if not environment.get(name, "").isdecimal()]
    if missing:
        raise InputError(
            f"{', '.join(missing)} not set: this is no task of a job array that sbatch --array started; give "
            "the part and the number of parts, such as 2/8"
        )
    task, low, high, step, count = (int(environment[name]) for name in SLURM_VARIABLES)
    if step < 1 or low + step * (count - 1) != high or (task - low) % step:
        raise InputError(
            f"the job array has gaps ({count} tasks from {low} to {high} in steps of {step}): "
            "submit a whole range with sbatch, such as --array=1-8; finished images can be kept"
        )
    return Shard((task - low) // step + 1, count)
