"""The header of NIfTI-1 and NIfTI-2, of single files and of .img/.hdr pairs.

Fields are read as the standard defines them and are not repaired: the header is written as it came. An unusual but
unambiguous header is read as the standard's own readers read it, and a remark says so.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from nibabel.quaternions import quat2mat
from nibabel.volumeutils import shape_zoom_affine

from ...space.grid import geometry_fault
from .format import (
    MOST_BESIDE_BYTES,
    NIFTI1_FIELDS,
    NIFTI2_FIELDS,
    ByteOrder,
    describe_content,
    has_nifti1_magic,
    header_sizes,
    open_stream,
)
from .header import Fault, ImageHeader
from .names import suffix_of
from .stream import ImageStream

NIFTI2_LINE_ENDS = b"\r\n\x1a\n"
FLAG_BYTES = 4  # they follow the fields; the first is not 0 if extensions follow
LEAST_EXTENSION_BYTES = 8  # its size and its code
CIFTI_INTENTS = range(3000, 3100)
XFORM_CODES = range(1, 6)  # the codes of a sform or qform that the standard lists
UNIT_MM = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}  # by the lowest three bits of xyzt_units; 0 is unknown
UNIT_NAMES = {1: "metre", 3: "micron"}
LONGEST_QUATERNION = 1.01  # rounding makes a unit quaternion a little longer than 1


def read_nifti_header(path: Path, stream: ImageStream) -> ImageHeader:
    """The header at the beginning of a NIfTI file's content; of a pair, of the .hdr. Raises Fault."""
    remarks: list[str] = []
    fields = _nifti_fields(stream)
    shape, dtype = _nifti_shape(fields, remarks), _nifti_type(fields)
    if suffix_of(path) in (".img", ".hdr"):
        offset, extensions = _start_in_pair(stream, fields, remarks)
    else:
        offset, extensions = _start_in_single_file(path, stream, fields, prod(shape) * dtype.itemsize, remarks)
    scaling = _nifti_scaling(fields, remarks)
    vox2world = _nifti_geometry(fields, shape, remarks)
    return ImageHeader(path, fields, extensions, shape, dtype, offset, *scaling, vox2world, tuple(remarks))


def _start_in_pair(stream: ImageStream, fields: np.ndarray, remarks: list[str]) -> tuple[int, bytes]:
    """The number of bytes before the voxels in the .img, and the bytes after the fields in the .hdr, `stream`."""
    flag = stream.read(FLAG_BYTES)
    if _has_extensions(flag):
        return int(_stated_offset(fields)), _intact_extensions(
            flag + stream.read(MOST_BESIDE_BYTES), fields, remarks
        )
    behind = stream.most_bytes - fields.dtype.itemsize - len(flag)
    if behind > 0:
        remarks.append(f"{behind} bytes follow its header, are no extensions and are left out of what is written")
    return int(_stated_offset(fields)), flag


def _start_in_single_file(
    path: Path, stream: ImageStream, fields: np.ndarray, nbytes: int, remarks: list[str]
) -> tuple[int, bytes]:
    """The number of bytes before the voxels, and the bytes between fields and voxels.

    nbytes: bytes of all voxels.
    """
    stated, least = _stated_offset(fields), fields.dtype.itemsize + FLAG_BYTES
    flag = stream.read(FLAG_BYTES)
    if stated >= least:
        if stated - least > MOST_BESIDE_BYTES:
            raise Fault(f"its voxel data are said to begin at byte {stated:g} (vox_offset); its header is damaged")
        return int(stated), _intact_extensions(flag + stream.read(int(stated) - least), fields, remarks)
    # If the voxels are the last bytes of the file, the extensions end where they begin.
    extensions = flag
    if _has_extensions(flag):
        with open_stream(path) as from_start:
            between = from_start.length(least + nbytes + MOST_BESIDE_BYTES) - least - nbytes
        extensions += stream.read(max(between, 0))
        if not _is_chain(extensions, fields):
            extensions = bytes(FLAG_BYTES)
    offset = fields.dtype.itemsize + len(extensions.ljust(FLAG_BYTES, b"\0"))
    where = ", behind its extensions," if offset > least else ""
    remarks.append(
        f"its voxel data are said to begin at byte {stated:g}, within the header (vox_offset); "
        f"byte {offset}{where} is taken"
    )
    return offset, extensions


