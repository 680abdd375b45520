"""Mask files in, a table of their quality out: one or thousands through one loaded model."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import report, volume
from .errors import InputError, OutputError, SingleStripError, sentence
from .labelling import read_mask, read_mask_on
from .metrics import dice, hausdorff95
from .output import make_folder, whole
from .page import PageEntry, write_page
from .quality import MaskQuality, QualityModel, agreement, augmented_masks
from .stripping import Stripper
from .volume import Volume

# flag: pass, look or fail; estimated: of the mask and its reconstruction; tta_dice: mean Dice of augmented
# masks to their median, tta_mask_dice: of the mask to it; dice, hd95_mm: against the reference; note: why a
# mask has no score.
COLUMNS = (
    *("flag", "estimated_dice", "estimated_hd95_mm", "lowest_slice_dice", "volume_ml", "components", "holes"),
    *("border", "tta_dice", "tta_mask_dice", "dice", "hd95_mm", "mask", "image", "reference", "note"),
)


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
    }


@dataclass(frozen=True)
class Assessor:
    """What masks are assessed with. stripper: for test-time augmentation, None for none."""

    quality: QualityModel
    stripper: Stripper | None = None
    seed: int = 0
    report_folder: Path | None = None

    def assess(self, case: Case) -> Assessment:
        """Score one case and draw its picture. Raises SingleStripError, naming the file at fault.

        A mask that is not there is told by the case's own note, if it has one.
        """
        if case.note and not case.mask.exists():
            raise InputError(case.note)
        scan, mask = read_mask(case.mask)
        image = None if case.image is None else volume.read(case.image)
        if image is not None and not volume.same_grid(image, scan):
            raise InputError(f"{case.image}: not on the grid of {scan.path}")
        rebuilt = self.quality.reconstruct(mask, scan.vox2world)
        quality = self.quality.judge(mask, scan.vox2world, rebuilt)
        values = quality_values(quality)
        if case.reference is not None:
            truth = read_mask_on(case.reference, scan)
            values |= {"dice": dice(mask, truth), "hd95_mm": hausdorff95(mask, truth, scan.vox2world)}
        if self.stripper is not None:
            values |= self._augment(case, image, mask)
        if self.report_folder is not None:
            grey = mask.astype(np.float32) if image is None else image.scaled()
            expected = rebuilt.on_grid(mask.shape, scan.vox2world)
            draw(self.report_folder, case, grey, mask, expected, scan.vox2world)
        return Assessment(case, quality.flag, values, quality.slice_dice)

    def _augment(self, case: Case, image: Volume | None, mask: np.ndarray) -> dict[str, float]:
        if image is None:
            raise InputError(f"{case.mask}: test-time augmentation needs its image")
        masks = augmented_masks(
            self.stripper, image.frame(0), image.vox2world, image.slope, image.intercept, seed=self.seed
        )
        score, median = agreement(masks)
        return {"tta_dice": score, "tta_mask_dice": dice(mask, median)}


def draw(
    folder: Path, case: Case, image: np.ndarray, mask: np.ndarray, rebuilt: np.ndarray, vox2world: np.ndarray
) -> None:
    """The picture of a case for the page in `folder`; see `report.quality_figure`."""
    path = folder / _picture(case)
    make_folder(path.parent)
    report.quality_figure(image, mask, rebuilt, vox2world, path)


def _picture(case: Case) -> str:
    return f"pictures/{case.name}.png"


def assess_files(
    assessor: Assessor,
    cases: Iterable[Case],
    done: Callable[[int, Assessment], None] = lambda number, assessment: None,
    debug: bool = False,
) -> list[Assessment]:
    """Assess each case; one that cannot be read is a failure with a note and the others go on.

    Returns the assessments, worst first. done: called after each with its number from 1.
    """
    cases = name_cases(list(cases))
    if assessor.report_folder is not None:
        make_folder(assessor.report_folder)
    found = []
    for number, case in enumerate(cases, start=1):
        try:
            found.append(assessor.assess(case))
        except Exception as error:  # a fault in one scan must not stop the others
            if debug:
                raise
            named = isinstance(error, SingleStripError)
            note = sentence(error) if named else f"{case.mask}: {sentence(error)}"
            found.append(Assessment(case, "fail", {}, note=note))
        done(number, found[-1])
    return worst_first(found)


def worst_first(assessments: Iterable[Assessment]) -> list[Assessment]:
    """Sorted by estimated Dice, those that could not be scored before all others."""
    return sorted(assessments, key=lambda assessment: (assessment.estimate, assessment.case.name))


def name_cases(cases: list[Case]) -> list[Case]:
    """The cases with distinct names, of the mask's file without `_mask` and suffix where that is enough.

    Raises InputError if a mask is named twice.
    """
    paths = [case.mask for case in cases]
    names = [str(name) for name in volume.distinct_names(paths)]
    short = [name.removesuffix("_mask") for name in names]
    if len(set(short)) == len(short):
        names = short
    elif len(set(names)) < len(names):
        names = [str(Path(name).with_name(path.name)) for name, path in zip(names, paths, strict=True)]
    return [replace(case, name=name) for case, name in zip(cases, names, strict=True)]


def read_table(path: Path) -> list[Case]:
    """Cases of a TSV file with a column `mask`, and where wanted `image`, `reference` and `note`.

    Relative paths are as seen from the working folder; an empty field stands for none.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from error
    if not rows or "mask" not in rows[0][1]:
        raise InputError(f"{path}: needs a header with the column mask, and at least one row")

    def named(row: dict[str, str], column: str) -> Path | None:
        text = (row.get(column) or "").strip()
        return Path(text).expanduser() if text else None

    cases = []
    for number, row in rows:
        mask = named(row, "mask")
        if mask is None:
            raise InputError(f"{path}: no mask in line {number}")
        note = (row.get("note") or "").strip()
        cases.append(Case(mask, named(row, "image"), named(row, "reference"), note=note))
    return cases


