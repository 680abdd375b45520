"""How far a mask can be trusted: test-time augmentation, the competitor of the autoencoder (SingleStrip)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from ..configuration import AugmentationConfig
from ..errors import InputError
from ..space.metrics import dice
from ..space.scan import Scan
from ..stripping.stripper import Point, Stripper


def turned(scan: Scan, angles_deg: np.ndarray) -> Scan:
    """A scan turned about the middle of its grid by angles [3] about right, then anterior, then superior.

    Signs follow the right-hand rule.
    """
    vox2world = scan.vox2world
    turn = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    middle = vox2world[:3, :3] @ ((np.array(scan.shape) - 1) / 2) + vox2world[:3, 3]
    result = np.eye(4)
    result[:3, :3] = turn @ vox2world[:3, :3]
    result[:3, 3] = turn @ (vox2world[:3, 3] - middle) + middle
    return replace(scan, vox2world=result)


def augmented_masks(
    stripper: Stripper,
    scan: Scan,
    config: AugmentationConfig = AugmentationConfig(),
    seed: int = 0,
    centre_mm: Point | None = None,
) -> np.ndarray:
    """Masks, boolean [copies, X, Y, Z], of a scan scaled in intensity and turned at random.

    Turning the header instead of the voxels lets every mask come back on the scan's own grid. A
    copy in which no brain is found is empty. The same seed gives the same masks. centre_mm: RAS mm of the middle
    of the brain in the scan, which turns with it; None to search for it.
    """
    generator = np.random.default_rng(seed)
    masks = np.zeros((config.copies, *scan.shape), dtype=bool)
    for mask in masks:
        gain = 1 + generator.uniform(-config.scaling, config.scaling)
        copy = turned(scan, generator.uniform(-config.rotation_deg, config.rotation_deg, 3))
        copy = replace(copy, slope=scan.slope * gain, intercept=scan.intercept * gain)
        try:
            mask[...] = stripper.strip(copy, centre_mm=_moved_with(scan, copy, centre_mm)).mask
        except InputError:
            continue
    return masks


def _moved_with(scan: Scan, copy: Scan, point_mm: Point | None) -> Point | None:
    """Where a point of a scan, RAS mm, lies in a copy of it that was moved; None of None."""
    if point_mm is None:
        return None
    move = copy.vox2world @ np.linalg.inv(scan.vox2world)
    return move[:3, :3] @ np.asarray(point_mm, dtype=float) + move[:3, 3]


def agreement(masks: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean Dice of masks, boolean [N, X, Y, Z], to their voxel-wise median, and the median.

    0 where the median is empty: nothing that most copies agree on.
    """
    median = 2 * masks.sum(axis=0, dtype=np.int32) > len(masks)
    if not median.any():
        return 0.0, median
    return float(np.mean([dice(mask, median) for mask in masks])), median
