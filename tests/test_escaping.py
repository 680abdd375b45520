"""Names as cells of tables and as lines of terminals: nothing torn, everything read back."""

import csv
import io
import json
import random

import pytest

from singlestrip.io.text.escaping import from_cell, printable, to_cell, to_json

NAMES = [
    "plain.nii",
    "new\nline\r\ttab.nii",
    "\x1b[31mred\x07\x7f\x85.nii",
    "caf\udce9\udcff.nii",  # bytes that are not UTF-8
    "two\u2028lines\u2029 \u202egro.nii",
    "back\\slash \\n \\x41 \\",
    " blanks at both ends\u00a0",
    "=1+1",
    "+1+1.nii",
    "-x.nii",
    "@SUM(A1)",
    "＝1",
    "'quoted'",
    '"quoted" on',
    "Müller 漢字 😀.nii",
    "",
    " ",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_gives_its_name_back(name):
    cell = to_cell(name)
    assert from_cell(cell) == name
    assert cell == cell.strip() and all(c.isprintable() for c in cell)
    cell.encode()
    assert not cell.startswith(("=", "+", "-", "@", "＝", '"'))


def test_random_names_come_back():
    draw = random.Random(0)
    letters = "\t\n\r\x00\x1b\x85\u2028\udc80\udcff =+-@'\"\\xtnru09aeE.é😀"
    for _ in range(5000):
        name = "".join(draw.choices(letters, k=draw.randint(0, 8)))
        assert from_cell(to_cell(name)) == name


def test_what_needs_no_escape_stays():
    for text in ("a b.nii", "Müller 漢字 😀.nii", "x=1", "0.9877", "-0.5", "+1e-05", "-inf", "nan", "~/a.nii"):
        assert to_cell(text) == text


def test_cells_that_people_wrote():
    r"""A backslash that begins no escape, as in C:\data, is itself."""
    assert from_cell(r" C:\data\my.nii ") == r"C:\data\my.nii"
    assert from_cell(r"a\u00e9\x5cb") == "aé\\b"


def test_a_row_is_a_row_to_every_reader():
    """Quoting or not, whatever ends lines: also to readers that take quotes for their own."""
    line = "\t".join(map(to_cell, NAMES)) + "\n"
    for quoting in (csv.QUOTE_NONE, csv.QUOTE_MINIMAL):
        (row,) = csv.reader(io.StringIO(line, newline=""), delimiter="\t", quoting=quoting)
        assert [from_cell(cell) for cell in row] == NAMES
    assert len(line.splitlines()) == 1


def test_terminals_get_one_line():
    text = printable("a\x1b]0;title\x07\nb\udce9 Müller \\n")
    assert text == r"a\x1b]0;title\x07\nb\xe9 Müller \n"
    assert printable(text) == text


def test_json_that_every_reader_takes():
    content = {"name": "caf\udce9\n\u2028\\", "numbers": [1, 0.5, None]}
    text = to_json(content)
    assert json.loads(text.encode()) == {"name": "caf\\xe9\n\u2028\\", "numbers": [1, 0.5, None]}
    with pytest.raises(ValueError):
        to_json({"dice": float("nan")})
