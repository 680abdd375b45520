"""Judges masks with all that there is: their image, and the networks that strip.

One rule for masks that have just been made, those of a former run, and those of other programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import InputError
from ..space.scan import Scan
from ..stripping.brain_field import BrainField
from ..stripping.stripper import Point, Stripper
from .reconstruction import Reconstruction
from .scores import MaskQuality, QualityModel

NO_BRAIN_SEEN = "the networks find no brain in the image"


class FrameFields:
    """The output of the networks for each frame of an image; None for a frame in which they find no brain.

    A frame is looked at when its output is asked for. Only the last output is kept, since a series may have
    hundreds of frames. centre_mm: RAS mm of the middle of the brain if a person gave it.
    """

    def __init__(self, stripper: Stripper, frames: Sequence[Scan], centre_mm: Point | None = None) -> None:
        self.stripper, self.frames, self.centre_mm = stripper, frames, centre_mm
        self._last: tuple[int, BrainField | None] | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, frame: int) -> BrainField | None:
        if self._last is None or self._last[0] != frame:
            self._last = frame, self._look(self.frames[frame])
        return self._last[1]

    def of_mask(self, frame: int) -> BrainField | None:
        """The output for the mask of a frame; there may be one image for masks of many frames."""
        return self[min(frame, len(self) - 1)] if self.frames else None

    def _look(self, scan: Scan) -> BrainField | None:
        """The output for one frame."""
        try:
            field = self.stripper.field(scan, centre_mm=self.centre_mm)
        except InputError:  # of an image that the networks cannot see, such as one smaller than their voxels, too
            return None
        return field if bool((field.logit > 0).any()) else None


def judge_masks(
    quality: QualityModel,
    masks: np.ndarray,
    vox2world: np.ndarray,
    images: Sequence[Scan] = (),
    fields: FrameFields | None = None,
) -> tuple[MaskQuality, Reconstruction]:
    """Quality and reconstruction of the mask with the lowest estimated Dice.

    masks: boolean [X, Y, Z, T]. images, fields: of each frame, or one for all; none for masks without image or
    networks. A mask in whose image the networks find no brain is judged by image alone, and its reasons say so.
    """
    worst, reconstruction = quality.assess_worst(masks, vox2world, images, () if fields is None else fields)
    if fields is not None and fields.of_mask(worst.frame or 0) is None:
        worst = replace(worst, reasons=(NO_BRAIN_SEEN, *worst.reasons))
    return worst, reconstruction
