"""Reads the header of an image file, whatever its format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...space.grid import geometry_fault
from .format import open_stream
from .header import Fault, ImageHeader
from .mgh_header import read_mgh_header
from .names import SUFFIXES, header_and_data, is_mgh, is_packed, suffix_of
from .nifti_header import read_nifti_header
from .path import check_is_file
from .stream import PACKING_BYTES, UnpackError, packing_of


def read_header(path: str | os.PathLike[str]) -> ImageHeader:
    """The header of an image file. No voxel is read, but the files are long enough to hold them all.

    Raises InputError for anything that is not an image of real numbers with a usable geometry.
    """
    path = Path(path)
    check_is_file(path)
    if not suffix_of(path):
        raise InputError(f"{path}: not a name of an image ({', '.join(SUFFIXES)})")
    header_path, data_path = header_and_data(path)
    for other in {header_path, data_path} - {path}:
        check_is_file(other)
    # Numbers of a damaged header may overflow, which `geometry_fault` reports.
    with faults_named(header_path, "header"), np.errstate(all="ignore"):
        with open_stream(header_path) as stream:
            header = read_mgh_header(path, stream) if is_mgh(path) else read_nifti_header(path, stream)
            most_bytes = stream.most_bytes
        fault = geometry_fault(header.vox2world)
        if fault:
            raise Fault(fault)
    if data_path != header_path:
        most_bytes = data_path.stat().st_size
    if header.offset + header.nbytes > most_bytes:
        raise InputError(f"{data_path}: {_why_too_short(data_path, header)}")
    return header


def _why_too_short(data_path: Path, header: ImageHeader) -> str:
    """Why a file cannot hold the voxels of which its header tells, as a clause."""
    with faults_named(data_path, "voxel"), data_path.open("rb") as file:
        start = file.read(PACKING_BYTES)
    packing = "" if is_packed(data_path) else packing_of(start)
    if packing:
        return f"compressed with {packing}; unpack it"
    axes = " × ".join(map(str, header.shape))
    return (
        f"cut short, or its header is damaged: it tells of {axes} voxels of {header.dtype.name} "
        f"from byte {header.offset} on, more than the file can hold"
    )


@contextmanager
def faults_named(path: Path, part: str) -> Iterator[None]:
    """While a part of a file is read, raise whatever is wrong with it as an InputError that names the file."""
    try:
        yield
    except Fault as error:
        raise InputError(f"{path}: {error}") from error
    except (EOFError, UnpackError) as error:
        raise InputError(f"{path}: the {part} data are damaged or cut short ({error})") from error
    except MemoryError as error:
        raise InputError(f"{path}: larger than the memory, or its header is damaged") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
