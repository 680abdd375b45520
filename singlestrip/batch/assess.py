"""Mask files in, a table of their quality out: one or thousands through one loaded model."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, OutputError, SingleStripError, describe_error
from ..io import figures, volume
from ..io.escaping import from_cell, to_cell, to_json
from ..io.masks import check_grid, read_masks, read_masks_on
from ..io.output import atomic_write, check_writable, make_folder, path_exists
from ..io.page import FLAGS, PageEntry, write_page
from ..io.textfile import named_path, read_text
from ..io.volume import Volume
from ..quality.scores import MaskQuality, QualityModel, agreement, augmented_masks
from ..space.metrics import dice, hausdorff95
from ..stripping.stripper import Stripper

# flag: pass, look or fail; estimated: of the mask and its reconstruction; tta_dice: mean Dice of augmented
# masks to their median, tta_mask_dice: of the mask to it; dice, hd95_mm: against the reference; note: why a
# mask has no score; frame: of several, from 0 on, the one with the lowest estimate, of which all numbers are.
COLUMNS = (
    *("flag", "estimated_dice", "estimated_hd95_mm", "lowest_slice_dice", "volume_ml", "components", "holes"),
    *("border", "tta_dice", "tta_mask_dice", "dice", "hd95_mm", "mask", "image", "reference", "note", "frame"),
)
NUMBERS = tuple(column for column in COLUMNS if column not in ("flag", "mask", "image", "reference", "note"))


@dataclass(frozen=True)
class Case:
    """A mask file to assess, its image and its reference where there are any; why the mask could not be made."""

    mask: Path
    image: Path | None = None
    reference: Path | None = None
    name: str = ""
    note: str = ""


@dataclass(frozen=True)
class Assessment:
    """A row of the table: numbers by column, NaN or absent where unknown; the slices' Dice."""

    case: Case
    flag: str
    values: dict[str, float]
    slice_dice: tuple[float, ...] = ()
    note: str = ""

    @property
    def estimate(self) -> float:
        """Estimated Dice; -1 where the mask could not be scored, to sort before all others."""
        return self.values.get("estimated_dice", -1.0)

    def row(self) -> dict[str, str]:
        """Text of every column of the table."""
        paths = {name: getattr(self.case, name) for name in ("mask", "image", "reference")}
        texts = {"flag": self.flag, "note": self.note}
        texts |= {name: str(path) for name, path in paths.items() if path is not None}
        return {name: texts.get(name, _text(self.values.get(name))) for name in COLUMNS}

    def record(self) -> dict[str, Any]:
        """The same for JSON, with the slices' Dice; null where a number is unknown or not finite."""
        numbers = {name: (value if math.isfinite(value) else None) for name, value in self.values.items()}
        texts = {name: text for name, text in self.row().items() if text and name not in self.values}
        return texts | numbers | {"slice_dice": [round(value, 4) for value in self.slice_dice]}


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def quality_values(quality: MaskQuality) -> dict[str, float]:
    """The numbers of a mask's quality by column of the table."""
    return {
        "estimated_dice": quality.estimate,
        "estimated_hd95_mm": quality.hd95_mm,
        "lowest_slice_dice": quality.lowest_slice_dice,
        "volume_ml": quality.volume_ml,
        "components": quality.components,
        "holes": quality.holes,
        "border": int(quality.border),
    } | ({} if quality.frame is None else {"frame": quality.frame})


