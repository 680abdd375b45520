"""Tables of classes: which labels of a map there are, and what a segmenter is to tell apart.

A table of classes is a FreeSurfer colour table or a BIDS dseg.tsv. BIDS gives its columns index, name and color
(#rrggbb). These columns, which BIDS does not know, may stand beside them:

    target  the label that stands for this one in segmentations; 0 for the background, empty for itself
    side    left, right, or n/a; without the column, names tell: Left-Thalamus, ctx-rh-insula, thalamus_L
    brain   1 if the class belongs to the brain
    fluid   1 if it is fluid around the brain, which a tight brain mask leaves out
    largest 1 if only the largest component of the class is kept

Images are drawn from all labels; networks learn their targets. Of brain, fluid and largest, those of the target
count.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...configuration import MAX_CLASSES, TargetClass
from ...errors import InputError
from .label_table import LabelRow, read_label_rows
from .typed import shortened

Side = Literal["left", "right", "none"]
BACKGROUND = 0
LARGEST_NUMBER = 2**31 - 1
EMPTY = ("", "n/a")  # the second is BIDS's
SIDES: dict[str, Side] = {"left": "left", "lh": "left", "l": "left", "right": "right", "rh": "right", "r": "right"}
OTHER_SIDE: dict[Side, Side] = {"left": "right", "right": "left"}
YES_OR_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
COLOUR = re.compile("#?([0-9a-fA-F]{6})(?:[0-9a-fA-F]{2})?")


@dataclass(frozen=True)
class Label:
    """A label of a map. target: the label that stands for it in segmentations, 0 for the background."""

    number: int
    name: str
    target: int
    side: Side = "none"
    brain: bool = False
    fluid: bool = False
    largest: bool = False
    colour: tuple[int, int, int] | None = None

    @property
    def structure(self) -> str:
        """Its name without the words for its side, in lower case."""
        return " ".join(word for word in _words(self.name) if word not in SIDES)


@dataclass(frozen=True)
class ClassTable:
    """The labels of maps, by their number.

    knows_sides: whether it is known which labels lie left or right, if only that none do. complete: whether a
    class that no map has is an error; a program's colour table lists all labels that there are.
    """

    labels: Mapping[int, Label]
    knows_sides: bool
    complete: bool

    def targets_of(self, present: Collection[int]) -> dict[int, int]:
        """The target of each label that maps have. Raises InputError for a label that the table lacks."""
        unknown = sorted(set(present) - self.labels.keys() - {BACKGROUND})
        if unknown:
            raise InputError(f"has the label {unknown[0]}, which the table of classes does not list")
        return {number: self.labels[number].target if number else BACKGROUND for number in present}

    def classes(self, present: Collection[int], brain: Collection[int] | None = None) -> tuple[TargetClass, ...]:
        """The classes to tell apart, ordered by number: the targets of the labels that maps have.

        brain: the labels that are brain; None if the table tells. Raises InputError for a label that the table
        lacks, for a class that no map has, and for a class of one side without one of the other.
        """
        targets = sorted(set(self.targets_of(present).values()) - {BACKGROUND})
        wanted = {label.target for label in self.labels.values()} - {BACKGROUND}
        if self.complete and (missing := sorted(wanted - set(targets))):
            raise InputError(f"has no voxel of class {self._named(missing[0])}: leave it out of the table")
        if not targets:
            raise InputError("has no voxel of any class: all of its labels belong to the background")
        if len(targets) > MAX_CLASSES:
            raise InputError(f"has {len(targets)} classes; at most {MAX_CLASSES} can be told apart")
        chosen = [self.labels[number] for number in targets]
        partners = self._partners(chosen)
        return tuple(
            TargetClass(
                number=label.number,
                name=label.name,
                side=label.side,
                partner=partners.get(label.number),
                brain=label.brain if brain is None else label.number in brain,
                fluid=label.fluid,
                largest=label.largest,
                colour=label.colour,
            )
            for label in chosen
        )

    def pairs(self) -> list[tuple[int, int]] | None:
        """Left and right labels of one structure; None if the table knows none."""
        if not self.knows_sides:
            return None
        right = {label.structure: label.number for label in self.labels.values() if label.side == "right"}
        left = [label for label in self.labels.values() if label.side == "left"]
        return [(label.number, right[label.structure]) for label in left if label.structure in right] or None

    def _partners(self, chosen: Sequence[Label]) -> dict[int, int]:
        """For each class of one side, the number of the same structure on the other side."""
        by_place: dict[tuple[str, Side], int] = {(label.structure, label.side): label.number for label in chosen}
        partners = {}
        for label in chosen:
            if label.side == "none":
                continue
            partner = by_place.get((label.structure, OTHER_SIDE[label.side]))
            if partner is None or by_place[label.structure, label.side] != label.number:
                raise InputError(
                    f"class {self._named(label.number)} lies on the {label.side} and has no partner on the "
                    f"{OTHER_SIDE[label.side]}: give both the same name but for the side, or no side"
                )
            partners[label.number] = partner
        return partners

    def _named(self, number: int) -> str:
        """A label with its name, for a message."""
        return f"{number} ({shortened(self.labels[number].name)})"


def read_class_table(path: Path) -> ClassTable:
    """A table of classes. Raises InputError, with the number of a wrong line."""
    rows = read_label_rows(path)
    labels: dict[int, Label] = {}
    for row in rows:
        try:
            if row.number in labels:
                raise ValueError(f"label {row.number} is there twice")
            labels[row.number] = _parse_label(row)
        except ValueError as error:
            raise InputError(f"{path}: line {row.line}: {error}") from error
    for row in rows:
        fault = _target_fault(labels[row.number], labels)
        if fault:
            raise InputError(f"{path}: line {row.line}: {fault}")
    columns = {column for row in rows for column in row.cells}
    knows_sides = "side" in columns or any(label.side != "none" for label in labels.values())
    return ClassTable(labels, knows_sides, complete="target" in columns)


def plain_class_table(present: Collection[int]) -> ClassTable:
    """A table in which each label of a map but 0 is a class of its own, named by its number."""
    labels = {number: Label(number, str(number), number) for number in present if number != BACKGROUND}
    return ClassTable(labels, knows_sides=False, complete=True)


def _parse_label(row: LabelRow) -> Label:
    """The label of a line. Raises ValueError for a cell that has no meaning."""
    if not 0 <= row.number <= LARGEST_NUMBER:
        raise ValueError(f"label {row.number} is not between 0 and {LARGEST_NUMBER}")
    cells = {column: cell.strip() for column, cell in row.cells.items() if cell.strip().lower() not in EMPTY}
    return Label(
        number=row.number,
        name=row.name,
        target=_parse_target(cells.get("target"), row.number),
        side=_parse_side(cells["side"])
        if "side" in cells
        else "none"
        if "side" in row.cells
        else side_of(row.name),
        brain=_parse_yes_or_no("brain", cells),
        fluid=_parse_yes_or_no("fluid", cells),
        largest=_parse_yes_or_no("largest", cells),
        colour=_parse_colour(cells.get("color")),
    )


def _parse_target(cell: str | None, number: int) -> int:
    """The target of a label; itself if the cell is empty."""
    if cell is None:
        return number
    if not re.fullmatch("[0-9]{1,10}", cell, re.ASCII):
        raise ValueError(f"the target {shortened(cell)} is no label number")
    return int(cell)


def _parse_side(cell: str | None) -> Side:
    """The side that a cell tells; none if it is empty."""
    if cell is None:
        return "none"
    if cell.lower() not in SIDES:
        raise ValueError(f"the side {shortened(cell)} is neither left nor right; leave it empty for none")
    return SIDES[cell.lower()]


def side_of(name: str) -> Side:
    """The side of a structure by its name, such as Left-Thalamus, ctx-rh-insula or thalamus_L."""
    sides = {SIDES[word] for word in _words(name) if word in SIDES}
    return sides.pop() if len(sides) == 1 else "none"


def _words(name: str) -> list[str]:
    """The words of a name in lower case."""
    return [word for word in re.split(r"[-_.,() ]+", name.lower()) if word]


def _parse_yes_or_no(column: str, cells: Mapping[str, str]) -> bool:
    """Whether a cell says yes; an empty one says no."""
    cell = cells.get(column, "no")
    if cell.lower() not in YES_OR_NO:
        raise ValueError(f"{column} is 1 or 0, not {shortened(cell)}")
    return YES_OR_NO[cell.lower()]


def _parse_colour(cell: str | None) -> tuple[int, int, int] | None:
    """Red, green and blue; None for a cell that is no hexadecimal colour, such as a colour's name."""
    digits = COLOUR.fullmatch(cell or "")
    if digits is None:
        return None
    red, green, blue = bytes.fromhex(digits[1])
    return red, green, blue


def _target_fault(label: Label, labels: Mapping[int, Label]) -> str | None:
    """What is wrong with the target of a label, as a clause; None if it is right."""
    if label.target == BACKGROUND:
        return None
    if label.number == BACKGROUND:
        return f"label {BACKGROUND} is the background and has no other target"
    target = labels.get(label.target)
    if target is None:
        return f"the target {label.target} of label {label.number} is no label of the table"
    if target.target != target.number:
        return f"the target {target.number} of label {label.number} has another target itself"
    if target.side not in ("none", label.side):
        return f"label {label.number} does not lie on the {target.side} as its target {target.number} does"
    return None
