"""Reads and writes image files; other rooms do so through this module alone.

Voxel values stay as stored, in their own type. They are scaled only where numbers are needed, so that an image can
be written again with all voxels, scaling and header unchanged.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...space.grid import corners_apart
from ...space.scaling import finite_range
from . import memory_need
from .cropping import crop
from .format import MOST_BESIDE_BYTES, open_stream
from .header import ImageHeader
from .header_reading import faults_named, read_header
from .image import Volume
from .names import (
    SUFFIXES,
    check_named_once,
    check_output,
    distinct_names,
    merge_pairs,
    suffix_of,
    voxel_file,
    without_repeats,
)
from .stream import ImageStream
from .writing import check_grid_fits, check_values_fit, write_frames, write_labels, write_like

__all__ = [
    "SUFFIXES",
    "Volume",
    "check_grid_fits",
    "check_named_once",
    "check_output",
    "check_values_fit",
    "crop",
    "distinct_names",
    "finite_range",
    "has_one_frame",
    "is_complete",
    "merge_pairs",
    "read",
    "read_header",
    "read_quietly",
    "read_single",
    "suffix_of",
    "voxel_file",
    "without_repeats",
    "write_frames",
    "write_labels",
    "write_like",
]

log = logging.getLogger(__name__)
GRID_TOLERANCE_MM = 1e-2  # how far corners of equal grids may lie apart, since headers are rounded


def read(path: str | os.PathLike[str]) -> Volume:
    """Read NIfTI-1, NIfTI-2 (single file or pair), MGH or MGZ.

    If a file is unusual, `remarks` say what was assumed and each is logged as a warning that names the file.
    Raises InputError unless the file is a complete image of real numbers with a usable geometry, and if it is
    larger than the free memory.
    """
    image = read_quietly(path)
    for remark in image.remarks:
        log.warning("%s: %s", image.path, remark)
    return image


def read_quietly(path: str | os.PathLike[str]) -> Volume:
    """Read an image as `read` does, without logging its remarks."""
    header = read_header(path)
    memory_need.check_reading(header)
    data_path = voxel_file(header.path)
    with faults_named(data_path, "voxel"), open_stream(data_path) as stream:
        stream.skip(header.offset)
        stored = _read_voxels(stream, header)
        behind = stream.rest(MOST_BESIDE_BYTES)
        more = len(behind) == MOST_BESIDE_BYTES
    remarks = list(header.remarks)
    if more:
        remarks.append(f"{MOST_BESIDE_BYTES >> 20} MiB or more follow its voxels and are ignored")
    elif behind and not header.is_mgh:
        remarks.append(f"{len(behind)} bytes follow its voxels and are ignored")
    if stream.stray:
        remarks.append("bytes that are not gzip data, or are damaged, follow the compressed image and are ignored")
    fields = vars(header) | {"remarks": tuple(remarks)}
    return Volume(**fields, stored=stored, footer=behind if header.is_mgh and not more else b"")


def _read_voxels(stream: ImageStream, header: ImageHeader) -> np.ndarray:
    """Values as stored, [X, Y, Z, T], read-only, in the byte order of this machine.

    Several axes after the third become one, in the file's order.
    """
    raw = np.empty(header.nbytes, np.uint8)
    filled = stream.fill(raw)
    if filled < raw.size:
        raise EOFError(f"{filled} bytes of voxels; by the header there are {raw.size}")
    values = raw.view(header.dtype)
    if not values.dtype.isnative:  # once here, and not at each use
        values = values.byteswap(inplace=True).view(values.dtype.newbyteorder("="))
    values.setflags(write=False)
    return values.reshape((*header.space, -1), order="F")


def has_one_frame(path: Path) -> bool:
    """Whether an image has one frame; False if its header cannot be read."""
    try:
        return read_header(path).frames == 1
    except InputError:
        return False


def read_single(path: str | os.PathLike[str]) -> Volume:
    """Read an image of one frame, as `read` does. Raises InputError if it has more."""
    volume = read(path)
    if volume.frames > 1:
        raise InputError(f"{path}: has {volume.frames} frames; give one")
    return volume


def is_complete(path: Path, image: Path | None = None, may_be_cropped: bool = False) -> bool:
    """Whether an image file exists and has all its voxels; reads it to the end.

    image: if given, the file must also lie on the grid of this image, except for the rounding of headers.
    may_be_cropped: a part of that grid will do.
    """
    try:
        read_image = read_quietly(path)
        if image is None:
            return True
        other = read_header(image)
    except InputError:
        return False
    grid = other.grid
    if may_be_cropped:
        start = np.rint(grid.index_of(read_image.grid)[:3, 3]).astype(int)
        stop = start + read_image.space
        if (start < 0).any() or (stop > grid.shape).any():
            return False
        grid = grid.part(tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True)))
    return read_image.space == grid.shape and corners_apart(read_image.grid, grid)[0] < GRID_TOLERANCE_MM
