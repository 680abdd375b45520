"""The pydra task: its inputs against the parser, and from files to files."""

import shlex
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("pydra.compose", reason="pydra 1 is not installed")

from pydra.utils import get_fields

from singlestrip.cli.interface import command_options
from singlestrip.cli.parser import build_parser
from singlestrip.integrations.names import input_name
from singlestrip.integrations.pydra import LEFT_OUT, Strip

SCAN = Path(nib.__file__).parent / "tests/data/example4d.nii.gz"
OPTIONS = {option.name: option for option in command_options(build_parser(), "strip")}
TAKEN = [name for name, option in OPTIONS.items() if name not in LEFT_OUT and option.role != "output"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with empty files."""
    monkeypatch.chdir(tmp_path)
    for name in ("t 1.nii.gz", "t2.mgz", "model.safetensors", "dwi.bval"):
        Path(name).write_text(name)
    return tmp_path


def parsed(**inputs) -> dict:
    """What the parser makes of the command line of a task."""
    python, *module, command = shlex.split(Strip(**inputs).cmdline)[:4]
    assert (python, module) == (sys.executable, ["-m", "singlestrip"])
    return vars(build_parser().parse_args([command, *shlex.split(Strip(**inputs).cmdline)[4:]]))


def test_every_option_of_one_image_is_an_input():
    names = {field.name for field in get_fields(Strip)} - {"executable", "append_args", "in_file", "save"}
    assert names == {input_name(OPTIONS[name]) for name in TAKEN}
    assert OPTIONS.keys() >= LEFT_OUT


@pytest.mark.parametrize("name", TAKEN)
def test_every_input_reaches_the_parser(folder, name):
    option = OPTIONS[name]
    if option.role == "none":
        value, wanted = True, option.action.const
    elif option.role == "input":
        value, wanted = folder / "dwi.bval", folder / "dwi.bval"
    elif option.role == "model":
        value, wanted = folder / "model.safetensors", str(folder / "model.safetensors")
    elif option.action.choices:
        value = wanted = option.action.choices[-1]
    elif option.range is not None:
        value = wanted = 1 if option.range.integer or option.range.highest == 1 else 2e-5
    else:
        value = wanted = "cuda:1"
    if isinstance(option.nargs, int) and option.role != "none":
        value, wanted = [-2e-5] * option.nargs, [-2e-5] * option.nargs
    found = parsed(in_file=folder / "t 1.nii.gz", **{input_name(option): value})
    assert found[option.action.dest] == wanted != option.action.default


def test_brain_and_mask_are_written_unless_others_are_named(folder):
    found = parsed(in_file=folder / "t 1.nii.gz")
    assert found["image"] == [folder / "t 1.nii.gz"]
    assert (found["out"], found["mask"], found["sdt"]) == (Path("t 1_brain.nii.gz"), Path("t 1_mask.nii.gz"), None)
    found = parsed(in_file=folder / "t2.mgz", save=["sdt", "picture"])
    assert (found["out"], found["mask"]) == (None, None)
    assert (found["sdt"], found["picture"]) == (Path("t2_sdt.mgz"), Path("t2_picture.png"))


def test_a_model_may_be_a_name(folder):
    assert parsed(in_file=folder / "t2.mgz", model="fetus")["model"] == "fetus"
    found = parsed(in_file=folder / "t2.mgz", model="model.safetensors")
    assert found["model"] == str(folder / "model.safetensors")


def test_pydra_notices_a_model_trained_anew(folder):
    before = Strip(in_file=folder / "t2.mgz", model="model.safetensors")._hash
    assert Strip(in_file=folder / "t2.mgz", model="model.safetensors")._hash == before
    Path("model.safetensors").write_text("other weights")
    assert Strip(in_file=folder / "t2.mgz", model="model.safetensors")._hash != before


def test_wrong_values_are_refused(folder):
    for wrong in ({"border": "wide"}, {"engine": "steam"}, {"in_file": folder / "missing.nii"}):
        with pytest.raises(Exception, match=next(iter(wrong)) + "|missing"):
            parsed(**({"in_file": folder / "t2.mgz"} | wrong))


@pytest.fixture
def scans(folder):
    """One frame each of a real scan, in files of two formats."""
    scan = nib.load(SCAN)
    frames = [np.asarray(scan.dataobj[..., t]) for t in (0, 1)]
    nib.save(nib.Nifti1Image(frames[0], scan.affine), "one.nii.gz")
    nib.save(nib.MGHImage(frames[1], scan.affine), "two.mgz")
    return [folder / "one.nii.gz", folder / "two.mgz"]


@pytest.mark.slow
def test_many_images_are_stripped_and_kept_until_an_input_changes(scans, folder):
    task = Strip(save=["mask"], num_threads=1).split(in_file=scans)
    found = task(worker="debug", cache_root=folder / "cache").mask_file
    assert [Path(mask).name for mask in found] == ["one_mask.nii.gz", "two_mask.mgz"]
    assert all(700 < np.asarray(nib.load(mask).dataobj).sum() * 2 * 2 * 2.2 / 1000 < 1000 for mask in found)
    written = Path(found[0]).stat().st_mtime_ns
    one = Strip(in_file=scans[0], save=["mask"], num_threads=1)(cache_root=folder / "cache")
    assert Path(one.mask_file).stat().st_mtime_ns == written and one.out_file is None
    more = Strip(in_file=scans[0], save=["mask", "sdt"], num_threads=1)(cache_root=folder / "cache")
    assert Path(more.sdt_file).name == "one_sdt.nii.gz"


@pytest.mark.slow
def test_a_failure_is_an_error_of_the_task(folder):
    with pytest.raises(Exception, match=r"t2\.mgz"):
        Strip(in_file=folder / "t2.mgz")(cache_root=folder / "cache")
