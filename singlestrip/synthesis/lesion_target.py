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
            offsets = offsets_mm(source, at[0][box][None], centre_mm)
            own = (distance_in_radii(lesion.blob, offsets) < 1) * brain[0][box]
            seen = (change[0][box].abs() * own).sum() >= least_change * own.sum()
            share[0][box] = torch.maximum(share[0][box], own * seen)
    return share
