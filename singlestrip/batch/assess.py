"""Assesses mask files: one or thousands with one loaded model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..configuration import MaskGridConfig
from ..errors import InputError, describe_file_error
from ..io.images import volume
from ..io.images.masks import check_grid, read_masks, read_masks_on
from ..io.images.volume import Volume
from ..io.output import make_folder, path_exists
from ..quality.augmentation import agreement, augmented_masks
from ..quality.scores import QualityModel
from ..space.metrics import dice, hausdorff95
from ..space.scan import Scan
from ..stripping.stripper import Stripper
from .assessment import Assessment, Case, name_cases, quality_values, worst_first
from .report import draw_picture


@dataclass(frozen=True)
class Assessor:
    """Assesses masks with one quality model.

    stripper: for test-time augmentation; None for no augmentation. seed: of the augmentation. report_folder: where
    pictures for the page are drawn; None for no pictures. grids: how far the grids of mask, image and reference
    may lie apart.
    """

    quality: QualityModel
    stripper: Stripper | None = None
    seed: int = 0
    report_folder: Path | None = None
    grids: MaskGridConfig = MaskGridConfig()

    def assess(self, case: Case) -> Assessment:
        """Score one case and draw its picture. Raises SingleStripError, which names the file at fault.

        If a mask has several frames, all numbers and the picture are of the frame with the lowest estimated Dice;
        image and reference may have as many frames, or one. The geometry is that of the image, without one that of
        the mask. If the mask is missing, the error is the case's note if it has one.
        """
        if case.note and not path_exists(case.mask):
            raise InputError(case.note)
        file, masks = read_masks(case.mask)
        image = None if case.image is None else self._read_image_of(case.image, file)
        base = image or file
        vox2world = base.vox2world
        truths = None
        if case.reference is not None:
            truths = read_masks_on(case.reference, base, file.frames, self.grids)
        quality, reconstruction = self.quality.assess_worst(masks, vox2world)
        values = quality_values(quality)
        frame = quality.frame or 0
        mask = masks[..., frame]
        if truths is not None:
            truth = truths[..., frame if truths.shape[3] > 1 else 0]
            values |= {"dice": dice(mask, truth), "hd95_mm": hausdorff95(mask, truth, vox2world)}
        image_frame = frame if image is not None and image.frames > 1 else 0
        if self.stripper is not None:
            if image is None:
                raise InputError(f"{case.mask}: test-time augmentation needs its image")
            mean_dice, median = agreement(augmented_masks(self.stripper, image.scan(image_frame), seed=self.seed))
            values |= {"tta_dice": mean_dice, "tta_mask_dice": dice(mask, median)}
        if self.report_folder is not None:
            grey = mask.astype(np.float32) if image is None else image.grey(image_frame)
            draw_picture(self.report_folder, case.name, Scan(grey, vox2world), mask, reconstruction)
        return Assessment(case, quality.flag, values, quality.slice_dice)

    def _read_image_of(self, path: Path, mask: Volume) -> Volume:
        """The image of a mask. Raises InputError if its grid is another, or its number of frames does not fit."""
        image = volume.read(path)
        check_grid(mask, image, self.grids, "name the image that the mask is of")
        if mask.frames not in (1, image.frames) and image.frames > 1:
            raise InputError(f"{path}: has {image.frames} frames; {mask.path} has {mask.frames}")
        return image


def assess_files(
    assessor: Assessor,
    cases: Iterable[Case],
    done: Callable[[int, Assessment], None] = lambda number, assessment: None,
    debug: bool = False,
    describe: Callable[[Path, Exception], str] = describe_file_error,
) -> list[Assessment]:
    """Assess each case. Returns the assessments, worst first. A case that fails does not stop the others.

    The assessment of such a case has the flag fail and a note that says why. done: called after each case with its
    number, from 1. debug: raise the first failure. describe: makes the note of an error in the work on a file.
    """
    cases = name_cases(list(cases))
    if assessor.report_folder is not None:
        make_folder(assessor.report_folder)
    assessments = []
    for number, case in enumerate(cases, start=1):
        try:
            assessments.append(assessor.assess(case))
        except Exception as error:  # a fault in one scan must not stop the others
            if debug:
                raise
            assessments.append(Assessment(case, "fail", {}, note=describe(case.mask, error)))
        done(number, assessments[-1])
    return worst_first(assessments)
