"""The header of MGH and MGZ files, FreeSurfer's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nibabel.freesurfer import mghformat

from .format import describe_content
from .header import Fault, ImageHeader
from .stream import ImageStream

MGH_TYPES = (np.uint8, np.int16, np.int32, np.float32)  # every version of FreeSurfer reads these
MGH_TYPE_CODES: Any = mghformat.data_type_codes
MGH_FIELDS = np.dtype([*mghformat.header_dtd, ("unused", "V194")])
# FreeSurfer's geometry of a header without one: coronal slices, voxels of 1 mm, the middle at the origin.
MGH_DEFAULT_AXES = np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def read_mgh_header(path: Path, stream: ImageStream) -> ImageHeader:
    """The header at the beginning of an MGH file's content. Raises Fault."""
    remarks: tuple[str, ...] = ()
    head = stream.read(MGH_FIELDS.itemsize)
    if len(head) < MGH_FIELDS.itemsize:
        raise Fault(
            describe_content(head, stream.packed) or "not an image, or cut short: it ends within its header"
        )
    fields: np.ndarray = np.frombuffer(head, MGH_FIELDS).reshape(())
    if fields["version"] != 1:
        raise Fault(
            describe_content(head, stream.packed) or "not an image, or damaged: its first bytes are no MGH header"
        )
    shape = tuple(int(size) for size in fields["dims"])
    if min(shape) < 1:
        raise Fault(f"no voxels in an image of {' × '.join(map(str, shape))}; its header is damaged")
    code = int(fields["type"])
    if code not in MGH_TYPE_CODES.code:
        raise Fault(f"voxels of MGH's type {code} are not supported")
    dtype: np.dtype = MGH_TYPE_CODES.numpy_dtype[code]
    if fields["goodRASFlag"] <= 0:
        remarks = (
            f"its header has no geometry (goodRASFlag is {fields['goodRASFlag']}): FreeSurfer's default is taken, "
            "coronal slices and voxels of 1 mm; the orientation is a guess",
        )
    vox2world = mgh_vox2world(fields)
    shape = shape if shape[3] > 1 else shape[:3]
    return ImageHeader(path, fields, b"", shape, dtype, MGH_FIELDS.itemsize, 1.0, 0.0, vox2world, remarks)


def mgh_vox2world(fields: np.ndarray) -> np.ndarray:
    """vox2world, 4×4. An MGH header gives directions, voxel sizes and the position of the middle."""
    axes, middle = MGH_DEFAULT_AXES, np.zeros(3)
    if fields["goodRASFlag"] > 0:
        axes, middle = fields["Mdc"].T * fields["delta"], fields["Pxyz_c"]
    vox2world = np.eye(4)
    vox2world[:3, :3] = axes
    vox2world[:3, 3] = middle - axes.dot(fields["dims"][:3]) / 2
    return vox2world