def _nifti_fields(stream: ImageStream) -> np.ndarray:
    """The fields, in the byte order in which the header's size, or else the number of axes, is right."""
    head = stream.read(NIFTI1_FIELDS.itemsize)
    if len(head) < NIFTI1_FIELDS.itemsize:
        raise Fault(
            describe_content(head, stream.packed) or "not an image, or cut short: it ends within its header"
        )
    sizes = header_sizes(head)
    if has_nifti1_magic(head):
        layout = NIFTI1_FIELDS
    elif NIFTI2_FIELDS.itemsize in sizes:
        layout = NIFTI2_FIELDS
        head += stream.read(layout.itemsize - len(head))
        if len(head) < layout.itemsize:
            raise Fault("not an image, or cut short: it ends within its header")
    elif NIFTI1_FIELDS.itemsize in sizes:
        raise Fault("an Analyze file, or a damaged NIfTI one, is not supported; convert it to NIfTI or MGZ")
    else:
        content = describe_content(head, stream.packed)
        raise Fault(content or "not an image, or damaged: its first bytes are no NIfTI header")
    if layout is NIFTI2_FIELDS and head[8:12] not in (NIFTI2_LINE_ENDS, bytes(4)):
        raise Fault("damaged: line ends in it were changed, as when it is sent as text (eol_check)")
    layouts = (layout.newbyteorder("<"), layout.newbyteorder(">"))
    readings: list[np.ndarray] = [np.frombuffer(head, ordered).reshape(()) for ordered in layouts]
    for fields in readings:
        if fields["sizeof_hdr"] == layout.itemsize:
            return fields
    return next((fields for fields in readings if 1 <= fields["dim"][0] <= 7), readings[0])


def _nifti_shape(fields: np.ndarray, remarks: list[str]) -> tuple[int, ...]:
    """The sizes of the axes, 2 to 7 of them."""
    if fields.dtype.itemsize == NIFTI2_FIELDS.itemsize and int(fields["intent_code"]) in CIFTI_INTENTS:
        raise Fault("CIFTI is not supported; name a volume in NIfTI or MGZ")
    axes, *sizes = (int(size) for size in fields["dim"])
    if not 2 <= axes <= 7:
        raise Fault(f"its header is damaged: an image has 2 to 7 axes, not {axes}")
    if 0 in sizes[3:axes]:
        remarks.append("an axis after the third is said to have no element and counts as 1")
        sizes[3:axes] = [size or 1 for size in sizes[3:axes]]
    shape = tuple(sizes[:axes])
    if min(shape) < 1:
        raise Fault(f"no voxels in an image of {' × '.join(map(str, shape))}; its header is damaged")
    return shape


def _stated_offset(fields: np.ndarray) -> float:
    """The number of bytes before the voxels that the header states."""
    stated = float(fields["vox_offset"])
    if not np.isfinite(stated) or stated < 0:
        raise Fault(f"its header is damaged: the voxel data cannot begin at byte {stated:g} (vox_offset)")
    return abs(stated)  # it may be -0


def _has_extensions(flag: bytes) -> bool:
    """Whether the bytes after the fields announce extensions."""
    return flag[:1] not in (b"", b"\0")


def _intact_extensions(raw: bytes, fields: np.ndarray, remarks: list[str]) -> bytes:
    """The bytes after the fields; if extensions in them are damaged, four zeros, which stand for none."""
    if not _has_extensions(raw) or _is_chain(raw, fields):
        return raw
    if len(raw) > FLAG_BYTES:
        remarks.append("the extensions of its header are damaged and left out of what is written")
    return bytes(FLAG_BYTES)


def _is_chain(raw: bytes, fields: np.ndarray) -> bool:
    """Whether the flag is followed by one or more intact extensions and by nothing else."""
    order: ByteOrder = "big" if byte_order(fields) == ">" else "little"
    at = FLAG_BYTES
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], order, signed=True)
        if size < LEAST_EXTENSION_BYTES:
            return False
        at += size
    return FLAG_BYTES < len(raw) == at


def byte_order(fields: np.ndarray) -> Literal["<", ">"]:
    """The byte order of a header's numbers, as numpy writes it."""
    return ">" if fields.dtype["dim"].base.str[0] == ">" else "<"


