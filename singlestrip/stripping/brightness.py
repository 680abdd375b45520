"""What is bright in an image: where the head lies, and how bright a brain is. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..configuration import BrightnessConfig
from ..space.grid import Grid
from ..space.morphology import bounding_box, largest_component
from ..space.scan import Scan

MAD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation


@dataclass(frozen=True, eq=False)
class Bright:
    """The largest bright part of an image.

    low_mm, high_mm: its bounds in RAS mm, [3] each; share: its share of all that is bright; darkest, brightest:
    the values of the darkest and the brightest of the image.
    """

    low_mm: np.ndarray
    high_mm: np.ndarray
    share: float
    darkest: float
    brightest: float

    @property
    def length_mm(self) -> float:
        """The longest side of its bounds."""
        return float((self.high_mm - self.low_mm).max())

    def relative(self, value: float) -> float:
        """A value as a share of the brightness of the image."""
        return (value - self.darkest) / max(self.brightest - self.darkest, 1e-30)

    def share_of(self, mask: np.ndarray, grid: Grid, margin: float) -> float:
        """The share of a mask that lies within the bounds and a margin, which is a share of the length.

        mask: boolean [X, Y, Z], not empty, on a conformed grid.
        """
        beyond, size, first = margin * self.length_mm, grid.vox2world[0, 0], grid.vox2world[:3, 3]
        start = np.ceil((self.low_mm - beyond - first) / size).clip(0).astype(int)
        stop = np.floor((self.high_mm + beyond - first) / size + 1).clip(0).astype(int)
        part = mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        return np.count_nonzero(part) / np.count_nonzero(mask)


def find_bright(scan: Scan, config: BrightnessConfig = BrightnessConfig()) -> Bright:
    """The largest bright part of a scan at the locator's voxel size, without specks."""
    image = scan.array
    darkest, middle = float(image.min()), float(np.median(image))
    noise = middle + config.deviations * MAD * float(np.median(np.abs(image - middle)))
    without_specks, first = image, None
    while True:
        rank = min(config.brightest_voxels, 1 + image.size // 200)
        brightest = float(np.partition(without_specks, image.size - rank, axis=None)[image.size - rank])
        level = darkest + config.bright * (brightest - darkest)
        if noise < darkest + config.air * (brightest - darkest):
            level = max(level, noise)
        bright = without_specks >= level
        part = largest_component(bright)
        box = bounding_box(part)
        assert box is not None, "the brightest voxel reaches the level"
        low, high = scan.grid.part(box).bounds_mm()
        size = np.count_nonzero(part)
        latest = Bright(low, high, size / np.count_nonzero(bright), darkest, brightest)
        first = first or latest
        if size >= config.speck_voxels:
            return latest
        if level <= middle or level >= brightest:
            return first  # all that is bright is small
        without_specks = np.where(bright, np.float32(darkest), without_specks)
