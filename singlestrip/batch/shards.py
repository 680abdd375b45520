"""A list of images dealt to several processes that know nothing of each other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..errors import InputError

Item = TypeVar("Item")

SLURM_VARIABLES = tuple(f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "STEP", "COUNT"))


@dataclass(frozen=True)
class Shard:
    """One part of several: number from 1 to count. Raises ValueError for any other."""

    number: int
    count: int

    def __post_init__(self):
        if not 1 <= self.number <= self.count:
            raise ValueError(f"{self.number} is not from 1 to {self.count}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def deal(self, items: Sequence[Item]) -> list[Item]:
        """Every count-th item, beginning with this part's own number.

        The parts of one list are disjoint, hold all of it, and differ in length by one at most.
        """
        return list(items[self.number - 1 :: self.count])


def table_name(part: Shard | None) -> str:
    """Of the table of quality that one process writes."""
    return "qc.tsv" if part is None else f"qc-{part.number}-of-{part.count}.tsv"


def parse_shard(text: str) -> Shard:
    """The part that "K/N" names. Raises ValueError."""
    number, _, count = text.partition("/")
    return Shard(int(number), int(count))


def slurm_shard(environment: Mapping[str, str] = os.environ) -> Shard:
    """The part of this task of a SLURM job array: its place in the array's range.

    Raises InputError outside of an array, and for an array with gaps, whose tasks would leave out images.
    """
    missing = [name for name in SLURM_VARIABLES if not environment.get(name, "").isdecimal()]
    if missing:
        raise InputError(
            f"{', '.join(missing)} not set: --shard slurm is for tasks of sbatch --array; elsewhere give K/N"
        )
    task, low, high, step, count = (int(environment[name]) for name in SLURM_VARIABLES)
    if step < 1 or low + step * (count - 1) != high or (task - low) % step:
        raise InputError(
            f"the job array has gaps ({count} tasks from {low} to {high} in steps of {step}): "
            "submit a whole range, such as --array=1-8; --resume passes over what is there"
        )
    return Shard((task - low) // step + 1, count)
