"""The file boundary: the only place that reads and writes images.

Voxel values are kept as stored, in their own type and byte order, and scaled only where numbers
are needed, so that an image can go back out with every voxel, its scaling and its header intact.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from .errors import InputError, OutputError
from .geometry import geometry_fault, voxel_sizes
from .output import check_name, whole

SUFFIXES = (".nii.gz", ".nii", ".img", ".hdr", ".mgz", ".mgh")
# What nibabel raises for a file that is damaged; MGH headers with impossible types end in a KeyError.
DAMAGED = (
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    KeyError,
    TypeError,
    OverflowError,
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
    nib.freesurfer.mghformat.MGHError,
)
GRID_TOLERANCE_MM = 1e-2  # how far corners of one grid may lie apart: headers are rounded
GRID_TOLERANCE_VOXELS = 0.05  # or this share of the smallest voxel: each voxel still lies on its own, by far
GZIP_MAGIC = b"\x1f\x8b"
MGH_TYPES = (np.uint8, np.int16, np.int32, np.float32)


@dataclass(frozen=True)
class Volume:
    """One image file.

    stored: [X, Y, Z, T] as in the file, before scaling; shape: the file's own, of any length;
    slope, intercept: value = slope · stored + intercept; vox2world: 4×4, voxel index to RAS mm;
    header: the nibabel header with every field as in the file.
    """

    path: Path
    stored: np.ndarray
    shape: tuple[int, ...]
    slope: float
    intercept: float
    vox2world: np.ndarray
    header: nib.spatialimages.SpatialHeader

    @property
    def frames(self) -> int:
        return self.stored.shape[3]

    def frame(self, index: int) -> np.ndarray:
        """Stored values [X, Y, Z] of one frame."""
        return self.stored[..., index]

    def scaled(self, index: int = 0) -> np.ndarray:
        """Values float32 [X, Y, Z] of one frame."""
        values = self.frame(index).astype(np.float32)
        if (self.slope, self.intercept) != (1.0, 0.0):
            values = values * np.float32(self.slope) + np.float32(self.intercept)
        return values


def suffix_of(path: Path) -> str:
    """The image suffix of a path, or "" if it has none of those supported."""
    return next((s for s in SUFFIXES if path.name.lower().endswith(s)), "")


def distinct_names(paths: list[Path]) -> list[Path]:
    """Names of image files without suffix; where two have one name, all keep their folders below the one that
    they share. Names that differ in suffix alone stay alike. Raises InputError if a file is named twice."""
    resolved = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 - links stay as named
    twice = [str(path) for path, count in Counter(resolved).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]}: named more than once")
    stems = [path.name[: len(path.name) - len(suffix_of(path))] or path.name for path in resolved]
    if len(set(stems)) == len(stems):
        return [Path(stem) for stem in stems]
    shared = Path(os.path.commonpath([path.parent for path in resolved]))
    return [path.parent.relative_to(shared) / stem for path, stem in zip(resolved, stems, strict=True)]


def merge_pairs(paths: Iterable[Path]) -> list[Path]:
    """Paths of images, in their order; of an .img/.hdr pair of which both files are named, the .img alone."""

    def stem(path: Path) -> str:
        return os.path.abspath(path.with_suffix(""))  # noqa: PTH100 - links stay as named

    paths = list(paths)
    stems = {stem(path) for path in paths if path.suffix.lower() == ".img"}
    return [path for path in paths if path.suffix.lower() != ".hdr" or stem(path) not in stems]


def check_output(path: Path) -> None:
    """Raise OutputError if an image cannot be written at this path: before any work is done."""
    if not suffix_of(path):
        raise OutputError(f"{path}: name outputs with one of {', '.join(SUFFIXES)}")
    check_name(path)


def _open(path: Path) -> nib.spatialimages.SpatialImage:
    """An image file whose header could be read. Raises InputError."""
    try:
        if path.is_dir():
            raise InputError(f"{path}: a folder; name an image (DICOM folders: convert to NIfTI first)")
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        if not suffix_of(path):
            raise InputError(f"{path}: not a name of an image ({', '.join(SUFFIXES)})")
        with path.open("rb") as file:
            compressed = file.read(2) == GZIP_MAGIC
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if compressed and suffix_of(path) in (".nii", ".mgh"):
        raise InputError(f"{path}: compressed inside; rename it to end in .nii.gz or .mgz")
    try:
        image = nib.load(path)
    except DAMAGED as error:
        raise InputError(f"{path}: not an image, or damaged ({error})") from error
    if not isinstance(image, nib.Nifti1Pair | nib.MGHImage):
        raise InputError(f"{path}: {type(image).__name__} is not supported; convert to NIfTI or MGZ")
    return image


def read(path: str | os.PathLike) -> Volume:
    """Read NIfTI-1, NIfTI-2 (single file or pair), MGH or MGZ.

    Raises InputError for anything that is not a whole image of real numbers with a usable geometry.
    """
    path = Path(path)
    image = _open(path)
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path}: voxels of type {image.get_data_dtype()} are not real numbers")
    try:
        stored = _read_voxels(image)
    except DAMAGED as error:
        raise InputError(f"{path}: the voxel data are damaged or cut short ({error})") from error
    except MemoryError as error:
        raise InputError(f"{path}: larger than the memory, or its header is damaged") from error
    slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
    shape = stored.shape
    if 0 in shape or len(shape) < 2:
        raise InputError(f"{path}: no voxels in an image of shape {shape}")
    space = _space(shape)
    vox2world = np.asarray(image.affine, dtype=float)
    fault = geometry_fault(vox2world)
    if fault:
        raise InputError(f"{path}: {fault}")
    return Volume(path, stored.reshape(*space, -1), shape, slope, intercept, vox2world, _file_header(image))


def _space(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The first three axes of an image of two or more: a single slice has one voxel along the third."""
    return (*shape[:3], 1)[:3]


