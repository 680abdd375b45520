"""Parts of a list of images, for several processes that know nothing of each other."""

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
    """One part of several: its number, from 1 to `count`. Raises ValueError for another number."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"{self.number} is not from 1 to {self.count}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def deal(self, items: Sequence[Item]) -> list[Item]:
        """The items of this part: every `count`-th, from the part's own number on.

        The parts of a list are disjoint, make up the list, and differ in length by one at most.
        """
        return list(items[self.number - 1 :: self.count])


def table_name(part: Shard | None) -> str:
    """The name of the table of quality that one process writes."""
    return "qc.tsv" if part is None else f"qc-{part.number}-of-{part.count}.tsv"


def parse_shard(text: str) -> Shard:
    """The part that "K/N" names. Raises ValueError."""
    number, _, count = text.partition("/")
    return Shard(int(number), int(count))


def slurm_shard(environment: Mapping[str, str] = os.environ) -> Shard:
    """The part that a task of a SLURM job array has, by its place in the range of the array.

    Raises InputError outside of an array, and in one with gaps, whose tasks would leave out images.
    """
    missing = [name for name in SLURM_VARIABLES if not environment.get(name, "").isdecimal()]
    if missing:
        raise InputError(
            f"{', '.join(missing)} not set: this is no task of a job array that sbatch --array started; name "
            "the part and the number of parts, such as 2/8"
        )
    task, low, high, step, count = (int(environment[name]) for name in SLURM_VARIABLES)
    if step < 1 or low + step * (count - 1) != high or (task - low) % step:
        raise InputError(
            f"the job array has gaps ({count} tasks from {low} to {high} in steps of {step}): "
            "submit a whole range with sbatch, such as --array=1-8; what has been made can be passed over"
        )
    return Shard((task - low) // step + 1, count)
