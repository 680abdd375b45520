"""The rooms of the package: public import paths, and what the import contract in pyproject.toml cannot see."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import singlestrip

PACKAGE = Path(singlestrip.__file__).parent
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())
TORCH_FILES = "networks/training_state.py"  # the one module that reads and writes files of torch


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("singlestrip", "strip"),
        ("singlestrip", "strip_file"),
        ("singlestrip", "Stripper"),
        ("singlestrip", "SingleStripError"),
        ("singlestrip.quality", "QualityModel"),
    ],
)
def test_public_names_are_where_the_documents_have_them(module, name):
    found = importlib.import_module(module)
    assert callable(getattr(found, name)) and name in found.__all__


def test_a_name_that_is_not_there_is_an_error():
    for module in ("singlestrip", "singlestrip.quality"):
        with pytest.raises(AttributeError, match=module):
            _ = importlib.import_module(module).no_such_name


def test_public_nipype_interfaces():
    pytest.importorskip("nipype", reason="nipype is not installed")
    public = importlib.import_module("singlestrip.nipype_interfaces")
    interfaces = importlib.import_module("singlestrip.integrations.nipype")
    for name in public.__all__:
        assert getattr(public, name) is getattr(interfaces, name)


def test_a_room_loads_no_torch_and_says_what_it_does():
    code = f"""
import importlib, sys
for room in {ROOMS!r}:
    assert importlib.import_module("singlestrip." + room).__doc__, room
sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_few_modules_stand_outside_the_rooms():
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def torch_files(text: str) -> set[str]:
    """Which of torch.save and torch.load a module names, or imports from torch."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            found.add(node.attr)
        if isinstance(node, ast.ImportFrom) and node.module in ("torch", "torch.serialization"):
            found.update(alias.name for alias in node.names)
    return found & {"save", "load"}


def test_one_module_touches_files_of_torch():
    paths = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    touching = {name for name, path in paths.items() if torch_files(path.read_text(encoding="utf-8"))}
    assert touching == {TORCH_FILES}
    assert torch_files("import torch\ntorch.save(1, 2)\n") == {"save"}
    assert torch_files("from torch import load\n") == {"load"}