def read_single(path: str | os.PathLike) -> Volume:
    """Read an image of one frame. Raises InputError for more."""
    volume = read(path)
    if volume.frames > 1:
        raise InputError(f"{path}: has {volume.frames} frames; give one")
    return volume


def _read_voxels(image: nib.spatialimages.SpatialImage) -> np.ndarray:
    """Values as stored, read-only. Compressed files are read to their end: there is their checksum."""
    proxy = image.dataobj
    count = int(np.prod(proxy.shape, dtype=object))
    size = count * proxy.dtype.itemsize
    with image.file_map["image"].get_prepare_fileobj("rb") as file:
        file.seek(proxy.offset)
        data = file.read(size)
        while file.read(2**20):
            pass
    if len(data) < size:
        raise EOFError(f"{len(data)} bytes of voxels, where the header tells of {size}")
    return np.frombuffer(data, proxy.dtype, count).reshape(proxy.shape, order="F")


def _file_header(image: nib.spatialimages.SpatialImage):
    """The header as the file has it: nibabel forgets the scaling when it loads an image."""
    header = image.header.copy()
    if isinstance(image, nib.Nifti1Pair):
        holder = image.file_map["header" if "header" in image.file_map else "image"]
        with holder.get_prepare_fileobj("rb") as file:
            original = type(image.header).from_fileobj(file, check=False)
        for name in ("scl_slope", "scl_inter"):
            header[name] = original[name]
    return header


def write_like(
    volume: Volume,
    path: Path,
    stored: np.ndarray,
    slope: float = 1.0,
    intercept: float = 0.0,
    label: str = "",
    one_frame: bool = False,
) -> None:
    """Write `stored` [X, Y, Z, T] on the grid of `volume`, format by suffix.

    It gets the file's own number of axes if it has as many frames, else three; with `one_frame` three in any case.

    With the stored type and scaling of `volume` the header stays as it was, byte for byte in the
    same format; otherwise the type changes and fields about the values (scaling, display range,
    intent) are reset, with `label` as intent name. The file appears whole or not at all.
    """
    like_file = stored.shape[3] == volume.frames and not one_frame
    stored = stored.reshape(volume.shape if like_file else volume.shape[:3])
    mgh = suffix_of(path) in (".mgh", ".mgz")
    like = stored.dtype == volume.stored.dtype and (slope, intercept) == (volume.slope, volume.intercept)
    if mgh:
        image = _mgh_image(volume, stored, slope, intercept)
    else:
        image = _nifti_image(volume, path, stored, slope, intercept, like, label)
    _save_whole(image, path)


def _nifti_image(volume, path, stored, slope, intercept, like, label):
    pair = suffix_of(path) in (".img", ".hdr")
    if isinstance(volume.header, nib.Nifti2Header):
        image_class = nib.Nifti2Pair if pair else nib.Nifti2Image
    else:
        image_class = nib.Nifti1Pair if pair else nib.Nifti1Image
    if isinstance(volume.header, nib.Nifti1Header):
        header = image_class.header_class.from_header(volume.header, check=False)
        if header.get_data_shape() != stored.shape:
            header.set_data_shape(stored.shape)
    else:
        header = _nifti_header(volume, image_class.header_class(), stored)
        like = False
    if not like:
        header.set_data_dtype(stored.dtype)
        header["scl_slope"], header["scl_inter"] = slope, intercept
        header["cal_min"] = header["cal_max"] = 0
        header.set_intent("none", name=label)
    image = image_class(stored, None, header)
    # The constructor clears the scaling; with it in place nibabel stores the values untouched.
    for name, value in (("scl_slope", 1.0), ("scl_inter", 0.0)):
        image.header[name] = value if np.isnan(header[name]) else header[name]
    return image


