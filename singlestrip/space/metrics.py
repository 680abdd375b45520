"""How well two brain masks agree: Dice, HD95, volumes."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .grid import voxel_sizes, voxel_volume_ml
from .morphology import bounding_box


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """2|A∩B| / (|A|+|B|) of boolean arrays; 1 if both are empty (Dice 1945)."""
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / total if total else 1.0


def volume_ml(mask: np.ndarray, vox2world: np.ndarray) -> float:
    """Volume of the True voxels in millilitres."""
    return int(np.count_nonzero(mask)) * voxel_volume_ml(vox2world)


def hausdorff95(a: np.ndarray, b: np.ndarray, vox2world: np.ndarray) -> float:
    """95th percentile of the distances in mm between two surfaces, pooled over both ways.

    A surface is the True voxels with a False 6-neighbour (or the border of the grid beside them);
    a distance goes from the middle of a voxel of one to the nearest of the other (Huttenlocher et
    al. 1993, with the percentile of the BraTS challenges). 0 if both masks are empty, infinite
    if one is.
    """
    both = bounding_box(a | b)
    if both is None:
        return 0.0
    if not a.any() or not b.any():
        return np.inf
    box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in both)
    surfaces = [m & ~ndimage.binary_erosion(m) for m in (a[box], b[box])]
    distances = [
        ndimage.distance_transform_edt(~surfaces[1 - k], sampling=voxel_sizes(vox2world))[surfaces[k]]
        for k in range(2)
    ]
    return float(np.percentile(np.concatenate(distances), 95))
