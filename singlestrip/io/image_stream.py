"""The bytes of an image file, read from front to back: unpacked, checked, and never more than asked for."""

from __future__ import annotations

import errno
import os
import stat
import zlib
from pathlib import Path

import numpy as np

from ..errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
# What compressed files begin with.
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
CHUNK_BYTES = 2**16  # of a compressed file, unpacked at a time
MOST_MEMBERS = 2**17  # of a gzip file: in blocks of 64 KiB, as bgzip makes them, 8 GiB
MOST_EXPANSION = 1032  # deflate makes no more bytes than this of one

NOT_A_FILE = (
    (stat.S_ISDIR, "a folder; name an image (DICOM folders: convert to NIfTI first)"),
    (stat.S_ISFIFO, "a FIFO (pipe), not a file; save what comes through it as a file first"),
    (stat.S_ISSOCK, "a socket, not a file; name an image"),
    (stat.S_ISCHR, "a device, not a file; name an image"),
    (stat.S_ISBLK, "a device, not a file; name an image"),
)
# Small files that stand for large ones whose content was not fetched.
PLACEHOLDERS = (
    (b"/annex/objects/", "its content is not here; fetch it with 'datalad get' or 'git annex get'"),
    (b"version https://git-lfs", "its content is not here; fetch it with 'git lfs pull'"),
)


def check_is_file(path: Path) -> None:
    """Raise InputError that says what a path is, if it is no regular file; without opening it."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - Path.stat is the same, and Path.is_file hides the reason
    except ValueError as error:
        raise InputError(f"{path}: no file can have this name ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: {_why_absent(path, error)}") from error
    for is_kind, text in NOT_A_FILE:
        if is_kind(mode):
            raise InputError(f"{path}: {text}")


def packing_of(head: bytes) -> str:
    """The name of the compression whose data begin so, or ""."""
    return next((name for start, name in PACKINGS if head.startswith(start)), "")


def _why_absent(path: Path, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "a link that leads back to itself"
    if error.errno == errno.ENAMETOOLONG:
        return "the name is longer than a file's can be"
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        return f"cannot be read ({error.strerror})"
    if not path.is_symlink():
        return "no such file"
    target = os.path.realpath(path)
    if "/annex/objects/" in target:
        return PLACEHOLDERS[0][1]
    return f"a link to {target}, which does not exist"


class ImageStream:
    """What a file holds, read once from front to back; unpacked if `packed`.

    most_bytes: no more than this can come, by the size of the file. stray: whether bytes that belong to no
    whole gzip member follow the last one. Reading raises EOFError or zlib.error where compressed data are cut
    short or damaged; the checksum of each member is compared.
    """

    def __init__(self, path: Path, packed: bool):
        self._file = path.open("rb")
        self.packed = packed
        size = os.fstat(self._file.fileno()).st_size
        self.most_bytes = size * MOST_EXPANSION if packed else size
        self.stray = False
        self._members = 0
        self._ended = False
        self._begin_member(b"")

    def __enter__(self) -> ImageStream:
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def read(self, count: int) -> bytes:
        """The next `count` bytes; fewer at the end."""
        pieces = []
        while count > 0 and (piece := self._some(count)):
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def fill(self, array: np.ndarray) -> int:
        """Fill an array of bytes with the next ones; returns how many there were."""
        if not self.packed:
            return self._file.readinto(array)
        at = 0
        while at < len(array) and (piece := self._some(len(array) - at)):
            array[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
            at += len(piece)
        return at

    def skip(self, count: int) -> None:
        """Pass over the next `count` bytes, of a stream that nothing was read of."""
        if not self.packed:
            self._file.seek(count)
            return
        while count > 0 and (piece := self._some(min(count, CHUNK_BYTES))):
            count -= len(piece)

    def length(self, most: int) -> int:
        """How many bytes a stream that nothing was read of has; of more than `most` some number above it."""
        if not self.packed:
            return self.most_bytes
        count = 0
        while count <= most and (piece := self._some(CHUNK_BYTES)):
            count += len(piece)
        return count

    def rest(self, most: int) -> bytes:
        """What follows, at most `most` bytes; if there are fewer, the checksum of what was read was compared.

        Damage in a gzip member that begins only here makes all of that member stray: nobody needs it.
        """
        begun = self._members
        pieces: dict[int, list[bytes]] = {begun: []}  # by the member that they are of
        try:
            while most > 0 and (piece := self._some(most)):
                pieces.setdefault(self._members, []).append(piece)
                most -= len(piece)
        except (EOFError, zlib.error):
            if self._members == begun:
                raise
            pieces.pop(self._members, None)
            self.stray = True
        return b"".join(b"".join(of_member) for of_member in pieces.values())

    def _some(self, most: int) -> bytes:
        """From 1 to `most` bytes; none at the end."""
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
        self._unpacker, self._pending = zlib.decompressobj(wbits=31), packed
        self._members += 1

    def _end_member(self) -> None:
        """Go on to the next member, if there is one; zeros that fill up a block are allowed behind the last."""
        follows = self._unpacker.unused_data
        if len(follows) < len(GZIP_MAGIC):
            follows += self._file.read(CHUNK_BYTES)
        if follows.startswith(GZIP_MAGIC):
            if self._members == MOST_MEMBERS:
                raise EOFError(f"more than {MOST_MEMBERS} gzip members")
            self._begin_member(follows)
        else:
            self._ended, self.stray = True, bool(follows.strip(b"\0"))
