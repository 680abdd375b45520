"""What the header of an image file says: NIfTI-1, NIfTI-2 (single file or pair), MGH and MGZ.

Fields are read by the standards, not repaired: the header goes back out as it came. What is unusual and
nevertheless clear is taken as the standard's own readers take it, and said in a remark.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.freesurfer import mghformat
from nibabel.quaternions import quat2mat
from nibabel.volumeutils import shape_zoom_affine

from ..errors import InputError
from ..space.grid import geometry_fault
from .image_stream import GZIP_MAGIC, PACKING_BYTES, PLACEHOLDERS, ImageStream, check_is_file, packing_of

SUFFIXES = (".nii.gz", ".nii", ".img", ".hdr", ".mgz", ".mgh")
PACKED_SUFFIX = {".nii": ".nii.gz", ".mgh": ".mgz"}
MOST_BESIDE_BYTES = 2**24  # of what is neither header nor voxels: header extensions, what follows the voxels

NIFTI1_FIELDS, NIFTI2_FIELDS = nib.nifti1.header_dtype, nib.nifti2.header_dtype
MGH_TYPES = (np.uint8, np.int16, np.int32, np.float32)  # that every version of FreeSurfer reads
MGH_FIELDS = np.dtype([*mghformat.header_dtd, ("unused", "V194")])
NIFTI_MAGIC = {NIFTI1_FIELDS.itemsize: (b"n+1", b"ni1"), NIFTI2_FIELDS.itemsize: (b"n+2", b"ni2")}
MGH_START = b"\0\0\0\1"  # the version of the format
FORMAT_NAMES = {".nii": "a NIfTI image", ".mgh": "an MGH image"}
NIFTI2_LINE_ENDS = b"\r\n\x1a\n"
FLAG_BYTES = 4  # behind the fields of NIfTI; the first is not 0 where extensions follow
LEAST_EXTENSION_BYTES = 8  # its size and its code
CIFTI_INTENTS = range(3000, 3100)
XFORM_CODES = range(1, 6)  # of a sform or qform, as the standard lists them
UNIT_MM = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}  # by the lowest three bits of xyzt_units; 0: unknown
UNIT_NAMES = {1: "metre", 3: "micron"}
LONGEST_QUATERNION = 1.01  # rounding makes a unit quaternion a little longer than 1
# FreeSurfer's, where a header has none: coronal slices, voxels of 1 mm, the middle at the origin.
MGH_DEFAULT_AXES = np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


class Fault(Exception):
    """What is wrong with a header, as a clause."""


@dataclass(frozen=True)
class ImageHeader:
    """An image file as its header tells of it.

    fields: 0-D structured array of the format's fields, each as in the file; extensions: of NIfTI, the bytes
    from the header's end to the voxels. shape: the file's own, of 2 to 7 axes; dtype: of the
    stored values, in the file's byte order; offset: bytes before the voxels. slope, intercept: value = slope ·
    stored + intercept; vox2world: 4×4, voxel index to RAS mm. remarks: sentences about what was assumed.
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
        return (*self.shape[:3], 1)[:3]

    @property
    def frames(self) -> int:
        return prod(self.shape[3:])

    @property
    def nbytes(self) -> int:
        """Of all stored values."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def is_mgh(self) -> bool:
        return is_mgh(self.path)


def suffix_of(path: Path) -> str:
    """The image suffix of a path, or "" if it has none of those supported."""
    return next((s for s in SUFFIXES if path.name.lower().endswith(s)), "")


def is_mgh(path: Path) -> bool:
    return suffix_of(path) in (".mgh", ".mgz")


def is_packed(path: Path) -> bool:
    return suffix_of(path) in (".nii.gz", ".mgz")


def header_and_data(path: Path) -> tuple[Path, Path]:
    """The files that hold header and voxels: one and the same but for an .img/.hdr pair."""
    if suffix_of(path) not in (".img", ".hdr"):
        return path, path
    cased = str.upper if path.suffix.isupper() else str
    return path.with_suffix(cased(".hdr")), path.with_suffix(cased(".img"))


@contextmanager
def faults_named(path: Path, part: str) -> Iterator[None]:
    """Whatever can be wrong with a file while a part of it is read, as an InputError that names it."""
    try:
        yield
    except Fault as error:
        raise InputError(f"{path}: {error}") from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: the {part} data are damaged or cut short ({error})") from error
    except MemoryError as error:
        raise InputError(f"{path}: larger than the memory, or its header is damaged") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_header(path: str | os.PathLike) -> ImageHeader:
    """The header of an image file; nothing of its voxels is read, but they can be there by the files' sizes.

    Raises InputError for anything that is not an image of real numbers with a usable geometry.
    """
    path = Path(path)
    check_is_file(path)
    if not suffix_of(path):
        raise InputError(f"{path}: not a name of an image ({', '.join(SUFFIXES)})")
    header_path, data_path = header_and_data(path)
    for part in {header_path, data_path} - {path}:
        check_is_file(part)
    # Where numbers of a damaged header overflow, `geometry_fault` tells.
    with faults_named(header_path, "header"), np.errstate(all="ignore"):
        with open_stream(header_path) as stream:
            header = _mgh_header(path, stream) if is_mgh(path) else _nifti_header(path, stream)
            most_bytes = stream.most_bytes
        fault = geometry_fault(header.vox2world)
        if fault:
            raise Fault(fault)
    if data_path != header_path:
        most_bytes = data_path.stat().st_size
    if header.offset + header.nbytes > most_bytes:
        with faults_named(data_path, "voxel"), data_path.open("rb") as file:
            start = file.read(PACKING_BYTES)
        packing = "" if is_packed(data_path) else packing_of(start)
        if packing:
            raise InputError(f"{data_path}: compressed with {packing}; unpack it")
        axes = " × ".join(map(str, header.shape))
        raise InputError(
            f"{data_path}: cut short, or its header is damaged: it tells of {axes} voxels of {header.dtype.name} "
            f"from byte {header.offset} on, more than the file can hold"
        )
    return header


def open_stream(path: Path) -> ImageStream:
    """The content of a file that is packed or not as its name says. Raises Fault if it is not so."""
    with path.open("rb") as file:
        head = file.read(NIFTI1_FIELDS.itemsize)
    if not head:
        raise Fault("an empty file")
    for start, text in PLACEHOLDERS:
        if head.startswith(start):
            raise Fault(text)
    compressed = head.startswith(GZIP_MAGIC)
    if compressed and suffix_of(path) in (".nii", ".mgh", ".hdr"):
        raise Fault(_compressed_inside(path))
    if is_packed(path) and not compressed:
        raise Fault(_strange(head) or "not an image, or damaged: what it holds is of no known format")
    return ImageStream(path, compressed and is_packed(path))


def _compressed_inside(path: Path) -> str:
    """What to do with a compressed file whose name says that it is not, as a clause."""
    try:
        with ImageStream(path, packed=True) as stream:
            suffix = _suffix_by_content(stream.read(NIFTI1_FIELDS.itemsize))
    except (EOFError, zlib.error):
        suffix = ""
    if suffix and suffix_of(path) != ".hdr":
        return f"compressed inside; rename it to end in {PACKED_SUFFIX[suffix]}"
    return "compressed inside; unpack it with gunzip"


def _strange(head: bytes, unpacked: bool = False) -> str:
    """What a content is that is not of the format of its name, and what to do, as a clause; "" if unknown.

    head: its first bytes; unpacked: whether gzip data were unpacked to get them.
    """
    packing = packing_of(head)
    if packing and unpacked:
        both = "" if packing == "gzip" else f"{packing} and then with "
        return f"compressed twice, with {both}gzip; unpack it once"
    if packing:
        return f"compressed with {packing}, which is not read here; unpack it, and compress it with gzip if at all"
    suffix = _suffix_by_content(head)
    if suffix and unpacked:
        return f"holds {FORMAT_NAMES[suffix]}; rename it to end in {PACKED_SUFFIX[suffix]}"
    return f"holds {FORMAT_NAMES[suffix]}, not compressed: rename it to end in {suffix}" if suffix else ""


def _suffix_by_content(head: bytes) -> str:
    """The suffix of an image that is not compressed and begins so, or ""."""
    if head[344:347] in NIFTI_MAGIC[NIFTI1_FIELDS.itemsize] or not {*_sizes(head)}.isdisjoint(NIFTI_MAGIC):
        return ".nii"
    return ".mgh" if head.startswith(MGH_START) else ""


def _nifti_header(path: Path, stream: ImageStream) -> ImageHeader:
    remarks: list[str] = []
    fields = _nifti_fields(stream)
    shape, dtype = _nifti_shape(fields, remarks), _nifti_type(fields)
    if suffix_of(path) in (".img", ".hdr"):
        offset, extensions = _begin_of_pair(stream, fields, remarks)
    else:
        offset, extensions = _begin_of_single(path, stream, fields, prod(shape) * dtype.itemsize, remarks)
    scaling = _nifti_scaling(fields, remarks)
    vox2world = _nifti_geometry(fields, shape, remarks)
    return ImageHeader(path, fields, extensions, shape, dtype, offset, *scaling, vox2world, tuple(remarks))


def _begin_of_pair(stream: ImageStream, fields: np.ndarray, remarks: list[str]) -> tuple[int, bytes]:
    """Bytes before the voxels in the .img, and what follows the fields in the .hdr, of which `stream` is."""
    flag = stream.read(FLAG_BYTES)
    if _has_extensions(flag):
        return int(_said_offset(fields)), _whole_extensions(flag + stream.read(MOST_BESIDE_BYTES), fields, remarks)
    behind = stream.most_bytes - fields.dtype.itemsize - len(flag)
    if behind > 0:
        remarks.append(f"{behind} bytes follow its header, are no extensions and are left out of what is written")
    return int(_said_offset(fields)), flag


def _begin_of_single(
    path: Path, stream: ImageStream, fields: np.ndarray, nbytes: int, remarks: list[str]
) -> tuple[int, bytes]:
    """Bytes before the voxels, no fewer than the header takes, and those between its fields and the voxels."""
    said, least = _said_offset(fields), fields.dtype.itemsize + FLAG_BYTES
    flag = stream.read(FLAG_BYTES)
    if said >= least:
        if said - least > MOST_BESIDE_BYTES:
            raise Fault(f"its voxel data are said to begin at byte {said:g} (vox_offset); its header is damaged")
        return int(said), _whole_extensions(flag + stream.read(int(said) - least), fields, remarks)
    # The extensions end where the voxels begin, if these are the last of the file.
    extensions = flag
    if _has_extensions(flag):
        with open_stream(path) as atomic_write:
            between = atomic_write.length(least + nbytes + MOST_BESIDE_BYTES) - least - nbytes
        extensions += stream.read(max(between, 0))
        if not _is_chain(extensions, fields):
            extensions = bytes(FLAG_BYTES)
    offset = fields.dtype.itemsize + len(extensions.ljust(FLAG_BYTES, b"\0"))
    where = ", behind its extensions," if offset > least else ""
    remarks.append(
        f"its voxel data are said to begin at byte {said:g}, within the header (vox_offset); "
        f"byte {offset}{where} is taken"
    )
    return offset, extensions


def _nifti_fields(stream: ImageStream) -> np.ndarray:
    """The fields in the byte order that the size of the header or else the number of axes tells."""
    head = stream.read(NIFTI1_FIELDS.itemsize)
    if len(head) < NIFTI1_FIELDS.itemsize:
        raise Fault(_strange(head, stream.packed) or "not an image, or cut short: it ends within its header")
    sizes = _sizes(head)
    if head[344:347] in NIFTI_MAGIC[NIFTI1_FIELDS.itemsize]:
        layout = NIFTI1_FIELDS
    elif NIFTI2_FIELDS.itemsize in sizes:
        layout = NIFTI2_FIELDS
        head += stream.read(layout.itemsize - len(head))
        if len(head) < layout.itemsize:
            raise Fault("not an image, or cut short: it ends within its header")
    elif NIFTI1_FIELDS.itemsize in sizes:
        raise Fault("an Analyze file, or a damaged NIfTI one, is not supported; convert it to NIfTI or MGZ")
    else:
        strange = _strange(head, stream.packed)
        raise Fault(strange or "not an image, or damaged: its first bytes are no NIfTI header")
    if layout is NIFTI2_FIELDS and head[8:12] not in (NIFTI2_LINE_ENDS, bytes(4)):
        raise Fault("damaged: line ends in it were changed, as when it is sent as text (eol_check)")
    orders = [np.frombuffer(head, layout.newbyteorder(order)).reshape(()) for order in "<>"]
    for fields in orders:
        if fields["sizeof_hdr"] == layout.itemsize:
            return fields
    return next((fields for fields in orders if 1 <= fields["dim"][0] <= 7), orders[0])


def _sizes(head: bytes) -> list[int]:
    """The size of a NIfTI header by its first field, in either byte order."""
    return [int.from_bytes(head[:4], order, signed=True) for order in ("little", "big")]


def _nifti_shape(fields: np.ndarray, remarks: list[str]) -> tuple[int, ...]:
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


def _said_offset(fields: np.ndarray) -> float:
    """The bytes before the voxels of which the header tells."""
    said = float(fields["vox_offset"])
    if not np.isfinite(said) or said < 0:
        raise Fault(f"its header is damaged: the voxel data cannot begin at byte {said:g} (vox_offset)")
    return abs(said)  # there is a 0 with a minus


def _has_extensions(flag: bytes) -> bool:
    return flag[:1] not in (b"", b"\0")


def _whole_extensions(raw: bytes, fields: np.ndarray, remarks: list[str]) -> bytes:
    """Header extensions as in the file; the four zeros that say there are none, if they are damaged."""
    if not _has_extensions(raw) or _is_chain(raw, fields):
        return raw
    if len(raw) > FLAG_BYTES:
        remarks.append("the extensions of its header are damaged and left out of what is written")
    return bytes(FLAG_BYTES)


def _is_chain(raw: bytes, fields: np.ndarray) -> bool:
    """Whether whole extensions, one at least, follow the flag, and nothing else."""
    order = "big" if byte_order(fields) == ">" else "little"
    at = FLAG_BYTES
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], order, signed=True)
        if size < LEAST_EXTENSION_BYTES:
            return False
        at += size
    return FLAG_BYTES < len(raw) == at


def byte_order(fields: np.ndarray) -> str:
    """Of the numbers in a header: "<" or ">"."""
    return fields.dtype["dim"].base.str[0]


def _nifti_type(fields: np.ndarray) -> np.dtype:
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
    """Slope and intercept; a slope of 0 stands for no scaling, and so does one that is no number."""
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
    """vox2world in mm: of the sform if it has a code, else the qform, else the voxel sizes alone."""
    codes = {name: int(fields[f"{name}_code"]) for name in ("sform", "qform")}
    name = next((name for name, code in codes.items() if code > 0), None)
    if name is None:
        remarks.append("neither the sform nor the qform of its header has a code: the orientation is a guess")
    elif codes[name] not in XFORM_CODES:
        remarks.append(f"its {name} has the unknown code {codes[name]}, and is taken")
    if name == "sform":
        given = sform_vox2world(fields)
    elif name == "qform":
        given = _qform(fields)
    else:
        axes = min(len(shape), 3)
        given = shape_zoom_affine(shape[:axes], _voxel_edges(fields)[:axes], x_flip=True)
    return _in_mm(given, int(fields["xyzt_units"]) % 8, remarks)


def sform_vox2world(fields: np.ndarray) -> np.ndarray:
    """4×4 of the rows of the sform, in the header's unit."""
    return np.vstack([fields["srow_x"], fields["srow_y"], fields["srow_z"], (0, 0, 0, 1)]).astype(float)


