"""Where the border is drawn: such that the labelled scan's own mask keeps its volume.

Networks learn from synthetic images, and on scans they put the border a little further out or in than the labelled
mask has it. One number is taken from the labelled scan to mend that: the logit that counts as the border.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from ..errors import InputError
from ..networks.cascade import Cascade
from ..space.grid import Grid
from ..stripping.brain_field import BrainField
from ..stripping.stripper import Stripper
from ..synthesis.labelling import LabelledScan

LARGEST = 2.0  # logit: beyond that it is not the border that is wrong


def level_of(logit: np.ndarray, count: int) -> float:
    """The level that `count` values of an array are above: halfway between the last above it and the next."""
    if not 0 < count < logit.size:
        return -np.inf if count else np.inf
    ordered = np.partition(logit, (logit.size - count - 1, logit.size - count), axis=None)
    return float(ordered[logit.size - count - 1 : logit.size - count + 1].mean())


def border_level(stripper: Stripper, scans: Sequence[LabelledScan]) -> float:
    """Median over labelled scans of the logit at which stripping would give the mask's volume.

    Within ± LARGEST; 0 without scans. One that cannot be stripped counts for nothing.
    """
    levels = []
    for image, mask, vox2world in scans:
        try:
            field = stripper.field(image, vox2world)
        except InputError:
            continue
        # As if brain reached down to the lowest level allowed: all that a level could part lies in this box.
        lowered = BrainField(field.logit + LARGEST, field.vox2world)
        _, logit = lowered.around_brain(Grid(image.shape, vox2world))
        levels.append(np.clip(level_of(logit, np.count_nonzero(mask)) - LARGEST, -LARGEST, LARGEST))
    return float(np.median(levels)) if levels else 0.0


def calibrated(model: Cascade, scans: Sequence[LabelledScan]) -> tuple[Cascade, float]:
    """A copy of the networks whose segmenter's logit is 0 at the border level of the scans; and that level."""
    model = copy.deepcopy(model)
    level = border_level(Stripper(model), scans)
    with torch.no_grad():
        model.segmenter.head.bias -= level
    return model, level
