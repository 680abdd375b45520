"""The colour table in an MGH file of labels, by which FreeSurfer's viewers name and colour them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ...configuration import TargetClass
from ..text.structure_table import colour_of

TAG = 1  # TAG_OLD_COLORTABLE; behind it lies a table, of no stated length
VERSION = -2  # of the table: entries have numbers
FILE_NAME = "singlestrip"  # in place of the text file that a table was read from


def colour_table_tag(structures: Sequence[TargetClass]) -> bytes:
    """The tag with the colours of structures, and of the background, as FreeSurfer's CTABwriteIntoBinary makes it.

    It stands behind the scan parameters of an MGH file.
    """
    entries = [_entry(0, "Unknown", (0, 0, 0))]
    entries += [_entry(each.number, each.name, colour_of(each)) for each in structures]
    most = 1 + max((each.number for each in structures), default=0)
    head = struct.pack(">iii", TAG, VERSION, most)
    return head + _text(FILE_NAME) + struct.pack(">i", len(entries)) + b"".join(entries)


def _entry(number: int, name: str, colour: tuple[int, int, int]) -> bytes:
    """One label: its number, its name, and its colour, which is opaque."""
    return struct.pack(">i", number) + _text(name) + struct.pack(">4i", *colour, 0)


def _text(text: str) -> bytes:
    """A text with a NUL at its end, behind its length."""
    data = text.encode() + b"\0"
    return struct.pack(">i", len(data)) + data
