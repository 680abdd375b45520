"""The page of assessments, with a picture of each mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..io.output import make_folder, path_exists
from ..io.pictures import figures
from ..io.pictures.page import PageEntry, write_page
from ..quality.scores import Reconstruction
from ..space.scan import Scan
from .assessment import MEASURES, Assessment, Case, Measure


def draw_picture(folder: Path, case: Case, image: Scan, mask: np.ndarray, reconstruction: Reconstruction) -> None:
    """Draw the picture of a case for the page in `folder`; see `figures.quality_figure`.

    image: float32; mask: boolean, on the image's grid.
    """
    path = folder / picture_path(case)
    make_folder(path.parent)
    figures.quality_figure(image, mask, reconstruction.on_grid(image.grid), path)


def picture_path(case: Case) -> str:
    """The picture's path from the page's folder."""
    return f"pictures/{case.name}.png"


def write_report(folder: Path, assessments: list[Assessment], title: str, about: str) -> Path:
    """Write the page of assessments whose pictures lie in `folder`; returns its path."""
    shown = [each for each in MEASURES if each.title and any(each.column in a.values for a in assessments)]
    return write_page(folder, [_page_entry(folder, each, shown) for each in assessments], title, about)


def _page_entry(folder: Path, assessment: Assessment, shown: list[Measure]) -> PageEntry:
    values, picture = assessment.values, picture_path(assessment.case)
    return PageEntry(
        name=assessment.case.name,
        flag=assessment.flag,
        estimated_dice=values.get("estimated_dice"),
        picture=picture if values and path_exists(folder / picture) else None,
        numbers={
            each.title: format(values[each.column], each.style) if each.column in values else "" for each in shown
        },
        note=assessment.note,
    )
