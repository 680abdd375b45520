"""Examples in the documentation run as they are printed."""

import doctest
from pathlib import Path

import pytest


@pytest.mark.slow
def test_python_page(tmp_path, monkeypatch):
    page = Path(__file__).parents[1] / "docs/python.md"
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted > 15 and result.failed == 0
