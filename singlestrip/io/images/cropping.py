"""Crops images: each voxel of the part lies where it did, by the header too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...space.grid import Box, voxel_sizes
from .header import Fault
from .image import Volume
from .mgh_header import MGH_DEFAULT_AXES
from .nifti_header import qform_vox2world, sform_vox2world

SCANNER = 1  # code of a geometry in NIfTI: that of the scanner
SLICE_TIMING = ("slice_start", "slice_end", "slice_code")  # fields of NIfTI that count slices of the whole image


def crop(volume: Volume, box: Box) -> Volume:
    """The part of an image within a box [3] of its grid, in all frames."""
    grid = volume.grid.part(box)
    fields = volume.fields.copy()
    if volume.is_mgh:
        _place_mgh(fields, grid.vox2world, grid.shape)
    else:
        _place_nifti(fields, volume.vox2world, [s.start for s in box])
    return replace(
        volume,
        fields=fields,
        shape=(*grid.shape, *volume.shape[3:]),
        vox2world=grid.vox2world,
        stored=volume.stored[tuple(box)],
    )


def _place_nifti(fields: np.ndarray, vox2world: np.ndarray, start: list[int]) -> None:
    """Move the geometry in the fields of a NIfTI header to a voxel, and drop what counts slices.

    vox2world: 4×4 in mm, of the whole image. An image whose header has no geometry gets a sform. A damaged qform
    beside a sform loses its code, since it cannot be moved.
    """
    for name in SLICE_TIMING:
        fields[name] = 0
    if fields["sform_code"] <= 0 and fields["qform_code"] <= 0:
        fields["sform_code"] = SCANNER
        edge = abs(float(fields["pixdim"][1])) or 1.0  # in the header's unit of length
        sform = vox2world[:3] * edge / voxel_sizes(vox2world)[0]
        fields["srow_x"], fields["srow_y"], fields["srow_z"] = sform
    at_start = [*start, 1]
    if fields["qform_code"] > 0:
        try:
            offset = qform_vox2world(fields) @ at_start
        except Fault:
            fields["qform_code"] = 0
        else:
            fields["qoffset_x"], fields["qoffset_y"], fields["qoffset_z"] = offset[:3]
    if fields["sform_code"] > 0:
        for name, value in zip(("srow_x", "srow_y", "srow_z"), sform_vox2world(fields) @ at_start, strict=False):
            fields[name][3] = value


def _place_mgh(fields: np.ndarray, vox2world: np.ndarray, shape: tuple[int, ...]) -> None:
    """Put the middle in the fields of an MGH header, of an image of this shape [3], where vox2world has it."""
    if fields["goodRASFlag"] <= 0:
        fields["goodRASFlag"], fields["delta"], fields["Mdc"] = 1, 1, MGH_DEFAULT_AXES.T
    fields["Pxyz_c"] = vox2world[:3] @ [*(n / 2 for n in shape), 1]