def _voxel_edges(fields: np.ndarray) -> np.ndarray:
    """Voxel sizes [3] in the header's unit: without sign, and 1 where there is none."""
    edges = np.abs(fields["pixdim"][1:4])
    return np.where(edges == 0, np.ones_like(edges), edges)


def _qform(fields: np.ndarray) -> np.ndarray:
    """4×4 of quaternion, voxel sizes and offsets, in the header's unit."""
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
    """vox2world in mm of one in a unit of NIfTI's; in mm already where only so it can be of a head."""
    if unit not in UNIT_MM:
        remarks.append(f"its unit of length has the unknown code {unit}; mm are taken")
    vox2world = given.copy()
    vox2world[:3] *= UNIT_MM.get(unit, 1.0)
    if unit in UNIT_NAMES and geometry_fault(vox2world) and not geometry_fault(given):
        remarks.append(f"its unit of length, {UNIT_NAMES[unit]}, does not fit its voxel sizes; mm are taken")
        return given
    return vox2world


def _mgh_header(path: Path, stream: ImageStream) -> ImageHeader:
    remarks: tuple[str, ...] = ()
    head = stream.read(MGH_FIELDS.itemsize)
    if len(head) < MGH_FIELDS.itemsize:
        raise Fault(_strange(head, stream.packed) or "not an image, or cut short: it ends within its header")
    fields = np.frombuffer(head, MGH_FIELDS).reshape(())
    if fields["version"] != 1:
        raise Fault(_strange(head, stream.packed) or "not an image, or damaged: its first bytes are no MGH header")
    shape = tuple(int(size) for size in fields["dims"])
    if min(shape) < 1:
        raise Fault(f"no voxels in an image of {' × '.join(map(str, shape))}; its header is damaged")
    code = int(fields["type"])
    if code not in mghformat.data_type_codes.code:
        raise Fault(f"voxels of MGH's type {code} are not supported")
    dtype = mghformat.data_type_codes.numpy_dtype[code]
    if fields["goodRASFlag"] <= 0:
        remarks = (
            f"its header has no geometry (goodRASFlag is {fields['goodRASFlag']}): FreeSurfer's default is taken, "
            "coronal slices and voxels of 1 mm; the orientation is a guess",
        )
    vox2world = mgh_vox2world(fields)
    shape = shape if shape[3] > 1 else shape[:3]
    return ImageHeader(path, fields, b"", shape, dtype, MGH_FIELDS.itemsize, 1.0, 0.0, vox2world, remarks)


def mgh_vox2world(fields: np.ndarray) -> np.ndarray:
    """vox2world of an MGH header, which tells where the middle of the image lies."""
    axes, middle = MGH_DEFAULT_AXES, np.zeros(3)
    if fields["goodRASFlag"] > 0:
        axes, middle = fields["Mdc"].T * fields["delta"], fields["Pxyz_c"]
    vox2world = np.eye(4)
    vox2world[:3, :3] = axes
    vox2world[:3, 3] = middle - axes.dot(fields["dims"][:3]) / 2
    return vox2world
