"""Assesses mask files: one or thousands with one loaded model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..configuration import DiffusionConfig, MaskGridConfig
from ..errors import InputError, describe_file_error, errors_named
from ..io.images import diffusion, memory_need, volume
from ..io.images.masks import check_grid, read_masks, read_masks_on
from ..io.images.volume import Volume
from ..io.output import make_folder, path_exists
from ..quality.augmentation import agreement, augmented_masks
from ..quality.doubt import Doubt, map_doubt
from ..quality.judging import FrameFields, judge_masks
from ..quality.scores import QualityModel
from ..space.metrics import dice, hausdorff95
from ..space.scan import Scan
from ..stripping.stripper import Point, Stripper, checked_centre
from .assessment import Assessment, Case, name_cases, worst_first
from .frames import frames_of_masks, mean_frame
from .report import draw_picture


@dataclass(frozen=True)
class Assessor:
    """Assesses masks with one quality model.

    stripper: the networks that look at the images; None to judge by mask and image alone. augmenter: strips for
    test-time augmentation; None for no augmentation. seed: of the augmentation. report_folder: where pictures for
    the page are drawn; None for no pictures. grids: how far the grids of mask, image and reference may lie apart.
    doubt: where the map of doubt of the one mask is written; None for no map. bval: b-values of the one image,
    whose mask is judged by the mean of the b=0 frames, those up to b0_limit s/mm²; None to judge it by the mean of
    all. centre_mm: RAS mm of the middle of the brain in the one image; None to search for it.
    """

    quality: QualityModel
    stripper: Stripper | None = None
    augmenter: Stripper | None = None
    seed: int = 0
    report_folder: Path | None = None
    grids: MaskGridConfig = MaskGridConfig()
    doubt: Path | None = None
    bval: Path | None = None
    b0_limit: float = DiffusionConfig().b0_limit
    centre_mm: Point | None = None

    def assess(self, case: Case) -> Assessment:
        """Score one case and draw its picture. Raises SingleStripError, which names the file at fault.

        If a mask has several frames, all numbers and the picture are of the frame with the lowest estimated Dice;
        image and reference may have as many frames, or one. One mask of several frames is judged by their mean.
        The geometry is that of the image, without one that of the mask. If the mask is missing, the error is the
        case's note if it has one.
        """
        if case.note and not path_exists(case.mask):
            raise InputError(case.note)
        file, masks = read_masks(case.mask)
        image = None if case.image is None else self._read_image_of(case.image, file)
        base = image or file
        vox2world = base.vox2world
        if self.doubt is not None:
            volume.check_grid_fits(base, self.doubt)
            memory_need.check_map(base, file.frames)
        truths = None
        if case.reference is not None:
            truths = read_masks_on(case.reference, base, file.frames, self.grids)
        frames = [] if image is None else self._frames_of(image, file.frames)
        fields = None
        if self.stripper is not None and image is not None:
            fields = FrameFields(self.stripper, frames, self.centre_mm)
        with errors_named(base.path):
            if image is not None and self.centre_mm is not None:
                checked_centre(self.centre_mm, image.grid)
            quality, reconstruction = judge_masks(self.quality, masks, vox2world, frames, fields)
        frame = quality.frame or 0
        mask = masks[..., frame]
        further: dict[str, float] = {}
        if truths is not None:
            truth = truths[..., frame if truths.shape[3] > 1 else 0]
            further |= {"dice": dice(mask, truth), "hd95_mm": hausdorff95(mask, truth, vox2world)}
        image_frame = frame if image is not None and image.frames > 1 else 0
        if self.augmenter is not None:
            if image is None:
                raise InputError(f"{case.mask}: test-time augmentation needs its image")
            seen = frames[min(frame, len(frames) - 1)]
            copies = augmented_masks(self.augmenter, seen, seed=self.seed, centre_mm=self.centre_mm)
            mean_dice, median = agreement(copies)
            further |= {"tta_dice": mean_dice, "tta_mask_dice": dice(mask, median)}
        doubt = map_doubt(Scan(mask, vox2world), reconstruction, None if fields is None else fields.of_mask(frame))
        if self.report_folder is not None:
            grey = mask.astype(np.float32) if image is None else image.grey(image_frame)
            draw_picture(self.report_folder, case.name, Scan(grey, vox2world), mask, reconstruction, doubt)
        if self.doubt is not None:
            self._write_doubt(self.doubt, base, masks, doubt, frame, fields)
        return Assessment.of(case, quality, further, doubt.by_slice())

    def _write_doubt(
        self, path: Path, base: Volume, masks: np.ndarray, doubt: Doubt, frame: int, fields: FrameFields | None
    ) -> None:
        """Write the map of doubt of all masks [X, Y, Z, T] on the grid of `base`; that of one frame is known."""
        maps = np.zeros(masks.shape, dtype=np.float32, order="F")
        for t in range(masks.shape[3]):
            each = doubt if t == frame else self._map_frame(Scan(masks[..., t], base.vox2world), t, fields)
            maps[..., t][each.box] = each.values
        volume.write_like(base, path, maps, label="brain doubt")

    def _map_frame(self, mask: Scan, frame: int, fields: FrameFields | None) -> Doubt:
        """The map of doubt of one frame."""
        return map_doubt(mask, self.quality.reconstruct(mask), None if fields is None else fields.of_mask(frame))

    def _frames_of(self, image: Volume, masks: int) -> list[Scan]:
        """What a number of masks of an image is of. Raises InputError if the b-values do not fit."""
        if self.bval is None:
            return frames_of_masks(image, masks)
        if masks > 1:
            raise InputError(f"{image.path}: b-values are for one mask of all frames, and there are {masks}")
        return [mean_frame(image, diffusion.b0_frames(self.bval, image.frames, self.b0_limit))]

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
