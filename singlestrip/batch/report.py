"""The page of assessments, and the pictures of masks on a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..io.output import make_folder, path_exists
from ..io.pictures import figures
from ..io.pictures.page import PageEntry, write_page
from ..space.scan import Scan
from .assessment import MEASURES, Assessment, Measure

if TYPE_CHECKING:  # its module imports torch
    from ..quality.reconstruction import Reconstruction


def draw_picture(folder: Path, name: str, scan: Scan, mask: np.ndarray, reconstruction: Reconstruction) -> None:
    """Draw the picture of a mask for the page in `folder`; see `figures.quality_figure`.

    name: of the page's entry. scan: with values float32. mask: boolean, on the scan's grid.
    """
    path = folder / _picture_path(name)
    make_folder(path.parent)
    figures.quality_figure(scan, mask, reconstruction.on_grid(scan.grid), path)


def find_picture(folder: Path, name: str) -> str | None:
    """The path of a picture from the page's folder; None if it was not drawn."""
    picture = _picture_path(name)
    return picture if path_exists(folder / picture) else None


def _picture_path(name: str) -> str:
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
    )
