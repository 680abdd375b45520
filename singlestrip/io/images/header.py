"""What the header of an image file says, and how the file's name tells its format: NIfTI, MGH and MGZ."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from ...space.grid import Grid

SUFFIXES = (".nii.gz", ".nii", ".img", ".hdr", ".mgz", ".mgh")


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


def suffix_of(path: Path) -> str:
    """The image suffix of a path, in lower case; "" if it has none of those supported."""
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")


def is_mgh(path: Path) -> bool:
    """Whether a path has a suffix of MGH or MGZ."""
    return suffix_of(path) in (".mgh", ".mgz")


def is_packed(path: Path) -> bool:
    """Whether a path has the suffix of a format that is compressed with gzip."""
    return suffix_of(path) in (".nii.gz", ".mgz")


def header_and_data(path: Path) -> tuple[Path, Path]:
    """The files that hold an image's header and its voxels: two of an .img/.hdr pair, otherwise the same."""
    if suffix_of(path) not in (".img", ".hdr"):
        return path, path
    change_case = str.upper if path.suffix.isupper() else str
    return path.with_suffix(change_case(".hdr")), path.with_suffix(change_case(".img"))
