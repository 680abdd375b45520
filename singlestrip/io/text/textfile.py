"""Text files of other programs, read within limits: lists, tables, b-values, JSON."""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ..file_kind import file_kind

MIB = 2**20
TEXT_LIMIT = 64 * MIB  # a table of 190 000 masks
LINE_LIMIT = 500_000
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
CONTROLS = bytes(code for code in range(32) if code not in b"\t\n\r\f\x1b")
FEW_BYTES = 4096  # in so short a file one strange name may be a large part


def read_text(path: Path, what: str, pipe: bool = False, limit: int = TEXT_LIMIT) -> str:
    """The text of a file, without a byte order mark. Bytes that are not UTF-8 become lone surrogates, as in paths.

    Takes the arguments and raises the errors of `read_bytes`.
    """
    return read_bytes(path, what, pipe, limit).decode("utf-8-sig", "surrogateescape")


def read_bytes(path: Path, what: str, pipe: bool = False, limit: int = TEXT_LIMIT) -> bytes:
    """The bytes of a text file.

    what: what the file should be, such as "a list of paths", for the error. pipe: read a pipe or FIFO too.
    Raises InputError if the file is missing, unreadable, binary or no regular file, or if it has more than `limit`
    bytes or LINE_LIMIT lines.
    """
    try:
        return file_bytes(path, pipe, limit)
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as {what} ({error})") from error


def file_bytes(path: Path, pipe: bool = False, limit: int = TEXT_LIMIT) -> bytes:
    """The bytes of a text file, as `read_bytes` gives them. Raises ValueError with the reason alone."""
    try:
        kind = file_kind(path.stat().st_mode)
        if kind and not (pipe and kind == "a FIFO"):
            raise ValueError(f"{kind}, not a text file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError as error:
        raise ValueError("no such file") from error
    except OSError as error:
        raise ValueError(error.strerror or "the system refuses") from error
    fault = _text_fault(data, limit)
    if fault:
        raise ValueError(fault)
    return data


def _text_fault(data: bytes, limit: int) -> str:
    """Why data cannot be read as text; "" if it can."""
    if len(data) > limit:
        return f"larger than {limit / MIB:g} MiB"
    if data.startswith(UTF16_MARKS):
        return "UTF-16; save it as UTF-8"
    controls = len(data) - len(data.translate(None, CONTROLS))
    if len(data) > FEW_BYTES and controls > len(data) // 20:
        return "holds binary data"
    if data.count(b"\n") > LINE_LIMIT:
        return f"more than {LINE_LIMIT} lines"
    return ""


def named_path(text: str) -> Path:
    """The path that text names. A leading `~` stands for the home folder of a user, if there is such a user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)
