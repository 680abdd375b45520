"""The range of an image's intensities, and values that 32 bits hold.

A few damaged voxels, padding far below the darkest tissue, and scaling by extreme factors must not press the
contrast of a head together. Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..configuration import IntensityConfig
from ..errors import InputError
from ..space.scaling import check_not_overflowed, finite_range
from ..space.scan import Scan

# Ranges that single precision holds well: outside of them values are rescaled in double precision.
LARGEST, NARROWEST, FINEST = 1e30, 1e-6, 1e-3
BRIGHTEST = 1e6  # the highest rescaled value, if the range is 0 to 1


@dataclass(frozen=True)
class Intensities:
    """How stored values become intensities: stored · slope + intercept.

    low, high: the ends of the range, without damaged voxels and padding. If rescaled, intensities are cut at the
    range's lower end and brought to 0 to 1.
    """

    slope: float
    intercept: float
    low: float
    high: float
    rescaled: bool

    def of(self, stored: np.ndarray) -> np.ndarray:
        """Intensities float32 of stored values, of the same shape; those that are not finite are the lowest."""
        if not self.rescaled:
            values = stored.astype(np.float32)
            if (self.slope, self.intercept) != (1.0, 0.0):
                values = values * np.float32(self.slope) + np.float32(self.intercept)
            lowest = self.low
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                scaled = stored.astype(np.float64) * self.slope + self.intercept
                values = ((scaled - self.low) / (self.high - self.low)).clip(0, BRIGHTEST).astype(np.float32)
            lowest = 0.0
        finite = np.isfinite(values)
        if not finite.all():
            values[~finite] = lowest
        return values

    def relative(self, stored: np.ndarray) -> np.ndarray:
        """Stored values as shares of the range: 0 for the lower end, 1 for the upper."""
        low, high = (0.0, 1.0) if self.rescaled else (self.low, self.high)
        return (self.of(stored) - low) / (high - low)


def intensities_of(scan: Scan, config: IntensityConfig = IntensityConfig()) -> Intensities:
    """The intensities of a scan.

    Raises InputError if there is nothing to see: no finite voxel, many infinite ones, a constant, or a range that
    is not finite.
    """
    image, slope, intercept = scan.array, scan.slope, scan.intercept
    ends = finite_range(image)
    if not ends[0] <= ends[1]:
        raise InputError("the image has no finite voxel")
    check_not_overflowed(image)
    with np.errstate(over="ignore", invalid="ignore"):
        lowest, highest = sorted(np.multiply(ends, slope, dtype=np.float64) + intercept)
        sample = np.sort(_sample(image, config.sample).astype(np.float64) * slope + intercept)
    if not np.isfinite(highest - lowest):
        raise InputError(
            f"the intensities reach from {lowest:g} to {highest:g}: the voxels or their scaling are damaged"
        )
    low, high = _robust_ends(sample, lowest, highest, config)
    if low == high:
        raise InputError("the image is constant: there is nothing to strip")
    size = max(abs(lowest), abs(highest))
    extreme = size > LARGEST or high - low < max(NARROWEST, FINEST * max(abs(low), abs(high)))
    return Intensities(float(slope), float(intercept), low, high, rescaled=extreme or low > lowest)


def _sample(image: np.ndarray, count: int) -> np.ndarray:
    """Finite stored values [N] of voxels drawn at random, the same at each call; all of a small image."""
    values = image.ravel(order="K")
    if values.size > count:
        values = values.take(np.sort(np.random.default_rng(0).integers(values.size, size=count)))
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values


def _robust_ends(
    sample: np.ndarray, lowest: float, highest: float, config: IntensityConfig
) -> tuple[float, float]:
    """The lower end without what lies apart from it, and the 99.5th percentile of what lies above that.

    sample: sorted values of the image; lowest, highest: of all of it.
    """
    if not sample.size:  # of few finite voxels none may be drawn
        return lowest, highest
    high = _percentile(sample[sample > sample[0]], config.high_percent, highest)
    low, dark = lowest, _percentile(sample, config.low_percent, lowest)
    if dark - low > config.apart * (high - dark):  # a few damaged voxels
        low = dark
    levels = np.unique(sample[sample >= low])
    while levels.size > config.few and levels[1] - levels[0] > config.apart * (high - levels[1]):
        levels = levels[1:]  # padding
        low = levels[0]
        high = _percentile(sample[sample > low], config.high_percent, highest)
    return float(low), float(max(low, high))


def _percentile(values: np.ndarray, percent: float, otherwise: float) -> float:
    """A percentile of sorted values; `otherwise` if there are none."""
    return float(np.percentile(values, percent)) if values.size else otherwise