def _nifti_header(volume: Volume, header: nib.Nifti1Header, stored: np.ndarray) -> nib.Nifti1Header:
    """Geometry and frame time of an MGH file as a new NIfTI header."""
    header.set_data_shape(stored.shape)
    header.set_xyzt_units("mm", "sec")
    frame_seconds = [float(volume.header["tr"]) / 1000] * (stored.ndim - 3)
    header.set_zooms([*voxel_sizes(volume.vox2world), *frame_seconds])
    header.set_sform(volume.vox2world, code="scanner")
    header.set_qform(volume.vox2world, code="scanner")
    return header


def _mgh_image(volume, stored, slope, intercept):
    if (slope, intercept) != (1.0, 0.0):
        stored = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    elif stored.dtype.newbyteorder("=") not in MGH_TYPES:
        exact = stored.dtype.kind in "iu" and np.can_cast(stored.dtype, np.int32)
        stored = stored.astype(np.int32 if exact else np.float32)
    while stored.ndim > 4:
        stored = stored.reshape(*stored.shape[:3], -1)
    if stored.ndim == 2:
        stored = stored[..., None]
    if isinstance(volume.header, nib.freesurfer.mghformat.MGHHeader):
        header = volume.header.copy()
    else:
        header = nib.freesurfer.mghformat.MGHHeader()
        if len(volume.header.get_zooms()) > 3:
            to_ms = {"msec": 1.0, "usec": 1e-3}.get(volume.header.get_xyzt_units()[1], 1e3)
            header["tr"] = float(volume.header.get_zooms()[3]) * to_ms
    header.set_data_dtype(stored.dtype.newbyteorder("="))
    return nib.MGHImage(stored, volume.vox2world, header)


def _save_whole(image, path: Path) -> None:
    image.set_filename(path)
    paths = {Path(holder.filename) for holder in image.file_map.values()}
    # The header of a pair goes last: without it there is no image.
    with whole(*sorted(paths, key=lambda name: name.suffix.lower() == ".hdr")) as partial:
        try:
            image.to_filename(partial[0])
        except nib.spatialimages.HeaderDataError as error:
            raise ValueError(error) from error


def finite_range(values: np.ndarray) -> tuple[float, float]:
    """Lowest and highest finite value; (inf, -inf) if there is none."""
    if values.dtype.kind != "f":
        return float(values.min()), float(values.max())
    finite = np.isfinite(values)
    return (
        float(np.min(values, initial=np.inf, where=finite)),
        float(np.max(values, initial=-np.inf, where=finite)),
    )


def frames_in(path: Path) -> int:
    """The number of frames that an image file's header tells. Raises InputError."""
    return int(np.prod(_open(path).shape[3:], dtype=object))


def is_whole(path: Path, image: Path | None = None) -> bool:
    """Whether an image file is there with all its voxels, read through to the end, and on the grid of another
    image, if one is named."""
    try:
        found = read(path)
        if image is None:
            return True
        other = _open(image)
    except InputError:
        return False
    other_vox2world = np.asarray(other.affine, dtype=float)
    return _same_grid(found.stored.shape[:3], found.vox2world, _space(other.shape), other_vox2world)


def grid_difference(a: Volume, b: Volume) -> str:
    """How the grid of `a` differs from that of `b`, in words; "" where they are one: same shape, corners within
    GRID_TOLERANCE_MM or a small share of a voxel."""
    shape, other = a.stored.shape[:3], b.stored.shape[:3]
    if shape != other:
        return "its shape is {}, not {}".format(*(" × ".join(map(str, of)) for of in (shape, other)))
    apart = _corners_apart_mm(shape, a.vox2world, b.vox2world)
    if apart < max(GRID_TOLERANCE_MM, GRID_TOLERANCE_VOXELS * voxel_sizes(b.vox2world).min()):
        return ""
    return f"of the same shape, but up to {apart:.3g} mm aside"


def same_grid(a: Volume, b: Volume) -> bool:
    """Whether two volumes lie on one grid; see `grid_difference`."""
    return not grid_difference(a, b)


def _same_grid(shape, vox2world, other_shape, other_vox2world) -> bool:
    """Whether two grids are one but for the rounding of headers."""
    return tuple(shape) == tuple(other_shape) and (
        _corners_apart_mm(shape, vox2world, other_vox2world) < GRID_TOLERANCE_MM
    )


def _corners_apart_mm(shape, vox2world, other_vox2world) -> float:
    """The farthest that corners of two grids of one shape lie apart, along an axis of the world."""
    apart = (vox2world - other_vox2world) * np.array([*shape, 1.0])
    return float(max(np.abs(apart.sum(1)).max(), np.abs(apart).max()))
