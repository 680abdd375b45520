"""One image in space: stored values, where they lie, and how they are scaled. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
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
        """Number of voxels along each axis."""
        return self.array.shape

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return Grid(self.array.shape, self.vox2world)

    def values(self) -> np.ndarray:
        """Scaled values, float32 [X, Y, Z]. Raises InputError if 32 bits cannot hold them."""
        return scaled_float32(self.array, self.slope, self.intercept)

    def part(self, box: Box) -> Scan:
        """The part within a box."""
        return replace(self, array=self.array[box], vox2world=self.grid.part(box).vox2world)


def as_scan(
    image: Scan | np.ndarray, vox2world: np.ndarray | None, slope: float = 1.0, intercept: float = 0.0
) -> Scan:
    """A scan as it is, or an array [X, Y, Z] with its vox2world and scaling as a scan.

    Raises InputError for an array without vox2world.
    """
    if isinstance(image, Scan):
        return image
    if vox2world is None:
        raise InputError("an array needs its vox2world, the 4×4 map from voxel index to RAS mm")
    return Scan(image, np.asarray(vox2world, dtype=float), slope, intercept)
