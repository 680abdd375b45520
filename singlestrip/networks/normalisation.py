"""Scaling of intensities to [0, 1], the same in training and stripping. Imports no torch.

`synthesis.intensity_scale` does the same to batches of tensors, with percentiles of a sample, which torch takes
long for; a test holds the two together.
"""

from __future__ import annotations

import numpy as np

BRIGHT_PERCENT = 99.5


def least_range(high: float) -> float:
    """The least width of a range of intensities that ends at `high`, so that a constant is not divided by 0."""
    return 1e-6 * abs(high) + 1e-12


def bright_percentile(values: np.ndarray) -> float:
    """The 99.5th percentile of values [N]."""
    return float(np.percentile(values, BRIGHT_PERCENT))


def intensity_range(
    image: np.ndarray, covered: np.ndarray, brain: np.ndarray | None = None
) -> tuple[float, float]:
    """The lowest intensity and the width of the range that `normalise` scales to [0, 1]; some voxel is covered."""
    covered_values = image[covered]
    low = covered_values.min()
    brain_values = covered_values if brain is None else image[covered & brain]
    high = bright_percentile(brain_values if brain_values.size else covered_values)
    return low, max(high - low, least_range(high))


def normalise(image: np.ndarray, covered: np.ndarray, brain: np.ndarray | None = None) -> np.ndarray:
    """Scale [X, Y, Z] to [0, 1], from the minimum to the 99.5th percentile of the covered voxels; float32.

    covered: boolean [X, Y, Z]; other voxels become 0. brain: boolean [X, Y, Z]; if it has voxels, the percentile
    is taken of them alone, so that bright fat does not reduce the brain's contrast.
    """
    if not covered.any():
        return np.zeros_like(image)
    low, width = intensity_range(image, covered, brain)
    with np.errstate(invalid="ignore"):  # what is not covered may be NaN
        scaled = (image - low) / np.float32(width)
    return np.where(covered, scaled.clip(0, 1), np.float32(0))
