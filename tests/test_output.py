"""Files whole or not at all."""

import os

import pytest

from singlestrip.errors import OutputError
from singlestrip.output import whole


def test_a_file_appears_when_its_block_ends_well(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole(path) as (partial,):
        partial.write_text("new")
        assert path.read_text() == "old" and partial.parent == tmp_path and partial.name.startswith(".")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_ends_badly_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OutputError, match=r"a.txt: cannot be written"), whole(path) as (partial,):
        partial.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_two_writers_with_one_process_number_do_not_meet(tmp_path, monkeypatch):
    """As in two containers, where both may be process 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path = tmp_path / "a.txt"
    with whole(path) as (first,):
        first.write_text("first")
        with whole(path) as (second,):
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
