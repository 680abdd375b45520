"""How a round changes the masks of scans that it does not learn from: what two models make of the same scan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..batch.report import picture_path
from ..errors import InputError
from ..io.images import memory_need, volume
from ..io.output import make_folder
from ..io.pictures import figures
from ..quality.scores import QualityModel
from ..space.metrics import dice, volume_ml
from ..space.scan import Scan
from ..stripping.brain_field import BrainField
from ..stripping.stripper import Stripper
from .scans import UnlabelledScan


@dataclass(frozen=True, eq=False)
class Look:
    """What a model makes of a scan. mask: boolean [X, Y, Z], empty if it finds no brain; field: None then."""

    mask: np.ndarray
    field: BrainField | None

    @staticmethod
    def of(stripper: Stripper, scan: Scan) -> Look:
        """Strip a scan."""
        try:
            stripped = stripper.strip(scan)
        except InputError:
            return Look(np.zeros(scan.shape, dtype=bool), None)
        return Look(stripped.mask, stripped.field)

    @property
    def agreement(self) -> float:
        """Mean Dice of the views of the networks with their mean; 0 if they find no brain."""
        return 0.0 if self.field is None else float(np.mean(self.field.view_dice()))


@dataclass(frozen=True)
class ScanChange:
    """What a round changes in the mask of one scan.

    name: of the scan in pictures. dice: of the masks before and after; volumes in millilitres; agreement of the
    views; estimated_dice, flag: of the mask after the round.
    """

    name: str
    dice: float
    volume_before_ml: float
    volume_after_ml: float
    agreement_before: float
    agreement_after: float
    estimated_dice: float
    flag: str


def compare_scans(
    scans: Sequence[UnlabelledScan], before: Stripper, after: Stripper, quality: QualityModel, folder: Path
) -> list[ScanChange]:
    """What changed in each scan, those that changed most first. Scans that cannot be read are left out.

    Draws the outlines of both masks for the page in `folder`.
    """
    changes = _changes(scans, before, after, quality, folder)
    return sorted(changes, key=lambda change: (change.dice, change.name))


def _changes(
    scans: Sequence[UnlabelledScan], before: Stripper, after: Stripper, quality: QualityModel, folder: Path
) -> Iterator[ScanChange]:
    """What changed in each scan that can be read."""
    for scan in scans:
        try:
            memory_need.check(volume.read_header(scan.image), sdt=False, window_mm=after.config.window_mm)
            image = volume.read_single(scan.image)
        except InputError:  # said of it when the scans were scored
            continue
        old, new = (Look.of(stripper, image.scan()) for stripper in (before, after))
        grey = Scan(image.scaled(), image.vox2world)
        change = _change(scan.name, old, new, grey, quality)
        title = f"{scan.name}: Dice of both {change.dice:.3f}, green before and red after the round"
        picture = folder / picture_path(scan.name)
        make_folder(picture.parent)
        figures.comparison_figure([(grey, new.mask, old.mask, title)], picture)
        yield change


def _change(name: str, old: Look, new: Look, grey: Scan, quality: QualityModel) -> ScanChange:
    """What changed in one scan."""
    judged = quality.assess(Scan(new.mask, grey.vox2world), image=grey, field=new.field)
    return ScanChange(
        name,
        dice=dice(old.mask, new.mask),
        volume_before_ml=volume_ml(old.mask, grey.vox2world),
        volume_after_ml=volume_ml(new.mask, grey.vox2world),
        agreement_before=old.agreement,
        agreement_after=new.agreement,
        estimated_dice=judged.estimated_dice,
        flag=judged.flag,
    )


def mean_agreement(changes: Sequence[ScanChange]) -> tuple[float, float] | tuple[None, None]:
    """Mean agreement of views before and after; None twice without scans."""
    if not changes:
        return None, None
    count = len(changes)
    return (
        math.fsum(change.agreement_before for change in changes) / count,
        math.fsum(change.agreement_after for change in changes) / count,
    )
