"""The container recipe, tried in a bare Debian root made with debootstrap, and its files against each other."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import singlestrip

ROOT = Path(__file__).parents[1]
RECIPES = [ROOT / "docker" / name for name in ("Dockerfile.cpu", "Dockerfile.cuda", "singlestrip.def")]
INSTALL = ROOT / "docker/install.sh"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_recipes_install_by_the_one_script_and_are_told_the_version(recipe):
    text = recipe.read_text()
    assert re.search(r"install\.sh build /source", text) and re.search(r"install\.sh run\b", text)
    assert not re.search(r"\b(apt-get|pip) ", text.partition("\n\n")[2])
    assert singlestrip.__version__ not in text and "image.version" in text


def test_the_documented_command_prints_the_version():
    command = re.search(r"`VERSION=\$\((.+?)\)`", (ROOT / "docs/containers.md").read_text())[1]
    printed = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == singlestrip.__version__


def test_both_dockerfiles_differ_in_torch_and_gpu_alone():
    """Without torch, which the one for processors can leave out, there is nothing for a GPU to do."""
    cpu, cuda = (set(path.read_text().splitlines()) for path in RECIPES[:2])
    code = [line.replace('PARTS="$PARTS" ', "") for line in cpu ^ cuda if not line.startswith("#")]
    differing = [line for line in code if not line.startswith("RUN TORCH_INDEX=")]
    assert len(code) - len(differing) == 2 and len(set(code)) == len(code) - 1
    assert all(line.startswith(("ARG TORCH_INDEX=", "ARG PARTS=", "ENV NVIDIA_")) for line in differing)
    assert len(differing) == 4


def test_the_small_installation_lacks_what_training_alone_needs():
    text = (ROOT / "pyproject.toml").read_text()
    lists = [re.search(rf"^{name} = \[(.+?)\]$", text, re.M | re.S)[1] for name in ("dependencies", "bids")]
    everything = {line for each in lists for line in re.findall(r'"(.+?)"', each)}
    lines = (ROOT / "requirements-strip.txt").read_text().splitlines()
    small = {line for line in lines if not line.startswith("#")}
    assert small < everything
    assert {re.match(r"[\w-]+", line)[0] for line in everything - small} == {"torch", "scikit-learn"}


def test_docker_sends_every_file_that_the_install_script_copies():
    copied = re.search(r"for part in (.+?); do", INSTALL.read_text())[1].split()
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) <= sent


@pytest.mark.parametrize("arguments", [[], ["build"], ["run", "x"], ["other"]])
def test_install_script_says_how_it_is_used(arguments):
    found = subprocess.run(["sh", INSTALL, *arguments], capture_output=True, text=True)
    assert found.returncode == 2 and "build SOURCE" in found.stderr


@pytest.mark.slow
def test_recipe_strips_a_scan_in_a_bare_debian_root(tmp_path):
    if os.getuid() != 0:
        pytest.skip("making a Debian root needs root")
    if not shutil.which("debootstrap"):
        pytest.skip("debootstrap is not installed")
    if not os.environ.get("SINGLESTRIP_TEST_RECIPE"):
        pytest.skip("fetches a gigabyte: set SINGLESTRIP_TEST_RECIPE to a folder to work in")
    folder = Path(os.environ["SINGLESTRIP_TEST_RECIPE"])
    subprocess.run([ROOT / "bin/test-recipe", folder], check=True)
    data = folder / "root/data"
    scan, brain, mask = (nib.load(data / f"{name}.nii.gz") for name in ("scan", "brain", "mask"))
    inside = np.asarray(mask.dataobj) > 0
    assert brain.shape == scan.shape and inside.shape == scan.shape[:3]
    assert 0.05 < inside.mean() < 0.9
    np.testing.assert_array_equal(np.asarray(brain.dataobj)[inside], np.asarray(scan.dataobj)[inside])
    assert (data / "picture.png").stat().st_size > 1000 and (data / "mask.nii.gz").stat().st_uid == 54321
