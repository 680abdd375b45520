"""Writes images with the grid and the header of one that was read: NIfTI (single file or pair), MGH and MGZ."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from isal import isal_zlib
from nibabel.freesurfer import mghformat

from ...configuration import TargetClass
from ...errors import InputError, OutputError
from ...space.grid import voxel_sizes
from ...space.scaling import FLOAT32_MAX, scaled_float32
from ..output import atomic_write
from .format import NIFTI_MAGIC
from .header import ImageHeader
from .image import Volume
from .mgh_colour_table import colour_table_tag
from .mgh_header import MGH_FIELDS, MGH_TYPES, mgh_vox2world
from .names import header_and_data, is_mgh, is_packed
from .nifti_header import byte_order, sform_vox2world
from .stream import GZIP_BITS

GZIP_LEVEL = 2  # of 0 to 3; files are smaller than those of zlib's level 1, and take a sixth of its time
INT32 = np.iinfo(np.int32)
NIFTI1_LONGEST_AXIS = np.iinfo(np.int16).max
ROUNDING_MM = 5e-3  # how far a corner may move when a geometry is stored in 32 bits
SCAN_PARAMETER_BYTES = 20  # behind the voxels of MGH: TR, flip angle, TE, TI, field of view
MS_PER_UNIT = {16: 1.0, 24: 1e-3}  # by the bits of xyzt_units for the unit of time; otherwise seconds


def write_like(
    volume: Volume,
    path: Path,
    stored: np.ndarray,
    slope: float = 1.0,
    intercept: float = 0.0,
    label: str = "",
    one_frame: bool = False,
) -> None:
    """Write `stored` [X, Y, Z, T] on the grid of `volume`, in the format of the path's suffix.

    The image gets the axes of `volume` if it has as many frames, otherwise three; with `one_frame` always three.

    If `stored` has the stored type and scaling of `volume`, the header stays as it was, in the same format byte
    for byte, with NIfTI's extensions and the bytes behind MGH's voxels. Otherwise the type changes, and the fields
    about the values (scaling, display range, intent) are reset; the intent name becomes `label`. The file appears
    whole or not at all. Raises OutputError.
    """
    if is_mgh(path):
        values = _mgh_values(volume, path, stored, slope, intercept)
        _write_mgh(volume, path, values.shape, values.dtype, [values])
    else:
        shape = volume.shape if stored.shape[3] == volume.frames and not one_frame else volume.shape[:3]
        alike = not volume.is_mgh and _is_stored_alike(volume, stored.dtype, slope, intercept)
        _write_nifti(volume, path, shape, stored.dtype, [stored], None if alike else (slope, intercept, label))


def write_labels(
    volume: Volume,
    path: Path,
    frames: Sequence[np.ndarray],
    numbers: np.ndarray,
    structures: Sequence[TargetClass],
) -> None:
    """Write label maps on the grid of `volume`, with the axes that `write_like` chooses.

    frames: channels [X, Y, Z] of each map. numbers: the label of each channel, in the type to write. structures:
    what the labels are, whose names and colours MGH holds. One frame at a time is held as labels. Raises
    OutputError.
    """
    labels = (numbers[channels] for channels in frames)
    if is_mgh(path):
        count = len(frames)
        _write_mgh(volume, path, (*volume.space, count), numbers.dtype, labels, colour_table_tag(structures))
    else:
        shape = volume.shape if len(frames) == volume.frames else volume.shape[:3]
        _write_nifti(volume, path, shape, numbers.dtype, labels, (1.0, 0.0, "structures"))


def write_frames(
    volume: Volume, path: Path, frames: Iterable[np.ndarray], count: int, slope: float, label: str
) -> None:
    """Write `count` frames, bytes [X, Y, Z] times `slope`, on the grid of `volume`, one at a time.

    MGH, which has no scaling, holds them as 32-bit numbers. Raises OutputError.
    """
    shape = (*volume.space, count)
    if is_mgh(path):
        _write_mgh(volume, path, shape, np.dtype(np.float32), (scaled_float32(each, slope) for each in frames))
    else:
        _write_nifti(volume, path, shape, np.dtype(np.uint8), frames, (slope, 0.0, label))


def check_grid_fits(image: ImageHeader, path: Path) -> None:
    """Raise OutputError if the format of `path` cannot hold an image of this shape and geometry."""
    if is_mgh(path) == image.is_mgh:
        return
    shape = (*image.space, image.frames)
    if is_mgh(path) and max(shape) > INT32.max:
        raise OutputError(f"{path}: MGH cannot hold {' × '.join(map(str, shape))} voxels; write NIfTI")
    if is_mgh(path):
        held = mgh_vox2world(_mgh_fields(image, shape, np.dtype(np.uint8)))
    else:
        held = sform_vox2world(_new_nifti_fields(image))
    if not np.abs((held - image.vox2world) * [*image.space, 1]).sum(1).max() <= ROUNDING_MM:
        raise OutputError(
            f"{path}: this format cannot hold the geometry of {image.path}, whose origin is too far away; "
            "write the format of the input"
        )


def check_values_fit(volume: Volume, path: Path, *further: np.ndarray) -> None:
    """Raise OutputError if the format of `path` cannot hold the values of an image.

    further: arrays in the image's stored type, whose values must fit too.
    """
    if is_mgh(path) and not volume.is_mgh:
        for stored in (volume.stored, *further):
            _mgh_values(volume, path, stored, volume.slope, volume.intercept)


def _write_nifti(
    volume: Volume,
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype,
    frames: Iterable[np.ndarray],
    values: tuple[float, float, str] | None,
) -> None:
    """Write frames [X, Y, Z] or [X, Y, Z, T] as NIfTI with the axes of `shape`; see `write_like`.

    values: slope, intercept and intent name; None if the fields about the values stay as they are.
    """
    header_path, data_path = header_and_data(path)
    single = header_path == data_path
    fields = _nifti_fields(volume, path)
    extensions = volume.extensions.ljust(4, b"\0") if single else volume.extensions
    fields["magic"] = NIFTI_MAGIC[fields.dtype.itemsize][0 if single else 1]
    fields["vox_offset"] = fields.dtype.itemsize + len(extensions) if single else 0
    axes = len(shape)
    if shape != volume.shape:
        kept = min(axes, len(volume.shape)) + 1
        fields["dim"][kept:], fields["pixdim"][kept:] = 1, 1
    fields["dim"][: axes + 1] = axes, *shape
    if values is not None:
        _describe_values(fields, dtype, *values)
    head = fields.tobytes() + extensions
    voxels = _in_file_order(frames, byte_order(fields))
    if single:
        _save({path: _chain(head, voxels)})
    else:  # the header goes last: without it there is no image
        _save({data_path: voxels, header_path: iter([head])})


def _nifti_fields(volume: Volume, path: Path) -> np.ndarray:
    """The fields of a NIfTI header: those of the image, or new ones if it is MGH. Raises OutputError."""
    if not volume.is_mgh:
        return volume.fields.copy()
    check_grid_fits(volume, path)
    fields = _new_nifti_fields(volume)
    fields["pixdim"][4 : len(volume.shape) + 1] = _mgh_frame_ms(volume) / 1000
    return fields


def _is_stored_alike(volume: Volume, dtype: np.dtype, slope: float, intercept: float) -> bool:
    """Whether values have the stored type of an image, but for the byte order, and its scaling."""
    same_type = dtype.newbyteorder("=") == volume.dtype.newbyteorder("=")
    return same_type and (slope, intercept) == (volume.slope, volume.intercept)


def _describe_values(fields: np.ndarray, dtype: np.dtype, slope: float, intercept: float, label: str) -> None:
    """Set the fields about the values, and reset display range and intent."""
    fields["datatype"] = nib.nifti1.data_type_codes.code[dtype.newbyteorder("=")]
    fields["bitpix"] = 8 * dtype.itemsize
    fields["scl_slope"], fields["scl_inter"] = slope, intercept
    for name in ("cal_min", "cal_max", "intent_code", "intent_p1", "intent_p2", "intent_p3"):
        fields[name] = 0
    fields["intent_name"] = label.encode()


def _new_nifti_fields(image: ImageHeader) -> np.ndarray:
    """The fields of a new NIfTI header with the shape and geometry of an image; NIfTI-2 if an axis is long."""
    kind = nib.Nifti2Header if max(image.shape) > NIFTI1_LONGEST_AXIS else nib.Nifti1Header
    header = kind(endianness="<")
    header.set_data_shape(image.shape)
    header.set_xyzt_units("mm", "sec")
    header.set_zooms([*voxel_sizes(image.vox2world), *[0] * (len(image.shape) - 3)])
    header.set_sform(image.vox2world, code="scanner")
    header.set_qform(image.vox2world, code="scanner")
    return header.structarr.copy()


def _mgh_frame_ms(volume: Volume) -> float:
    """The time between frames of an MGH image in ms; 0 if it is unknown."""
    return _sensible_time(struct.unpack(">f", volume.footer[:4])[0]) if len(volume.footer) >= 4 else 0.0


def _nifti_frame_ms(volume: Volume) -> float:
    """The time between frames of a NIfTI image in ms; 0 if it is unknown."""
    if len(volume.shape) < 4:
        return 0.0
    unit = MS_PER_UNIT.get(int(volume.fields["xyzt_units"]) & 0x38, 1e3)
    return _sensible_time(float(volume.fields["pixdim"][4]) * unit)


def _sensible_time(time: float) -> float:
    """The time, or 0 if no 32-bit field can hold it or it is negative."""
    return time if 0 <= time <= FLOAT32_MAX else 0.0


def _write_mgh(
    volume: Volume,
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype,
    frames: Iterable[np.ndarray],
    tag: bytes = b"",
) -> None:
    """Write frames [X, Y, Z] or [X, Y, Z, T] as MGH or MGZ with the axes of `shape`.

    tag: stands behind the scan parameters, in place of the image's tags; without it these stay.
    """
    check_grid_fits(volume, path)
    fields = _mgh_fields(volume, shape, dtype)
    footer = volume.footer if volume.is_mgh else struct.pack(">5f", _nifti_frame_ms(volume), 0, 0, 0, 0)
    if tag:
        footer = footer[:SCAN_PARAMETER_BYTES].ljust(SCAN_PARAMETER_BYTES, b"\0") + tag
    _save({path: _chain(fields.tobytes(), _in_file_order(frames, ">"), footer)})


def _mgh_fields(volume: ImageHeader, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The fields of an MGH header: those of the image, or new ones with its geometry if it is NIfTI."""
    if volume.is_mgh:
        fields = volume.fields.copy()
    else:
        fields = np.zeros((), MGH_FIELDS)
        size = voxel_sizes(volume.vox2world)
        fields["version"], fields["goodRASFlag"], fields["delta"] = 1, 1, size
        fields["Mdc"] = (volume.vox2world[:3, :3] / size).T
        with np.errstate(over="ignore"):  # `check_grid_fits` reports it
            fields["Pxyz_c"] = volume.vox2world[:3] @ [*(n / 2 for n in volume.space), 1]
    fields["dims"] = shape
    fields["type"] = mghformat.data_type_codes.code[dtype.newbyteorder("=")]
    return fields