@dataclass(frozen=True)
class Assessor:
    """What masks are assessed with. stripper: for test-time augmentation, None for none."""

    quality: QualityModel
    stripper: Stripper | None = None
    seed: int = 0
    report_folder: Path | None = None

    def assess(self, case: Case, warn: Callable[[str], None] = lambda text: None) -> Assessment:
        """Score one case and draw its picture. Raises SingleStripError, naming the file at fault.

        Of a mask of several frames all is of the frame with the lowest estimate; image and reference may have
        as many frames, or one. A mask that is not there is told by the case's own note, if it has one.
        """
        if case.note and not path_exists(case.mask):
            raise InputError(case.note)
        scan, masks = read_masks(case.mask, warn)
        image = None if case.image is None else _read_image_of(case.image, scan, warn)
        truths = None if case.reference is None else read_masks_on(case.reference, scan, warn)
        quality, rebuilt = self.quality.assess_worst(masks, scan.vox2world)
        values = quality_values(quality)
        frame = quality.frame or 0
        mask = masks[..., frame]
        if truths is not None:
            truth = truths[..., frame if truths.shape[3] > 1 else 0]
            values |= {"dice": dice(mask, truth), "hd95_mm": hausdorff95(mask, truth, scan.vox2world)}
        shown = frame if image is not None and image.frames > 1 else 0
        if self.stripper is not None:
            values |= self._augment(case, image, shown, mask)
        if self.report_folder is not None:
            grey = mask.astype(np.float32) if image is None else image.grey(shown)
            expected = rebuilt.on_grid(mask.shape, scan.vox2world)
            draw(self.report_folder, case, grey, mask, expected, scan.vox2world)
        return Assessment(case, quality.flag, values, quality.slice_dice)

    def _augment(self, case: Case, image: Volume | None, frame: int, mask: np.ndarray) -> dict[str, float]:
        if image is None:
            raise InputError(f"{case.mask}: test-time augmentation needs its image")
        masks = augmented_masks(
            self.stripper, image.frame(frame), image.vox2world, image.slope, image.intercept, seed=self.seed
        )
        score, median = agreement(masks)
        return {"tta_dice": score, "tta_mask_dice": dice(mask, median)}


def _read_image_of(path: Path, mask: Volume, warn: Callable[[str], None]) -> Volume:
    """The image of a mask. Raises InputError unless it is on the mask's grid, and of frames that go with it."""
    image = volume.read(path, warn)
    check_grid(image, mask, "name the image that the mask is of")
    if mask.frames not in (1, image.frames) and image.frames > 1:
        raise InputError(f"{path}: has {image.frames} frames; {mask.path} has {mask.frames}")
    return image


def draw(
    folder: Path, case: Case, image: np.ndarray, mask: np.ndarray, rebuilt: np.ndarray, vox2world: np.ndarray
) -> None:
    """The picture of a case for the page in `folder`; see `figures.quality_figure`."""
    path = folder / _picture(case)
    make_folder(path.parent)
    figures.quality_figure(image, mask, rebuilt, vox2world, path)


def _picture(case: Case) -> str:
    return f"pictures/{case.name}.png"


def assess_files(
    assessor: Assessor,
    cases: Iterable[Case],
    done: Callable[[int, Assessment], None] = lambda number, assessment: None,
    debug: bool = False,
    warn: Callable[[str], None] = lambda text: None,
) -> list[Assessment]:
    """Assess each case; one that cannot be read is a failure with a note and the others go on.

    Returns the assessments, worst first. done: called after each with its number from 1. warn: called with a
    sentence about anything unusual in a mask.
    """
    cases = name_cases(list(cases))
    if assessor.report_folder is not None:
        make_folder(assessor.report_folder)
    found = []
    for number, case in enumerate(cases, start=1):
        try:
            found.append(assessor.assess(case, warn))
        except Exception as error:  # a fault in one scan must not stop the others
            if debug:
                raise
            named = isinstance(error, SingleStripError)
            note = describe_error(error) if named else f"{case.mask}: {describe_error(error)}"
            found.append(Assessment(case, "fail", {}, note=note))
        done(number, found[-1])
    return worst_first(found)


def worst_first(assessments: Iterable[Assessment]) -> list[Assessment]:
    """Sorted by estimated Dice, those that could not be scored before all others."""
    return sorted(assessments, key=lambda assessment: (assessment.estimate, assessment.case.name))


