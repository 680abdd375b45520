"""What share of each voxel of a synthetic image is lesion: what a segmenter of lesions learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .blobs import box_near, centre_of, distance_in_radii, offsets_mm, reach_mm
from .label_map import LabelMap
from .lesions import Lesion


def lesion_share(
    change: torch.Tensor,
    brain: torch.Tensor,
    source: LabelMap,
    drawn: Sequence[Lesion],
    at: torch.Tensor,
    least_change: float,
) -> torch.Tensor:
    """The share of each voxel that is lesion, [1, X, Y, Z], at most that which is brain.

    A lesion is what lies within one radius: the lesion itself, its core, or the fluid of a cavity within the
    brain. Oedema around it is none. change: [1, X, Y, Z], what `add_lesions` has added to the image; lesions whose
    mean change is smaller than `least_change` cannot be seen and are none. brain, source, at: as of `add_lesions`.
    """
    share = torch.zeros_like(brain)
    for lesion in drawn:
        centre_mm = centre_of(lesion.blob.place, source)
        box = box_near(source, at, centre_mm, reach_mm(lesion.blob, 1.0))
        if box is not None:
            changed = change[0][box] != 0  # of a box of up to the whole window these are few
            points = at[0][box][changed][None, :, None, None]
            inside = distance_in_radii(lesion.blob, offsets_mm(source, points, centre_mm))[:, 0, 0] < 1
            own = inside * brain[0][box][changed]
            seen = (change[0][box][changed].abs() * own).sum() >= least_change * own.sum()
            share[0][box][changed] = torch.maximum(share[0][box][changed], own * seen)
    return share
