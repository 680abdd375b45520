"""What --version says, against other ways to find it out."""

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys

import pytest
import torch

import singlestrip
from singlestrip.cli import versions
from singlestrip.networks.model_files import MODELS_VARIABLE, shipped_folder


def fields() -> dict[str, str]:
    """The lines after the first, by what they begin with."""
    lines = versions.describe().splitlines()[1:]
    return dict(re.split(r" {2,}", line.strip(), maxsplit=1) for line in lines)


def test_the_first_line_is_name_and_version():
    assert versions.describe().splitlines()[0] == f"singlestrip {singlestrip.__version__}"


@pytest.mark.parametrize("name", versions.LIBRARIES)
def test_libraries_have_the_version_installed(name):
    assert fields()[name] == importlib.metadata.version(name)


def test_all_that_the_package_needs_is_among_them():
    needed = importlib.metadata.requires("singlestrip")
    names = {re.match(r"[\w.-]+", line)[0] for line in needed if "extra ==" not in line}
    assert names and names <= set(versions.LIBRARIES)


def test_torch_tells_its_build():
    assert fields()["torch"] == torch.__version__


def test_a_library_that_is_missing_is_said_to_be(monkeypatch):
    monkeypatch.setattr(versions, "LIBRARIES", ("torch", "no-such-library"))
    assert fields()["no-such-library"] == "not installed"


def test_python_and_platform():
    assert fields()["python"] == platform.python_version()
    assert platform.machine() in fields()["platform"]


def test_model_files_have_their_checksum(tmp_path, monkeypatch):
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path))
    (tmp_path / "mine.safetensors").write_bytes(b"weights")
    (tmp_path / "notes.txt").write_bytes(b"no model")
    found = fields()
    assert found["models"] == f"{tmp_path}{os.pathsep}{shipped_folder()}"
    assert found["mine.safetensors"] == f"sha256 {hashlib.sha256(b'weights').hexdigest()[:12]}"
    assert "notes.txt" not in found


def test_shipped_models_are_among_them(monkeypatch):
    monkeypatch.delenv(MODELS_VARIABLE, raising=False)
    shipped = {path.name for path in shipped_folder().glob("*.safetensors")}
    assert {"singlestrip.safetensors", "quality.safetensors"} <= shipped <= set(fields())


def test_a_models_folder_that_is_missing_is_named_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "gone"))
    assert fields()["models"].startswith(str(tmp_path / "gone"))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot bind a process to a core")
def test_cores_are_those_the_process_may_use():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from singlestrip.cli.versions import describe; print(describe())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.search(r"^processor +1 cores, ", done.stdout, re.MULTILINE)


def test_memory_is_the_machines():
    gib = float(re.search(r"([\d.]+) GiB", fields()["processor"]).group(1))
    assert gib == pytest.approx(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, abs=0.1)


def test_gpus_are_those_the_driver_lists(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "NVIDIA", tmp_path)
    assert fields()["GPU"] == "none seen"
    for bus, text in (
        ("0000:01:00.0", "Model: \t\t NVIDIA H200\nIRQ:   \t\t 42\n"),
        ("0000:02:00.0", "IRQ: 43\n"),
    ):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(text)
    assert fields()["GPU"] == "NVIDIA H200, NVIDIA, model unknown"


def test_a_reader_that_stops_after_the_first_line_is_no_error():
    line = f'{sys.executable} -m singlestrip --version | head -n 1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == f"singlestrip {singlestrip.__version__}\n0\n"
    assert not done.stderr