def name_cases(cases: list[Case]) -> list[Case]:
    """The cases with distinct names, of the mask's file without `_mask` and suffix where that is enough.

    A mask that several cases have, as with other references, has a number in the further ones' names.
    """
    paths = [case.mask for case in volume.without_repeats(cases, lambda case: (case.mask,))]
    names = [str(name) for name in volume.distinct_names(paths)]
    short = [name.removesuffix("_mask") or name for name in names]
    if len(set(short)) == len(short):
        names = short
    elif len(set(names)) < len(names):
        names = [str(Path(name).with_name(path.name)) for name, path in zip(names, paths, strict=True)]
    first_names = {os.path.abspath(path): name for path, name in zip(paths, names, strict=True)}  # noqa: PTH100
    taken, named = set(), []
    for case in cases:
        name = first_names[os.path.abspath(case.mask)]  # noqa: PTH100 - links stay as named
        if name in taken:
            numbered = (f"{name}-{number}" for number in itertools.count(2))
            name = next(other for other in numbered if other not in taken and other not in names)
        taken.add(name)
        named.append(replace(case, name=name))
    return named


def _read_rows(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """The columns of a TSV file, and the fields of each line below by its number; empty lines do not count.

    Raises InputError.
    """
    lines = [line.removesuffix("\r") for line in read_text(path, "a table").split("\n")]
    columns, *rows = ([from_cell(cell) for cell in line.split("\t")] if line else [] for line in lines)
    return columns, {number: row for number, row in enumerate(rows, start=2) if row}


def read_table(path: Path) -> list[Case]:
    """Cases of a TSV file with a column `mask`, and where wanted `image`, `reference` and `note`.

    Relative paths are as seen from the working folder; an empty field stands for none. Raises InputError.
    """
    columns, rows = _read_rows(path)
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
        columns, rows = _read_rows(path)
    except InputError as error:
        raise OutputError(f"{error}; it is to be added to: mend or remove it") from error
    found = {}
    for number, fields in rows.items():
        fault = _row_fault(columns, fields)
        if fault:
            raise OutputError(f"{path}: line {number} {fault}; rows are to be added: mend or remove the table")
        row = dict(zip(columns, fields, strict=True))
        found[row["mask"]] = row
    return found


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

    def estimate(row: dict[str, str]) -> tuple[float, str]:
        return float(row["estimated_dice"] or -1), row["mask"]

    _write_rows(path, sorted(rows.values(), key=estimate))


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """The columns of COLUMNS, and behind them those that someone added to a row."""
    columns = dict.fromkeys([*COLUMNS, *(column for row in rows for column in row)])
    lines = ["\t".join(columns)]
    lines += ["\t".join(to_cell(row.get(column, "")) for column in columns) for row in rows]
    with atomic_write(path) as (partial,):
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def check_table(path: Path) -> None:
    """Raise OutputError if a table cannot be written at this path."""
    if path.suffix not in (".tsv", ".json"):
        raise OutputError(f"{path}: name the table with .tsv or .json")
    check_writable(path)


def write_report(folder: Path, assessments: list[Assessment], title: str, about: str) -> Path:
    """The page of assessments whose pictures lie in `folder`; returns its path."""
    shown = {
        "HD95 mm": ("estimated_hd95_mm", ".1f"),
        "lowest slice": ("lowest_slice_dice", ".2f"),
        "volume ml": ("volume_ml", ".0f"),
        "parts": ("components", "d"),
        "holes": ("holes", "d"),
        "at border": ("border", "d"),
        "TTA Dice": ("tta_dice", ".3f"),
        "true Dice": ("dice", ".3f"),
        "true HD95 mm": ("hd95_mm", ".1f"),
        "frame": ("frame", "d"),
    }
    present = {title: how for title, how in shown.items() if any(how[0] in a.values for a in assessments)}
    entries = []
    for a in assessments:
        picture = _picture(a.case)
        entries.append(
            PageEntry(
                name=a.case.name,
                flag=a.flag,
                estimated_dice=a.values.get("estimated_dice"),
                picture=picture if a.values and path_exists(folder / picture) else None,
                numbers={
                    title: format(a.values[column], style) if column in a.values else ""
                    for title, (column, style) in present.items()
                },
                note=a.note,
            )
        )
    return write_page(folder, entries, title, about)
