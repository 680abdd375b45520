"""The content of an image file, unpacked, read from front to back."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from isal import isal_zlib

UnpackError: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub says int
GZIP_MAGIC = b"\x1f\x8b"
GZIP_BITS = 31  # zlib's number for a gzip member with the largest window
# The first bytes of compressed files.
PACKINGS = (
    (GZIP_MAGIC, "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"PK\x03\x04", "zip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"LZIP", "lzip"),
    (b"\x1f\x9d", "compress"),
    *((b"\x78" + level, "zlib") for level in (b"\x01", b"\x5e", b"\x9c", b"\xda")),
)
PACKING_BYTES = max(len(start) for start, _ in PACKINGS)
CHUNK_BYTES = 2**16  # of a compressed file, read at a time
MOST_MEMBERS = 2**17  # of a gzip file: 8 GiB in the blocks of 64 KiB that bgzip writes
MOST_EXPANSION = 1032  # deflate unpacks a byte to no more than this


def packing_of(head: bytes) -> str:
    """The name of the compression whose data begin with these bytes; "" if there is none."""
    return next((name for start, name in PACKINGS if head.startswith(start)), "")


class ImageStream:
    """The content of a file, read once from front to back, and unpacked with gzip if `packed`.

    most_bytes: an upper limit of the content's length, which follows from the file's size.
    stray: whether the last gzip member is followed by bytes of no intact member.
    Reading raises EOFError or UnpackError if compressed data are cut short or damaged; the checksum and the length
    of each member are compared.
    """

    def __init__(self, path: Path, packed: bool) -> None:
        self._file = path.open("rb")
        self.packed = packed
        size = os.fstat(self._file.fileno()).st_size
        self.most_bytes = size * MOST_EXPANSION if packed else size
        self.stray = False
        self._members = 0
        self._ended = False
        self._pending = b""
        self._begin_member(b"")

    def __enter__(self) -> ImageStream:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, count: int) -> bytes:
        """The next `count` bytes; fewer at the end."""
        pieces = []
        while count > 0 and (piece := self._some(count)):
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def fill(self, array: np.ndarray) -> int:
        """Fill an array of bytes with the next bytes; returns how many there were."""
        if not self.packed:
            return self._file.readinto(array.data)
        at = 0
        while at < len(array) and (piece := self._some(len(array) - at)):
            array[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
            at += len(piece)
        return at

    def skip(self, count: int) -> None:
        """Pass over the first `count` bytes. Only for a stream of which nothing was read."""
        if not self.packed:
            self._file.seek(count)
            return
        while count > 0 and (piece := self._some(min(count, CHUNK_BYTES))):
            count -= len(piece)

    def length(self, most: int) -> int:
        """The content's length in bytes; if it is above `most`, some number above `most`.

        Only for a stream of which nothing was read.
        """
        if not self.packed:
            return self.most_bytes
        count = 0
        while count <= most and (piece := self._some(CHUNK_BYTES)):
            count += len(piece)
        return count

    def rest(self, most: int) -> bytes:
        """The remaining bytes, at most `most`. If there are fewer, the checksums of everything read were compared.

        If a gzip member that begins only here is damaged, all of it counts as stray, since it holds no voxels.
        """
        first = self._members
        pieces: dict[int, list[bytes]] = {first: []}  # by the number of their member
        try:
            while most > 0 and (piece := self._some(most)):
                pieces.setdefault(self._members, []).append(piece)
                most -= len(piece)
        except (EOFError, UnpackError):
            if self._members == first:
                raise
            pieces.pop(self._members, None)
            self.stray = True
        return b"".join(b"".join(of_member) for of_member in pieces.values())

    def _some(self, most: int) -> bytes:
        """From 1 to `most` of the next bytes; none at the end."""
        if not self.packed:
            return self._file.read(most)
        while not self._ended:
            if self._unpacker.eof:
                self._end_member()
                continue
            packed = self._pending or self._file.read(CHUNK_BYTES)
            piece = self._unpacker.decompress(packed, most)
            self._pending = self._unpacker.unconsumed_tail
            if piece:
                return piece
            if not packed and not self._unpacker.eof:
                raise EOFError("the compressed data end too early")
        return b""

    def _begin_member(self, packed: bytes) -> None:
        """Start to unpack a gzip member. packed: bytes of it that were read already."""
        self._unpacker, self._pending = isal_zlib.decompressobj(wbits=GZIP_BITS), packed
        self._members += 1

    def _end_member(self) -> None:
        """Go on to the next member, if there is one. Zeros after the last one only fill a block."""
        follows = self._unpacker.unused_data
        if len(follows) < len(GZIP_MAGIC):
            follows += self._file.read(CHUNK_BYTES)
        if follows.startswith(GZIP_MAGIC):
            if self._members == MOST_MEMBERS:
                raise EOFError(f"more than {MOST_MEMBERS} gzip members")
            self._begin_member(follows)
        else:
            self._ended, self.stray = True, bool(follows.strip(b"\0"))
