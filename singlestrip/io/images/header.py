"""What the header of an image file says, of NIfTI, MGH and MGZ."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from ...space.grid import Grid
from .names import is_mgh


class Fault(Exception):
    """What is wrong with a header, as a clause that follows the file's name."""


@dataclass(frozen=True)
class ImageHeader:
    """An image file as its header describes it.

    fields: 0-D structured array of the format's fields, each as it stands in the file.
    extensions: bytes between a NIfTI header's end and the voxels.
    shape: the file's own, of 2 to 7 axes.
    dtype: type of the stored values, in the file's byte order.
    offset: bytes before the voxels.
    slope, intercept: value = slope · stored + intercept.
    vox2world: 4×4, voxel index to RAS mm.
    remarks: sentences about what was assumed.
    """

    path: Path
    fields: np.ndarray
    extensions: bytes
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    vox2world: np.ndarray
    remarks: tuple[str, ...]

    @property
    def space(self) -> tuple[int, int, int]:
        """The first three axes; a single slice has one voxel along the third."""
        x, y, z = (*self.shape[:3], 1)[:3]
        return x, y, z

    @property
    def grid(self) -> Grid:
        """Where the voxels of a frame lie."""
        return Grid(self.space, self.vox2world)

    @property
    def frames(self) -> int:
        """Number of volumes: the product of the axes after the third."""
        return prod(self.shape[3:])

    @property
    def nbytes(self) -> int:
        """Bytes of all stored values."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def is_mgh(self) -> bool:
        """Whether the file is MGH or MGZ."""
        return is_mgh(self.path)