def _mgh_values(volume: Volume, path: Path, stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """The values in one of MGH's types: as they are, in 32 bits, or after scaling.

    Numbers other than integers may be rounded. Raises OutputError if values would change by more than that.
    """
    kind = stored.dtype.newbyteorder("=")
    try:
        if (slope, intercept) != (1.0, 0.0):
            return scaled_float32(stored, slope, intercept)
        if kind in MGH_TYPES or (volume.is_mgh and kind == volume.dtype.newbyteorder("=")):
            return stored
        if kind.kind == "f":
            return scaled_float32(stored)
    except InputError as error:
        raise OutputError(f"{path}: {error}, and MGH has no type with more bits; write NIfTI") from error
    low, high = int(stored.min()), int(stored.max())
    if INT32.min <= low and high <= INT32.max:
        return stored.astype(np.int32)
    if all(int(np.float32(end)) == end for end in (low, high)):
        values = stored.astype(np.float32)
        if (values.astype(kind) == stored).all():
            return values
    raise OutputError(f"{path}: MGH cannot hold the integers from {low} to {high} of {volume.path}; write NIfTI")


def _in_file_order(frames: Iterable[np.ndarray], order: Literal["<", ">"]) -> Iterator[bytes]:
    """The bytes of arrays [X, Y, Z, …], plane by plane; the first axis varies fastest."""
    for frame in frames:
        planes = frame.reshape((*frame.shape[:2], -1), order="F")
        for k in range(planes.shape[2]):
            yield planes[..., k].astype(frame.dtype.newbyteorder(order), copy=False).tobytes(order="F")


def _chain(head: bytes, voxels: Iterator[bytes], footer: bytes = b"") -> Iterator[bytes]:
    """The content of one file, in pieces."""
    yield head
    yield from voxels
    yield footer


def _save(contents: dict[Path, Iterator[bytes]]) -> None:
    """Write files from pieces of bytes, compressed if their suffix says so; either all files appear, or none."""
    with atomic_write(*contents) as partial:
        for name, (path, pieces) in zip(partial, contents.items(), strict=True):
            with name.open("wb") as file:
                file.writelines(_compress(pieces) if is_packed(path) else pieces)


def _compress(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """One gzip member of the pieces. It has neither time nor name: equal images are equal files."""
    packer = isal_zlib.compressobj(GZIP_LEVEL, wbits=GZIP_BITS)
    yield from map(packer.compress, pieces)
    yield packer.flush()
