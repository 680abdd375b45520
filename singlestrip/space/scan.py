"""One image in space: stored values, where they lie, and how they are scaled. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .grid import Box, Grid
from .scaling import scaled_float32


@dataclass(frozen=True, eq=False)
class Scan:
    """One 3-D image.

    array: [X, Y, Z] of any real type, as stored; vox2world: 4×4, voxel index to RAS mm; a value is
    slope · stored + intercept. A mask is a scan too, of booleans.
    """

    array: np.ndarray
    vox2world: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def grid(self) -> Grid:
        return Grid(self.array.shape, self.vox2world)

    def values(self) -> np.ndarray:
        """Scaled values, float32 [X, Y, Z]. Raises InputError where 32 bits cannot hold them."""
        return scaled_float32(self.array, self.slope, self.intercept)

    def part(self, box: Box) -> Scan:
        """The part within a box."""
        return replace(self, array=self.array[box], vox2world=self.grid.part(box).vox2world)
