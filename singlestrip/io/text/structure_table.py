"""Writes tables of structures: BIDS's dseg.tsv, and FreeSurfer's colour tables. Chooses colours."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

from ...configuration import TargetClass
from ..output import atomic_write
from .table import write_table

COLUMNS = ("index", "name", "color", "side", "brain", "fluid", "largest")  # the first three are BIDS's
GOLDEN = 0.618034  # of a turn: hues of numbers in a row lie far apart
Colour = tuple[int, int, int]


def colour_of(structure: TargetClass) -> Colour:
    """Red, green and blue of a structure: its own colour, or one that its number chooses."""
    if structure.colour is not None:
        return structure.colour
    hue = structure.number * GOLDEN % 1
    red, green, blue = (round(255 * value) for value in colorsys.hsv_to_rgb(hue, 0.7, 0.95))
    return red, green, blue


def write_structures(path: Path, structures: Sequence[TargetClass]) -> None:
    """Write a table of structures: tab-separated for a path that ends in .tsv, else a FreeSurfer colour table.

    `class_table.read_class_table` reads both. The file appears whole or not at all. Raises OutputError.
    """
    if path.suffix.lower() == ".tsv":
        write_table(path, COLUMNS, map(_cells, structures))
        return
    with atomic_write(path) as (partial,):
        partial.write_text("".join(map(_line, structures)), encoding="utf-8")


def _cells(structure: TargetClass) -> dict[str, str]:
    """The cells of a structure by column."""
    flags = {name: str(int(getattr(structure, name))) for name in ("brain", "fluid", "largest")}
    side = "n/a" if structure.side == "none" else structure.side
    colour = "#" + bytes(colour_of(structure)).hex()
    return {"index": str(structure.number), "name": structure.name, "color": colour, "side": side, **flags}


def _line(structure: TargetClass) -> str:
    """The line of a structure in a colour table, whose names have no blanks."""
    name = "-".join(structure.name.split())
    return f"{structure.number} {name} {' '.join(map(str, colour_of(structure)))} 0\n"
