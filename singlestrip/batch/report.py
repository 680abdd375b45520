"""The page of assessments, and the pictures of masks on a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..io.output import make_folder, path_exists
from ..io.pictures import figures
from ..io.pictures.page import PageEntry, Reason, write_page
from ..quality.reasons import FACES
from ..space.scan import Scan
from .assessment import MEASURES, Assessment, Measure

if TYPE_CHECKING:  # their modules import torch
    from ..quality.doubt import Doubt
    from ..quality.reconstruction import Reconstruction


EVIDENCE = {"mask": "shape", "image": "shape, image", "model": "shape, image, networks"}  # words of the page
# What differs between reasons of the same kind: parts in brackets, numbers with their units, and faces.
ASIDE, NUMBER = re.compile(r" \([^()]*\)"), re.compile(r"\d[\d.,]*( (%|ml|mm))?")
FACE = "|".join(FACES.values())
TOUCHED = re.compile(rf"the ({FACE})( and ({FACE}))* faces?")


def draw_picture(
    folder: Path, name: str, scan: Scan, mask: np.ndarray, reconstruction: Reconstruction, doubt: Doubt
) -> None:
    """Draw the picture of a mask for the page in `folder`; see `figures.quality_figure`.

    name: of the page's entry. scan: with values float32. mask: boolean, on the scan's grid. doubt: of the mask.
    """
    path = folder / picture_path(name)
    make_folder(path.parent)
    view = figures.QualityView(
        scan,
        mask,
        reconstruction.on_grid(scan.grid),
        doubt.everywhere(),
        doubt.worst_place(),
        scan.grid.axial_axis,
        doubt.worst_slices(),
    )
    figures.quality_figure(view, path)


def find_picture(folder: Path, name: str) -> str | None:
    """The path of a picture from the page's folder; None if it was not drawn."""
    picture = picture_path(name)
    return picture if path_exists(folder / picture) else None


def picture_path(name: str) -> str:
    """The path of a picture from the page's folder, by the name of the page's entry."""
    return f"pictures/{name}.png"


def write_report(folder: Path, assessments: list[Assessment], title: str, about: str) -> Path:
    """Write the page of assessments whose pictures lie in `folder`. Returns the path of the page."""
    measures = [each for each in MEASURES if each.title and any(each.column in a.values for a in assessments)]
    return write_page(folder, [_page_entry(folder, each, measures) for each in assessments], title, about)


def _page_entry(folder: Path, assessment: Assessment, measures: list[Measure]) -> PageEntry:
    values, name = assessment.values, assessment.case.name
    return PageEntry(
        name=name,
        flag=assessment.flag,
        estimated_dice=values.get("estimated_dice"),
        picture=find_picture(folder, name) if values else None,
        numbers={
            each.title: format(values[each.column], each.style) if each.column in values else ""
            for each in measures
        },
        note=assessment.note,
        interval=assessment.interval if values else None,
        evidence=EVIDENCE.get(assessment.evidence, ""),
        reasons=tuple(Reason(text, group_of(text)) for text in assessment.reasons),
    )


def group_of(reason: str) -> str:
    """The words of a reason that it shares with those of its kind: "touches a face of the image"."""
    return NUMBER.sub("…", TOUCHED.sub("a face", ASIDE.sub("", reason)))
