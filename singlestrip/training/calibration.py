"""Where the border is drawn: such that the labelled scan's own mask keeps its volume.

Networks learn from synthetic images. On real scans they draw the border a little further out or in than the
labelled mask does. One number from the labelled scan corrects that: the logit that counts as the border.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from ..errors import InputError
from ..networks.cascade import Cascade
from ..stripping.brain_field import BrainField
from ..stripping.stripper import Stripper
from ..synthesis.labelling import LabelledScan


def level_of(logit: np.ndarray, count: int) -> float:
    """The level above which lie `count` values of an array: halfway between the lowest of them and the next."""
    if not 0 < count < logit.size:
        return -np.inf if count else np.inf
    ordered = np.partition(logit, (logit.size - count - 1, logit.size - count), axis=None)
    return float(ordered[logit.size - count - 1 : logit.size - count + 1].mean())


def border_level(stripper: Stripper, scans: Sequence[LabelledScan], largest: float) -> float:
    """Median over labelled scans of the logit at which stripping would give the mask's volume.

    It lies within ± `largest`, and is 0 without scans. Scans that cannot be stripped do not count.
    """
    levels = []
    for labelled in scans:
        try:
            field = stripper.field(labelled.scan)
        except InputError:
            continue
        # The box around the brain at the lowest level allowed holds the border at every level.
        lowered = BrainField(field.logit + largest, field.vox2world)
        _, logit = lowered.around_brain(labelled.scan.grid)
        levels.append(np.clip(level_of(logit, int(np.count_nonzero(labelled.mask))) - largest, -largest, largest))
    return float(np.median(levels)) if levels else 0.0


def calibrated(model: Cascade, scans: Sequence[LabelledScan], largest: float) -> tuple[Cascade, float]:
    """A copy of the networks whose segmenter's logit is 0 at the border level of the scans, and that level.

    largest: bound of the level, see `border_level`.
    """
    model = copy.deepcopy(model)
    if not scans:
        return model, 0.0
    level = border_level(Stripper(model), scans, largest)
    bias = model.segmenter.head.bias
    assert bias is not None, "the head is a convolution with a bias"
    # The brain's logit falls by the level if those of all classes that are brain do.
    brain = list(model.config.brain_channels) or [0]
    with torch.no_grad():
        bias.view(model.config.segmenter_outputs, -1)[brain] -= level
    return model, level