def write_table(path: Path, assessments: list[Assessment]) -> None:
    """TSV with the columns of COLUMNS, or JSON (an object for one mask, a list for several), by suffix."""
    if path.suffix != ".json":
        _write_rows(path, [assessment.row() for assessment in assessments])
        return
    records = [assessment.record() for assessment in assessments]
    with whole(path) as (partial,):
        partial.write_text(json.dumps(records[0] if len(records) == 1 else records, indent=2) + "\n")


def update_table(path: Path, assessments: list[Assessment]) -> None:
    """Write assessments to a TSV table, worst first, among the rows of other masks that it has already."""
    rows = {}
    if path.is_file():
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = {row["mask"]: row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
        except (OSError, UnicodeDecodeError, KeyError) as error:
            raise OutputError(f"{path}: not a table that can be added to ({error!r}); remove it") from error
    rows |= {row["mask"]: row for row in (assessment.row() for assessment in assessments)}

    def estimate(row: dict[str, str]) -> tuple[float, str]:
        return float(row.get("estimated_dice") or -1), row["mask"]

    _write_rows(path, sorted(rows.values(), key=estimate))


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    lines = ["\t".join(COLUMNS)]
    lines += ["\t".join(_field(row.get(column) or "") for column in COLUMNS) for row in rows]
    with whole(path) as (partial,):
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _field(text: str) -> str:
    return text.replace("\t", " ").replace("\n", " ")


def check_table(path: Path) -> None:
    """Raise OutputError if a table cannot be written at this path."""
    if path.suffix not in (".tsv", ".json"):
        raise OutputError(f"{path}: name the table with .tsv or .json")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: folder {path.parent} does not exist")


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
    }
    present = {title: how for title, how in shown.items() if any(how[0] in a.values for a in assessments)}
    entries = []
    for a in assessments:
        picture = _picture(a.case)
        entries.append(
            PageEntry(
                name=a.case.name,
                flag=a.flag,
                score=a.values.get("estimated_dice"),
                picture=picture if (folder / picture).is_file() and a.values else None,
                numbers={
                    title: format(a.values[column], style) if column in a.values else ""
                    for title, (column, style) in present.items()
                },
                note=a.note,
            )
        )
    return write_page(folder, entries, title, about)
