"""The formats of image files by their content: whether it is what the file's name says, and if not, what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import nibabel as nib

from .header import Fault
from .names import is_packed, suffix_of
from .path import PLACEHOLDERS
from .stream import GZIP_MAGIC, ImageStream, UnpackError, packing_of

ByteOrder = Literal["little", "big"]

PACKED_SUFFIX = {".nii": ".nii.gz", ".mgh": ".mgz"}
FORMAT_NAMES = {".nii": "a NIfTI image", ".mgh": "an MGH image"}
NIFTI1_FIELDS, NIFTI2_FIELDS = nib.nifti1.header_dtype, nib.nifti2.header_dtype
# By the header's size in bytes: the magic of a single file, and that of a pair.
NIFTI_MAGIC = {NIFTI1_FIELDS.itemsize: (b"n+1", b"ni1"), NIFTI2_FIELDS.itemsize: (b"n+2", b"ni2")}
MGH_START = b"\0\0\0\1"  # the version of the format
MOST_BESIDE_BYTES = 2**24  # of a NIfTI header's extensions, and of what follows the voxels


def open_stream(path: Path) -> ImageStream:
    """The content of an image file, unpacked if its name says so. Raises Fault if content and name disagree."""
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
        raise Fault(describe_content(head) or "not an image, or damaged: what it holds is of no known format")
    return ImageStream(path, compressed and is_packed(path))


def _compressed_inside(path: Path) -> str:
    """What to do with a compressed file whose name says that it is not compressed, as a clause."""
    try:
        with ImageStream(path, packed=True) as stream:
            suffix = _suffix_by_content(stream.read(NIFTI1_FIELDS.itemsize))
    except (EOFError, UnpackError):
        suffix = ""
    if suffix and suffix_of(path) != ".hdr":
        return f"compressed inside; rename it to end in {PACKED_SUFFIX[suffix]}"
    return "compressed inside; unpack it with gunzip"


def describe_content(head: bytes, unpacked: bool = False) -> str:
    """What a file of another format than its name says holds, and what to do, as a clause; "" if unknown.

    head: the first bytes of the content. unpacked: whether they came out of gzip data.
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
    """The suffix of an uncompressed image with these first bytes; "" if they are of none."""
    if has_nifti1_magic(head) or not {*header_sizes(head)}.isdisjoint(NIFTI_MAGIC):
        return ".nii"
    return ".mgh" if head.startswith(MGH_START) else ""


def has_nifti1_magic(head: bytes) -> bool:
    """Whether the first bytes of a file have NIfTI-1's magic."""
    return head[344:347] in NIFTI_MAGIC[NIFTI1_FIELDS.itemsize]


def header_sizes(head: bytes) -> list[int]:
    """The size of a NIfTI header that its first field states, read in either byte order."""
    orders: tuple[ByteOrder, ByteOrder] = ("little", "big")
    return [int.from_bytes(head[:4], order, signed=True) for order in orders]
