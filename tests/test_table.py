"""Tables of tab-separated values: what is written is read back."""

import pytest

from singlestrip.errors import InputError, OutputError, errors_named
from singlestrip.io.text.table import parse_table, table_line, write_table

COLUMNS = ("image", "score", "note")
CELLS = ["tab\tand\nline", "", "=formula", "'quoted", '"', "back\\slash", "-0.5", " blank ", "é 脑", "\udcff.nii"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_come_back(tmp_path, end):
    path = tmp_path / "table.tsv"
    write_table(path, COLUMNS, [{"image": cell, "note": f"of {cell}"} for cell in CELLS])
    text = path.read_text().replace("\n", end)
    columns, rows = parse_table(text + end)
    assert columns == list(COLUMNS) and list(rows) == list(range(2, 2 + len(CELLS)))
    for cell, row in zip(CELLS, rows.values(), strict=True):
        assert row == [cell, "", f"of {cell}"]


def test_a_line_is_one_line():
    assert table_line(["a\tb", "1.5", "=c"]) == "a\\tb\t1.5\t'=c\n"


def test_a_table_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError):
        write_table(tmp_path / "gone" / "table.tsv", COLUMNS, [])


def test_an_error_gets_the_names_of_its_files(tmp_path):
    image, mask = tmp_path / "a.nii", tmp_path / "b.nii"
    with pytest.raises(InputError, match=rf"^{image}, {mask}: too few voxels$"), errors_named(image, mask):
        raise InputError("too few voxels")
    with pytest.raises(OutputError, match=r"^full$"), errors_named(image):
        raise OutputError("full")
