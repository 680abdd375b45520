"""Assessments: a mask with its image and reference, and the numbers for its quality. Imports no torch."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io.images import volume

if TYPE_CHECKING:
    from ..quality.scores import MaskQuality


@dataclass(frozen=True)
class Measure:
    """A number for the quality of a mask: a column of the table and, if it has a title, of the page.

    attribute: the attribute of `MaskQuality` that holds the number; "" if it comes from elsewhere. style: how the
    page formats it.
    """

    column: str
    attribute: str = ""
    title: str = ""
    style: str = ""


# tta_dice: mean Dice of augmented masks and their median. tta_mask_dice: Dice of the mask and that median. dice,
# hd95_mm: of the mask and the reference. frame: of several, the one with the lowest estimated Dice, counted from
# 0; all numbers are of this frame. A new measure is a line here, a field of `MaskQuality`, and a word in COLUMNS
# and in the documents that list the columns.
MEASURES = (
    Measure("estimated_dice", "estimated_dice"),
    Measure("estimated_hd95_mm", "hd95_mm", "estimated HD95 mm", ".1f"),
    Measure("lowest_slice_dice", "lowest_slice_dice", "lowest slice", ".2f"),
    Measure("volume_ml", "volume_ml", "volume ml", ".0f"),
    Measure("components", "components", "parts", "d"),
    Measure("holes", "holes", "holes", "d"),
    Measure("border", "touches_edge", "at border", "d"),
    Measure("tta_dice", "", "TTA Dice", ".3f"),
    Measure("tta_mask_dice"),
    Measure("dice", "", "true Dice", ".3f"),
    Measure("hd95_mm", "", "true HD95 mm", ".1f"),
    Measure("frame", "frame", "frame", "d"),
    Measure("estimate_low", "low"),
    Measure("estimate_high", "high"),
    Measure("shape_dice", "shape_dice", "Dice with rebuilt mask", ".3f"),
    Measure("view_dice", "view_dice", "agreement of views", ".3f"),
)
NUMBERS = tuple(each.column for each in MEASURES)
# New columns come last, as docs/stable/tables.md promises. The column note says why a mask has no estimated Dice.
COLUMNS = (
    *("flag", "estimated_dice", "estimated_hd95_mm", "lowest_slice_dice", "volume_ml", "components", "holes"),
    *("border", "tta_dice", "tta_mask_dice", "dice", "hd95_mm", "mask", "image", "reference", "note", "frame"),
    *("estimate_low", "estimate_high", "evidence", "shape_dice", "view_dice", "reasons"),
)
BETWEEN_REASONS = "; "  # in a cell of the table


@dataclass(frozen=True)
class Case:
    """A mask file to assess, with its image and its reference if there are any. note: why there is no mask."""

    mask: Path
    image: Path | None = None
    reference: Path | None = None
    name: str = ""
    note: str = ""


@dataclass(frozen=True)
class Assessment:
    """A row of the table.

    values: numbers by column, without those that are unknown. slice_dice, evidence, reasons: see `MaskQuality`.
    note: why the mask has no numbers. slice_doubt: of every axial slice of the image, by its number; see
    `quality.doubt`.
    """

    case: Case
    flag: str
    values: dict[str, float]
    slice_dice: tuple[float, ...] = ()
    note: str = ""
    evidence: str = ""
    reasons: tuple[str, ...] = ()
    slice_doubt: tuple[float, ...] = ()

    @staticmethod
    def of(
        case: Case,
        quality: MaskQuality,
        further: Mapping[str, float] | None = None,
        slice_doubt: tuple[float, ...] = (),
    ) -> Assessment:
        """The row of a mask by its quality. further: numbers from elsewhere, by column."""
        return Assessment(
            case,
            quality.flag,
            quality_values(quality) | dict(further or {}),
            quality.slice_dice,
            evidence=quality.evidence,
            reasons=quality.reasons,
            slice_doubt=slice_doubt,
        )

    @property
    def estimated_dice(self) -> float:
        """Estimated Dice; -1 if the mask could not be scored, so that it sorts before all others."""
        return self.values.get("estimated_dice", -1.0)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the estimated Dice; None if there is none, or if it says nothing."""
        low, high = self.values.get("estimate_low", 0.0), self.values.get("estimate_high", 1.0)
        return None if (low, high) == (0.0, 1.0) else (low, high)

    def row(self) -> dict[str, str]:
        """The text of every column of the table."""
        paths = {name: getattr(self.case, name) for name in ("mask", "image", "reference")}
        texts = {"flag": self.flag, "note": self.note, "evidence": self.evidence}
        texts |= {"reasons": BETWEEN_REASONS.join(self.reasons)}
        texts |= {name: str(path) for name, path in paths.items() if path is not None}
        return {name: texts.get(name, _text(self.values.get(name))) for name in COLUMNS}

    def record(self) -> dict[str, Any]:
        """The row for JSON, with Dice and doubt of the slices. Numbers that are not finite are None."""
        numbers = {name: (value if math.isfinite(value) else None) for name, value in self.values.items()}
        texts = {name: text for name, text in self.row().items() if text and name not in self.values}
        lists = {"reasons": list(self.reasons)}
        slices = {"slice_dice": self.slice_dice, "slice_doubt": self.slice_doubt}
        return texts | numbers | lists | {name: [round(v, 4) for v in values] for name, values in slices.items()}


def _text(value: float | None) -> str:
    """A number as the text of a cell."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def quality_values(quality: MaskQuality) -> dict[str, float]:
    """The numbers of a mask's quality, by column of the table."""
    values = {each.column: getattr(quality, each.attribute) for each in MEASURES if each.attribute}
    return {
        column: int(value) if isinstance(value, bool) else value
        for column, value in values.items()
        if value is not None
    }


def worst_first(assessments: Iterable[Assessment]) -> list[Assessment]:
    """The assessments sorted by estimated Dice; those without one come first."""
    return sorted(assessments, key=lambda assessment: (assessment.estimated_dice, assessment.case.name))


def name_files(paths: list[Path], ending: str = "") -> list[str]:
    """Distinct names of image files: without suffix, and without `ending` if the names stay distinct.

    Raises InputError if a file is named twice.
    """
    names = [str(name) for name in volume.distinct_names(paths)]
    short = [name.removesuffix(ending) or name for name in names]
    if len(set(short)) == len(short):
        return short
    if len(set(names)) < len(names):
        return [str(Path(name).with_name(path.name)) for name, path in zip(names, paths, strict=True)]
    return names


def name_cases(cases: list[Case]) -> list[Case]:
    """The cases with distinct names: the name of the mask's file, without `_mask` and suffix if that is distinct.

    If several cases have the same mask, for example with other references, all but the first get a number.
    """
    paths = {os.path.abspath(case.mask): case.mask for case in cases}  # noqa: PTH100 - links stay as named
    first_names = dict(zip(paths, name_files(list(paths.values()), ending="_mask"), strict=True))
    taken: set[str] = set()
    named = []
    for case in cases:
        name = first_names[os.path.abspath(case.mask)]  # noqa: PTH100 - links stay as named
        if name in taken:
            numbered = (f"{name}-{number}" for number in itertools.count(2))
            name = next(other for other in numbered if other not in taken and other not in first_names.values())
        taken.add(name)
        named.append(replace(case, name=name))
    return named
