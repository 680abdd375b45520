r"""Names and notes as text that cannot break the lines of a terminal or the cells of a table.

A file name may hold any byte but `/` and NUL: line ends, escape sequences, bytes that are not UTF-8. The escapes
are `\t`, `\n`, `\r`; `\xNN` for other control characters below 0x80 and for bytes that are not UTF-8; `\uNNNN` for
the other characters that break lines, control terminals or reorder text. docs/stable/tables.md has them for users.
"""

from __future__ import annotations

import json
import re
from typing import Any

NAMED = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}
BYTES = 0xDC00  # Python holds byte NN that is not UTF-8 as the lone surrogate U+DCNN
CONTROLS = "\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff"
UNSAFE = re.compile(f"[{CONTROLS}\ud800-\udfff]")
SURROGATES = re.compile("[\ud800-\udfff]")
ESCAPED = re.compile(r"\\(?:([tnr\\])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4}))")
OUTER_SPACE = re.compile(r"^\s|\s$")
GUARD = "'"
# Spreadsheets take what begins with one of the first eight for a formula, and what begins with " for quoted.
GUARDED = (*"=+-@＝＋－＠", '"', GUARD)
NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?|inf|nan)")


def printable(text: str) -> str:
    """Text for a terminal, on one line. Escapes in the text stay as they are."""
    return UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    """The escape of one character."""
    code = ord(match[0])
    if match[0] in NAMED:
        return NAMED[match[0]]
    if BYTES + 0x80 <= code <= BYTES + 0xFF:
        return f"\\x{code - BYTES:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


def to_cell(text: str) -> str:
    """Text as a cell of a TSV table, which no spreadsheet takes for a formula. `from_cell` gives the text back.

    The template of the page has the same function in JavaScript.
    """
    if not text:
        return ""
    cell = printable(text.replace("\\", "\\\\"))
    cell = OUTER_SPACE.sub(_escape, cell)  # readers strip cells
    return GUARD + cell if cell.startswith(GUARDED) and not NUMBER.fullmatch(cell) else cell


def from_cell(cell: str) -> str:
    """The text of a cell that `to_cell` or a person wrote. A backslash that begins no escape stays."""
    return ESCAPED.sub(_unescape, cell.strip().removeprefix(GUARD))


def _unescape(match: re.Match[str]) -> str:
    """The character that one escape stands for."""
    letter, byte, code = match.groups()
    if letter is not None:
        return {"t": "\t", "n": "\n", "r": "\r"}.get(letter, letter)
    if byte is not None:
        return chr(int(byte, 16) + (BYTES if int(byte, 16) >= 0x80 else 0))
    return chr(int(code, 16))


def to_json(content: Any) -> str:
    """JSON text that every reader accepts: bytes that are not UTF-8 are escaped as in `printable`.

    Raises ValueError for numbers that are not finite.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    return SURROGATES.sub(lambda match: "\\" + _escape(match), text) + "\n"