def _nifti_type(fields: np.ndarray) -> np.dtype:
    """The type of the stored values, in the header's byte order."""
    code = int(fields["datatype"])
    try:
        dtype, name = (getattr(nib.nifti1.data_type_codes, column)[code] for column in ("dtype", "label"))
    except KeyError as error:
        raise Fault(f"its header is damaged: there is no data type {code}") from error
    if dtype.itemsize == 0:
        raise Fault(f"voxels of type {name} are not supported; convert them to float32")
    if dtype.kind not in "iuf":
        raise Fault(f"voxels of type {name} are not real numbers")
    return dtype.newbyteorder(byte_order(fields))


def _nifti_scaling(fields: np.ndarray, remarks: list[str]) -> tuple[float, float]:
    """Slope and intercept. A slope of 0, or one that is not finite, stands for no scaling."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or (np.isnan(slope) and np.isnan(intercept)):
        return 1.0, 0.0
    if not np.isfinite(slope):
        remarks.append(f"its scaling is not finite (scl_slope {slope:g}) and counts as none")
        return 1.0, 0.0
    if not np.isfinite(intercept):
        raise Fault(f"its scaling is not finite (scl_inter {intercept:g}); repair the header")
    return slope, intercept


def _nifti_geometry(fields: np.ndarray, shape: tuple[int, ...], remarks: list[str]) -> np.ndarray:
    """vox2world in mm: the sform if it has a code, else the qform if it has one, else the voxel sizes alone."""
    codes = {name: int(fields[f"{name}_code"]) for name in ("sform", "qform")}
    name = next((name for name, code in codes.items() if code > 0), None)
    if name is None:
        remarks.append("neither the sform nor the qform of its header has a code: the orientation is a guess")
    elif codes[name] not in XFORM_CODES:
        remarks.append(f"its {name} has the unknown code {codes[name]}, and is taken")
    if name == "sform":
        given = sform_vox2world(fields)
    elif name == "qform":
        given = qform_vox2world(fields)
    else:
        axes = min(len(shape), 3)
        given = shape_zoom_affine(shape[:axes], _voxel_edges(fields)[:axes], x_flip=True)
    return _in_mm(given, int(fields["xyzt_units"]) % 8, remarks)


def sform_vox2world(fields: np.ndarray) -> np.ndarray:
    """The sform, 4×4, in the header's unit of length."""
    return np.vstack([fields["srow_x"], fields["srow_y"], fields["srow_z"], (0, 0, 0, 1)]).astype(float)


def _voxel_edges(fields: np.ndarray) -> np.ndarray:
    """Voxel sizes [3] in the header's unit of length, without sign; a size of 0 counts as 1."""
    edges = np.abs(fields["pixdim"][1:4])
    return np.where(edges == 0, np.ones_like(edges), edges)


def qform_vox2world(fields: np.ndarray) -> np.ndarray:
    """The qform, 4×4, in the header's unit of length, from quaternion, voxel sizes and offsets."""
    xyz = np.array([fields["quatern_b"], fields["quatern_c"], fields["quatern_d"]])
    precision = 3 * np.finfo(xyz.dtype).eps
    xyz = xyz.astype(np.longdouble)
    square = xyz @ xyz
    if not np.isfinite(square):
        raise Fault("the qform is invalid: its quaternion is not finite; repair the header or give it an sform")
    if square > LONGEST_QUATERNION**2:
        raise Fault(
            f"the qform is invalid: its quaternion has a length of {float(square) ** 0.5:.4g}, over 1; "
            "repair the header or give it an sform"
        )
    rest = 1 - square
    rotation = quat2mat(np.r_[np.sqrt(rest) if rest >= precision else 0, xyz])
    edges = _voxel_edges(fields)
    if fields["pixdim"][0] < 0:
        edges[2] *= -1
    vox2world = np.eye(4)
    vox2world[:3, :3] = np.dot(rotation, np.diag(edges))
    vox2world[:3, 3] = fields["qoffset_x"], fields["qoffset_y"], fields["qoffset_z"]
    return vox2world


def _in_mm(given: np.ndarray, unit: int, remarks: list[str]) -> np.ndarray:
    """Convert a matrix from one of NIfTI's units of length to mm, unless only mm give a possible head."""
    if unit not in UNIT_MM:
        remarks.append(f"its unit of length has the unknown code {unit}; mm are taken")
    vox2world = given.copy()
    vox2world[:3] *= UNIT_MM.get(unit, 1.0)
    if unit in UNIT_NAMES and geometry_fault(vox2world) and not geometry_fault(given):
        remarks.append(f"its unit of length, {UNIT_NAMES[unit]}, does not fit its voxel sizes; mm are taken")
        return given
    return vox2world
