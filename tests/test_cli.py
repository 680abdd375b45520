"""The command line: help, wrong arguments, failures, and each command from file to file."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from phantoms import PhantomCascade, describe_model, make_head, threshold_cascade, tiny_cascade
from scipy.ndimage import gaussian_filter

import singlestrip
from singlestrip.batch.shards import SLURM_VARIABLES
from singlestrip.cli.main import main
from singlestrip.cli.parser import COMMANDS, build_parser, command_module
from singlestrip.configuration import TrainConfig, TransferConfig
from singlestrip.errors import SingleStripError
from singlestrip.networks import checkpoint, model_files
from singlestrip.networks.cascade import Cascade
from singlestrip.space.metrics import dice
from singlestrip.stripping.stripper import Stripper
from singlestrip.training import fitting

SECTIONS = ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "EXIT STATUS", "REFERENCES")
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def head():
    return make_head()


@pytest.fixture
def files(head, tmp_path, monkeypatch):
    """image.nii.gz, mask.nii.gz and labels.nii.gz in the working folder."""
    monkeypatch.chdir(tmp_path)
    head.save(tmp_path)
    return tmp_path


@pytest.fixture
def trained(files, monkeypatch):
    """The files, and a stripper that knows the phantom in place of the shipped weights."""
    monkeypatch.setattr(Stripper, "load", staticmethod(lambda *arguments: Stripper(PhantomCascade())))
    return files


@pytest.fixture
def tiny(files):
    """An untrained model with tiny networks."""
    torch.manual_seed(0)
    checkpoint.save_model(files / "tiny.safetensors", Cascade(tiny_cascade(8.0)), {})
    return "tiny.safetensors"


def run(line: str) -> int:
    return main(line.split())


def names(folder=".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir() if path.name != ".singlestrip")


def load(name) -> np.ndarray:
    return np.asanyarray(nib.load(name).dataobj)


def python(*arguments, **keywords):
    environment = os.environ | {"PYTHONPATH": str(Path(singlestrip.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, **keywords
    )


def parsers() -> dict[str, argparse.ArgumentParser]:
    top = build_parser()
    subs = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    return {"": top, **subs.choices}


# Help


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_a_manual_page(command, capsys):
    with pytest.raises(SystemExit) as stop:
        run(f"{command} --help")
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    found = [line.rstrip(":") for line in lines if line.rstrip(":") in SECTIONS]
    assert sorted(found) == sorted(SECTIONS)
    assert found[:3] == list(SECTIONS[:3])
    assert found[-3:] == list(SECTIONS[-3:])
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_option_is_explained(command):
    parser = parsers()[command]
    page = parser.format_help()
    for action in parser._actions:
        assert action.help or isinstance(action, argparse._SubParsersAction), action.dest
        assert all(option in page for option in action.option_strings)


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_in_the_help_are_the_defaults(command):
    for action in parsers()[command]._actions:
        if isinstance(action.default, int | float) and not isinstance(action.default, bool):
            assert f"default {action.default:g}" in action.help


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_parse(command):
    for example in command_module(command).EXAMPLES.splitlines():
        name, *arguments = example.split()
        assert name == "singlestrip"
        assert build_parser().parse_args(arguments).command == command


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_version(command, capsys):
    with pytest.raises(SystemExit) as stop:
        run(f"{command} --version")
    assert stop.value.code == 0
    assert capsys.readouterr().out.splitlines()[0] == f"singlestrip {singlestrip.__version__}"


@pytest.mark.parametrize("option", ["--help", "--version"])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_and_version_load_no_library(command, option):
    arguments = [*command.split(), option]
    code = f"""
import sys
from singlestrip.cli.main import main
try:
    main({arguments!r})
finally:
    loaded = {{"numpy", "torch", "nibabel", "scipy", "sklearn", "matplotlib"}} & set(sys.modules)
    assert not loaded, loaded
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert ("SYNOPSIS" if option == "--help" else "torch") in done.stdout


@pytest.mark.parametrize(
    "module",
    ["singlestrip", "singlestrip.synthesis.labelling", "singlestrip.bids.layout", "singlestrip.batch.strip"],
)
def test_what_needs_no_network_loads_no_torch(module):
    """The package itself, all that fit-gmm calls, and what finds and names the files of many images."""
    done = python("-c", f"import sys, {module}; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "line, status",
    [
        ("strip --no-such-option", 2),
        ("strip -i a.nii", 2),
        ("strip -i a.nii b.nii -m out.nii", 2),
        ("strip -i a.nii --out-dir . --format .jpg", 2),
        ("strip -i a.nii -m out.nii", 1),
        ("strip -i . -m out.nii", 1),
        ("strip -i a.nii -m nowhere/out.nii", 1),
        ("strip --list list.txt --out-dir .", 1),
    ],
)
def test_a_wrong_option_or_path_is_refused_before_a_library_is_loaded(line, status, tmp_path):
    code = f"""
import sys
from singlestrip.cli.main import main
try:
    status = main({line.split()!r})
except SystemExit as stop:
    status = stop.code
print(status, {{"numpy", "torch", "nibabel", "scipy"}} & set(sys.modules))
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.stdout == f"{status} set()\n"
    assert done.stderr.splitlines()[-1].startswith("singlestrip: ")


def test_only_the_subcommand_that_is_named_is_loaded():
    code = """
import sys
from singlestrip.cli.parser import parse
assert parse(["strip", "-i", "a.nii"]).command == "strip"
print(*sorted(name for name in sys.modules if name.startswith("singlestrip.cli.commands.")))
"""
    assert python("-c", code).stdout == "singlestrip.cli.commands.strip\n"


# Wrong command lines


@pytest.mark.parametrize(
    "line",
    [
        "",
        "no-such-command",
        "strip",
        "strip -m out.nii.gz",
        "strip -i image.nii.gz",
        "strip -i image.nii.gz -m out.nii.gz --no-such-option",
        "strip -i image.nii.gz mask.nii.gz -m out.nii.gz",
        "strip -i image.nii.gz mask.nii.gz",
        "strip -i image.nii.gz -o out.nii.gz --out-dir out",
        "strip -i image.nii.gz -m image.nii.gz",
        "strip -i image.nii.gz -m out.nii.gz -o out.nii.gz",
        "strip -i image.nii.gz -m out.nii.gz --save mask",
        "strip -i image.nii.gz --out-dir out --bval b.bval",
        "strip -i image.nii.gz -m out.nii.gz --bval b.bval --mean-frame",
        "strip -i image.nii.gz -m b.bval --bval b.bval",
        "strip -i image.nii.gz -m out.nii.gz --b0-limit 100",
        "strip -i image.nii.gz -m out.nii.gz --bval b.bval --b0-limit -1",
        "strip -i image.nii.gz -m out.nii.gz --crop 5",
        "strip -i image.nii.gz --out-dir out --save mask --crop 5",
        "strip -i image.nii.gz -o out.nii.gz --crop -1",
        "bids . out group --b0-limit 100",
        "strip -i image.nii.gz -m out.nii.gz --centre 1 2",
        "strip -i image.nii.gz -m out.nii.gz --centre 1 2 inf",
        "strip -i image.nii.gz mask.nii.gz --out-dir out --centre 1 2 3",
        "bids . out",
        "bids . out session",
        "bids . out participant --qc-model quality",
        "bids . out participant --pass-from 0.9",
        "bids . out group --resume",
        "bids . out group --save brain",
        "strip -i image.nii.gz --out-dir out --save hat",
        "strip -i image.nii.gz --out-dir out --shard 3/2",
        "strip -i image.nii.gz --out-dir out --shard some",
        "strip -i image.nii.gz -m out.nii.gz --shard 1/1",
        "strip -i image.nii.gz --out-dir out --format .jpg",
        "strip -i image.nii.gz -m out.nii.gz --border nan",
        "strip -i image.nii.gz -m out.nii.gz --border wide",
        "strip -i image.nii.gz -m out.nii.gz --fill inf",
        "strip -i image.nii.gz -m out.nii.gz --memory 0",
        "strip -i image.nii.gz -m out.nii.gz --threads 0",
        "fit-gmm -i image.nii.gz -o out.nii.gz",
        "fit-gmm -i image.nii.gz -m mask.nii.gz",
        "fit-gmm -i image.nii.gz -m mask.nii.gz -o out.nii.gz --inside 0",
        "fit-gmm -i image.nii.gz -m mask.nii.gz -o out.nii.gz --outside few",
        "train",
        "train -o model.safetensors",
        "train -i image.nii.gz -m mask.nii.gz",
        "train -i image.nii.gz -o model.safetensors",
        "train -i image.nii.gz image.nii.gz -m mask.nii.gz -o model.safetensors",
        "train -i image.nii.gz -m mask.nii.gz -o model.pt",
        "train -i image.nii.gz -m mask.nii.gz -o model.safetensors --steps 0",
        "train -i image.nii.gz -m mask.nii.gz -o model.safetensors --lr -1",
        "train -i image.nii.gz -m mask.nii.gz -o model.safetensors --val image.nii.gz",
        "train -i image.nii.gz -m mask.nii.gz -o model.safetensors --norm batch",
        "train -i image.nii.gz -m mask.nii.gz -o model.safetensors --init tiny.safetensors --norm none",
    ],
)
def test_wrong_command_lines(line, files, capsys):
    before = names()
    with pytest.raises(SystemExit) as stop:
        run(line)
    assert stop.value.code == 2
    assert "usage: singlestrip" in capsys.readouterr().err
    assert names() == before


# Failures


def assert_fails(line, capsys, *parts):
    """Exit status 1 and one line that names what is wrong; no file left."""
    before = names()
    assert run(line) == 1
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1
    assert err.startswith("singlestrip: ")
    assert "unexpected" not in err
    for part in parts:
        assert part in err
    assert names() == before


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("strip -i missing.nii.gz -m out.nii.gz", "missing.nii.gz"),
        ("strip -i damaged.nii.gz -m out.nii.gz", "damaged.nii.gz"),
        ("strip -i notes.txt -m out.nii.gz", "notes.txt"),
        ("strip -i constant.nii.gz -m out.nii.gz", "constant.nii.gz"),
        ("strip -i image.nii.gz -m nowhere/out.nii.gz", "nowhere"),
        ("strip -i image.nii.gz -m out.jpg", "out.jpg"),
        ("strip -i image.nii.gz -p picture.bmp", "picture.bmp"),
        ("strip -i image.nii.gz -m out.nii.gz --memory 0.01", "image.nii.gz"),
        ("strip -i image.nii.gz -m out.nii.gz --border -500", "border of -500 mm"),
        ("strip --list missing.txt --out-dir .", "missing.txt"),
        ("fit-gmm -i missing.nii.gz -m mask.nii.gz -o out.nii.gz", "missing.nii.gz"),
        ("fit-gmm -i image.nii.gz -m small.nii.gz -o out.nii.gz", "small.nii.gz"),
        ("fit-gmm -i image.nii.gz -m constant.nii.gz -o out.nii.gz", "mask"),
        ("fit-gmm -i image.nii.gz -m mask.nii.gz -o out.nii.gz --picture labels.bmp", "labels.bmp"),
        ("fit-gmm -i image.nii.gz -m mask.nii.gz -o out.nii.gz --inside 91", "91"),
        ("train -i missing.nii.gz -m mask.nii.gz -o model.safetensors", "missing.nii.gz"),
        ("train -l image.nii.gz -o model.safetensors", "image.nii.gz"),
        ("train -l labels.nii.gz -o model.safetensors --init missing -q", "missing"),
        ("train -l labels.nii.gz -o model.safetensors --init notes.txt -q", "notes.txt"),
        ("train -l labels.nii.gz --picture sheet.bmp", "sheet.bmp"),
        ("strip -i image.nii.gz -m out.nii.gz --bval missing.bval --border 1 --memory 0.01", "image.nii.gz"),
        ("bids nowhere out participant", "nowhere"),
        ("bids . out participant", "no image to strip"),
        ("bids . out participant --participant-label 09", "sub-09"),
    ],
)
def test_failures_are_one_line(line, part, trained, head, capsys):
    Path("damaged.nii.gz").write_bytes(Path("image.nii.gz").read_bytes()[:2000])
    Path("notes.txt").write_text("not an image")
    nib.save(nib.Nifti1Image(np.ones_like(head.image), head.vox2world), "constant.nii.gz")
    nib.save(nib.Nifti1Image(head.labels[1:], head.vox2world), "small.nii.gz")
    assert_fails(line, capsys, part)


def test_a_missing_model_fails(files, capsys, monkeypatch):
    monkeypatch.setenv(model_files.MODELS_VARIABLE, str(files))
    monkeypatch.setattr(model_files, "shipped_folder", lambda: files / "empty")
    assert_fails("strip -i image.nii.gz -m out.nii.gz --model missing", capsys, "missing", str(files))
    assert_fails("strip -i image.nii.gz -m out.nii.gz", capsys, model_files.MODELS_VARIABLE)


def test_a_damaged_model_fails(files, tiny, capsys):
    whole = Path(tiny).read_bytes()
    Path(tiny).write_bytes(whole[: len(whole) // 2])
    assert_fails(f"strip -i image.nii.gz -m out.nii.gz --model {tiny}", capsys, tiny)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_device_fails(files, tiny, capsys):
    assert_fails(f"strip -i image.nii.gz -m out.nii.gz --model {tiny} --device cuda", capsys, "cuda")
    assert_fails(f"strip -i image.nii.gz -m out.nii.gz --model {tiny} --device abacus", capsys, "abacus")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["strip", "segment", "train", "self-train", "qc", "bids"])
def test_without_a_gpu_one_sentence_says_so(command, files, tiny, capsys):
    """The check comes before the work on images, so that these can be anything."""
    Path("scans.txt").write_text("image.nii.gz\n")
    lines = {
        "strip": f"strip -i image.nii.gz -m out.nii.gz --model {tiny}",
        "segment": f"segment -i image.nii.gz -o out.nii.gz --model {tiny}",
        "train": f"train -i image.nii.gz -m mask.nii.gz -o new.safetensors --init {tiny}",
        "self-train": "self-train -i image.nii.gz -m mask.nii.gz --list scans.txt -o run",
        "qc": "qc -m mask.nii.gz",
        "bids": "bids . out participant",
    }
    Path("sub-01/anat").mkdir(parents=True)
    Path("sub-01/anat/sub-01_T1w.nii.gz").write_bytes(Path("image.nii.gz").read_bytes())
    for option in ("-g", "--gpu"):
        assert_fails(f"{lines[command]} {option}", capsys, "device cuda: ", "choose the device cpu (--device)")


def test_the_last_of_gpu_and_device_counts():
    line = ["strip", "-i", "a.nii", "-m", "b.nii"]
    for options, device in (("-g", "cuda"), ("--device cuda:1 --gpu", "cuda"), ("--gpu --device cpu", "cpu")):
        assert build_parser().parse_args([*line, *options.split()]).device == device


def test_debug_shows_where_an_error_came_from(trained):
    with pytest.raises(SingleStripError, match="missing"):
        run("strip -i missing.nii.gz -m out.nii.gz --debug")


def test_the_process_fails_as_main_does(files):
    line = ["-m", "singlestrip", "strip", "-i", "image.nii.gz", "-m", "out.nii.gz", "--model", "missing"]
    plain, debug = python(*line), python(*line, "--debug")
    assert plain.returncode == debug.returncode == 1
    assert len(plain.stderr.splitlines()) == 1
    assert "Traceback" in debug.stderr


def test_what_nobody_foresaw_is_one_line_too(trained, capsys, monkeypatch):
    def fail(*args, **options):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(Stripper, "strip", fail)
    assert run("strip -i image.nii.gz -m out.nii.gz") == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "ZeroDivisionError" in err
    assert "--debug" in err
    with pytest.raises(ZeroDivisionError):
        run("strip -i image.nii.gz -m out.nii.gz --debug")


# strip --bval


def test_strip_the_frames_of_b0(trained, head):
    dark = np.where(head.mask, 0, head.image)
    nib.save(nib.Nifti1Image(np.stack([dark, head.image, dark], -1), head.vox2world), "dwi.nii.gz")
    Path("dwi.bval").write_text("1000 0 1000")
    assert run("strip -i dwi.nii.gz -m m.nii.gz --bval dwi.bval") == 0
    assert load("m.nii.gz").shape == head.mask.shape
    assert dice(load("m.nii.gz") > 0, head.mask) > 0.97


def test_frames_count_up_to_a_b_value(trained, head):
    dark = np.where(head.mask, 0, head.image)
    nib.save(nib.Nifti1Image(np.stack([dark, head.image, dark], -1), head.vox2world), "dwi.nii.gz")
    Path("dwi.bval").write_text("100 80 1000")
    assert run("strip -i dwi.nii.gz -m m.nii.gz --bval dwi.bval") == 1
    assert run("strip -i dwi.nii.gz -m m.nii.gz --bval dwi.bval --b0-limit 80") == 0
    assert dice(load("m.nii.gz") > 0, head.mask) > 0.97
    assert run("strip -i dwi.nii.gz -m both.nii.gz --bval dwi.bval --b0-limit 100") == 0
    assert (load("both.nii.gz") != load("m.nii.gz")).any()


# strip --crop and --probability


def test_the_brain_is_cropped_and_lies_where_it_did(trained, head):
    """In every format, to 6 mm beyond the mask, which is one voxel."""
    assert run("strip -i image.nii.gz -o whole.nii.gz -m m.nii.gz") == 0
    where = np.argwhere(load("m.nii.gz") > 0)
    start, stop = where.min(0) - 1, where.max(0) + 2
    box = tuple(map(slice, start, stop))
    for name in ("b.nii.gz", "b.nii", "b.img", "b.mgz"):
        assert run(f"strip -i image.nii.gz -o {name} -m mask-{name} --crop 6") == 0
        np.testing.assert_array_equal(load(name), load("whole.nii.gz")[box])
        np.testing.assert_allclose(nib.load(name).affine[:3, 3], (head.vox2world @ [*start, 1])[:3], atol=1e-4)
        assert load(f"mask-{name}").shape == head.mask.shape
    for margin in (1000, 1e300):
        assert run(f"strip -i image.nii.gz -o all.nii.gz --crop {margin}") == 0
        assert Path("all.nii.gz").read_bytes() == Path("whole.nii.gz").read_bytes()
    assert run("strip -i image.nii.gz -o tight.nii.gz --crop 0") == 0
    assert load("tight.nii.gz").shape == tuple(stop - start - 2)


def test_a_cropped_series_has_one_box(trained, head):
    """Around the masks of all frames."""
    moved = np.roll(head.image, 3, axis=0)
    nib.save(nib.Nifti1Image(np.stack([head.image, moved], -1), head.vox2world), "series.nii.gz")
    assert run("strip -i series.nii.gz -o b.nii.gz -m m.nii.gz --crop 0") == 0
    where = np.argwhere((load("m.nii.gz") > 0).any(-1))
    assert load("b.nii.gz").shape == (*(np.ptp(where, axis=0) + 1), 2)


def test_crops_in_a_folder_are_kept_as_they_were_made(scans, capsys):
    line = "strip -i scans/a.nii.gz scans/b.nii --out-dir out --save brain"
    assert run(f"{line} --crop 6") == 0
    before = {path: path.stat().st_mtime_ns for path in Path("out").glob("*.nii*")}
    assert len(before) == 2 and run(f"{line} --crop 6 --resume") == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before and capsys.readouterr() == ("", "")
    size = load("out/b_brain.nii").shape
    assert run(f"{line} --crop 12 --resume") == 0
    assert "margin of the crop in mm 6 (now 12)" in capsys.readouterr().err
    assert np.all(np.subtract(load("out/b_brain.nii").shape, size) == 2)
    assert run(f"{line} --resume") == 0 and load("out/b_brain.nii").shape == load("scans/b.nii").shape


def test_the_probability_of_brain(trained, head):
    """From 0 to 1 on the image's grid; at least a half in the mask but where a hole was filled."""
    assert run("strip -i image.nii.gz -m m.nii.gz --probability p.nii.gz -b 6") == 0
    assert run("strip -i image.nii.gz -m plain.nii.gz --probability p.mgz") == 0
    image = nib.load("p.nii.gz")
    probability, mask = image.get_fdata(), load("plain.nii.gz") > 0
    assert image.get_data_dtype() == np.uint8 and image.dataobj.slope == pytest.approx(1 / 255)
    assert probability.shape == head.mask.shape and 0 <= probability.min() < probability.max() <= 1
    np.testing.assert_array_equal(image.affine, head.vox2world)
    assert ((probability >= 0.5) == mask).mean() > 0.999
    assert image.header["intent_name"] == b"probability"  # which has room for 16 bytes
    np.testing.assert_allclose(load("p.mgz"), probability, atol=1e-6)  # the border moves the mask alone
    singlestrip._load.cache_clear()
    found = singlestrip.strip(head.image, head.vox2world, probability=True)
    np.testing.assert_allclose(found.probability, probability, atol=0.5 / 255 + 1e-6)
    assert (
        found.probability.dtype == np.float32 and singlestrip.strip(head.image, head.vox2world).probability is None
    )
    singlestrip.strip_file("image.nii.gz", probability="q.nii.gz", out="b.nii.gz", crop_mm=6)
    np.testing.assert_array_equal(nib.load("q.nii.gz").get_fdata(), probability)
    assert load("b.nii.gz").shape < head.mask.shape
    singlestrip._load.cache_clear()


@pytest.mark.parametrize("crop_mm", [-1, float("nan"), float("inf")])
def test_a_margin_in_python_is_a_number_from_0(trained, crop_mm):
    with pytest.raises(SingleStripError, match="a finite number from 0"):
        singlestrip.strip_file("image.nii.gz", out="b.nii.gz", crop_mm=crop_mm)
    with pytest.raises(SingleStripError, match="name out"):
        singlestrip.strip_file("image.nii.gz", mask="m.nii.gz", crop_mm=1)
    assert not Path("b.nii.gz").exists()


def test_probabilities_in_a_folder_and_of_frames(scans, head):
    nib.save(nib.Nifti1Image(np.stack([head.image] * 2, -1), head.vox2world), "scans/c.nii")
    assert run("strip -i scans/a.nii.gz scans/c.nii --out-dir out --save probability mask --format .mgz") == 0
    assert names("out") == ["a_mask.mgz", "a_probability.mgz", "c_mask.mgz", "c_probability.mgz"]
    assert load("out/c_probability.mgz").shape == (*head.mask.shape, 2)
    np.testing.assert_array_equal(load("out/c_probability.mgz")[..., 1], load("out/a_probability.mgz"))


# fit-gmm


def test_fit_gmm(files, head):
    assert run("fit-gmm -i image.nii.gz -m mask.nii.gz -o l.nii.gz --inside 3 --outside 3 --picture l.png") == 0
    labels = load("l.nii.gz")
    assert labels.dtype == np.uint8
    assert np.mean(labels == head.labels) > 0.999  # the classes of the phantom, which lie ten deviations apart
    np.testing.assert_array_equal(nib.load("l.nii.gz").affine, head.vox2world)
    record = json.loads(Path("l.json").read_text())
    assert record["inside"]["mean"] == pytest.approx([60, 80, 100], abs=0.5)
    assert record["outside"]["mean"] == pytest.approx([0, 8, 20], abs=0.5)
    assert record["inside"]["standard_deviation"] == pytest.approx([1, 1, 1], abs=0.2)
    assert record["seed"] == 0
    assert Path("l.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(("inside", "outside"), [(1, 1), (2, 4), (6, 2)])
def test_fit_gmm_makes_as_many_classes_as_asked(files, head, inside, outside):
    assert run(f"fit-gmm -i image.nii.gz -m mask.nii.gz -o l.nii --inside {inside} --outside {outside}") == 0
    labels = load("l.nii")
    assert set(np.unique(labels)) <= {*range(1, 1 + outside), *range(101, 101 + inside)}
    np.testing.assert_array_equal(labels > 100, head.mask)


def test_fit_gmm_records_its_seed(files):
    assert run("fit-gmm -i image.nii.gz -m mask.nii.gz -o l.mgz --seed 7") == 0
    assert json.loads(Path("l.json").read_text())["seed"] == 7
    assert run("fit-gmm -i image.nii.gz -m mask.nii.gz -o m.mgz --seed 7") == 0
    np.testing.assert_array_equal(load("l.mgz"), load("m.mgz"))


# strip


def test_strip_writes_all_that_is_asked(trained, head):
    assert run("strip -i image.nii.gz -o o.nii.gz -m m.nii.gz -d d.nii.gz -p p.png") == 0
    mask, brain, sdt = load("m.nii.gz"), load("o.nii.gz"), load("d.nii.gz")
    assert (mask.dtype, brain.dtype, sdt.dtype) == (np.uint8, head.image.dtype, np.float32)
    assert set(np.unique(mask)) == {0, 1}
    assert dice(mask > 0, head.mask) > 0.93
    np.testing.assert_array_equal(brain[mask > 0], head.image[mask > 0])
    assert (brain[mask == 0] == head.image.min()).all()
    assert head.image.min() < 0
    assert ((sdt < 0) == (mask > 0)).mean() > 0.999
    assert np.abs(sdt[mask > 0]).max() < 6 * 32
    assert Path("p.png").read_bytes().startswith(PNG)
    for name in ("m.nii.gz", "o.nii.gz", "d.nii.gz"):
        np.testing.assert_array_equal(nib.load(name).affine, head.vox2world)
    written = {"o.nii.gz", "m.nii.gz", "d.nii.gz", "p.png"}
    assert set(names()) == written | {"image.nii.gz", "mask.nii.gz", "labels.nii.gz"}


def test_strip_as_library(trained, head):
    singlestrip._load.cache_clear()
    singlestrip.strip_file("image.nii.gz", mask="library.nii.gz")
    run("strip -i image.nii.gz -m command.nii.gz")
    np.testing.assert_array_equal(load("library.nii.gz"), load("command.nii.gz"))
    np.testing.assert_array_equal(singlestrip.strip(head.image, head.vox2world).mask, load("library.nii.gz") > 0)
    singlestrip._load.cache_clear()


def test_border_moves_the_surface(trained):
    for border in (-8, 0, 8):
        assert run(f"strip -i image.nii.gz -m moved{border}.nii.gz --border {border}") == 0
    small, plain, large = (load(f"moved{border}.nii.gz") > 0 for border in (-8, 0, 8))
    assert not (small & ~plain).any()
    assert not (plain & ~large).any()
    radius = [(mask.sum() * 6**3 * 3 / 4 / np.pi) ** (1 / 3) for mask in (small, plain, large)]
    assert np.diff(radius) == pytest.approx([8, 8], abs=2.5)


BLOBS_MM = ((60.0, -20.0, 0.0), (-70.0, 30.0, 10.0))  # of which the first is the larger
BLOB_RADII_MM = (40.0, 25.0)


def blob(number):
    """One of two bright balls in one field of view, boolean, and the vox2world."""
    vox2world = np.diag([-6.0, 6, 6, 1])
    vox2world[:3, 3] = 117, -93, -93
    world = np.moveaxis(np.indices((40, 32, 32)), 0, -1) * [-6, 6, 6] + vox2world[:3, 3]
    return np.linalg.norm(world - np.array(BLOBS_MM[number]), axis=-1) < BLOB_RADII_MM[number], vox2world


def words(point):
    return " ".join(f"{value:g}" for value in point)


def test_the_centre_says_which_part_is_the_brain(trained):
    """In every frame; the same from Python; with one image in a folder too."""
    (large, vox2world), (small, _) = blob(0), blob(1)
    image = np.where(large | small, 100, 0).astype(np.float32)
    nib.save(nib.Nifti1Image(image, vox2world), "two.nii.gz")
    nib.save(nib.Nifti1Image(np.stack([image, 2 * image], -1), vox2world), "frames.nii.gz")
    assert run("strip -i two.nii.gz -m found.nii.gz") == 0
    assert dice(load("found.nii.gz") > 0, large) > 0.95
    for number, truth in enumerate((large, small)):
        centre = words(BLOBS_MM[number])
        assert run(f"strip -i two.nii.gz -m given.nii.gz --centre {centre}") == 0
        given = load("given.nii.gz")
        assert dice(given > 0, truth) > 0.95
        assert run(f"strip -i frames.nii.gz -m frames-mask.nii.gz --centre {centre}") == 0
        np.testing.assert_array_equal(load("frames-mask.nii.gz"), np.stack([given] * 2, -1))
    assert run(f"strip -i two.nii.gz --out-dir out --save mask --centre {centre}") == 0
    singlestrip._load.cache_clear()
    singlestrip.strip_file("two.nii.gz", mask="library.nii.gz", centre_mm=BLOBS_MM[1])
    for name in ("out/two_mask.nii.gz", "library.nii.gz"):
        np.testing.assert_array_equal(load(name), given)
    mask = singlestrip.strip(image, vox2world, centre_mm=BLOBS_MM[1]).mask
    np.testing.assert_array_equal(mask, given > 0)
    singlestrip._load.cache_clear()


def test_a_centre_outside_the_field_of_view_is_refused(trained, capsys):
    """Voxels of 6 mm from -93 to 93: the outer ones reach 96 mm."""
    bounds = "which has x from -96 to 96, y from -96 to 96, z from -96 to 96 mm"
    for x, shown in ((96.1, "96.1"), (-1e5, "-100000")):
        sentence = f"image.nii.gz: the centre ({shown}, 0, 2 mm) lies outside the field of view, {bounds}"
        assert_fails(f"strip -i image.nii.gz -m m.nii.gz --centre {x} 0 2", capsys, sentence)
    run("strip -i image.nii.gz -m m.nii.gz --centre 95.9 95 -95")  # in the corner
    assert "outside" not in capsys.readouterr().err


def test_what_has_no_brain_is_told_of_the_centre_once(trained, monkeypatch, capsys):
    monkeypatch.setattr(Stripper, "_is_black", lambda *arguments: True)
    sentence = ("image.nii.gz: no brain found: ", "the middle of its brain given (--centre)\n")
    assert_fails("strip -i image.nii.gz -m m.nii.gz", capsys, *sentence)
    around = "no brain found around (1, 2, 3 mm): is this its middle"
    assert_fails("strip -i image.nii.gz -m m.nii.gz --centre 1 2 3", capsys, around)
    run("strip -i image.nii.gz -m m.nii.gz --centre 1 2 3")
    assert "--centre" not in capsys.readouterr().err
    assert run("strip -i image.nii.gz mask.nii.gz --out-dir out") == 1
    assert capsys.readouterr().err.count("(--centre)\n") == 2


def test_fill_is_the_background(trained):
    assert run("strip -i image.nii.gz -o o.nii.gz -m m.nii.gz --fill -7.5") == 0
    background = load("o.nii.gz")[load("m.nii.gz") == 0]
    assert (background == -7.5).all()


def test_mean_frame(trained, head):
    dark = np.zeros_like(head.image)
    dark[0, 0, 0] = 1
    frames = np.stack([head.image, 2 * head.image, dark], axis=-1)
    nib.save(nib.Nifti1Image(frames[..., :2], head.vox2world), "two.nii.gz")
    nib.save(nib.Nifti1Image(frames, head.vox2world), "three.nii.gz")
    assert run("strip -i two.nii.gz -m each.nii.gz -o brain.nii.gz") == 0
    assert run("strip -i three.nii.gz -m mean.nii.gz -o mean-brain.nii.gz --mean-frame") == 0
    assert load("each.nii.gz").shape == (*head.image.shape, 2)
    assert load("mean.nii.gz").shape == head.image.shape
    assert load("mean-brain.nii.gz").shape == frames.shape
    assert dice(load("mean.nii.gz") > 0, head.mask) > 0.93


def test_voxels_that_are_not_finite_are_warned_of_unless_quiet(trained, head, capsys):
    image = head.image.copy()
    image[0, 0, :5] = np.nan
    nib.save(nib.Nifti1Image(image, head.vox2world), "nan.nii.gz")
    assert run("strip -i nan.nii.gz -m m.nii.gz") == 0
    err = capsys.readouterr().err
    assert "nan.nii.gz" in err
    assert "5 voxels" in err
    assert run("strip -i nan.nii.gz -m m.nii.gz --quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert dice(load("m.nii.gz") > 0, head.mask) > 0.93


@pytest.fixture
def scans(trained, head):
    """a.nii.gz and b.nii in scans/."""
    Path("scans").mkdir()
    for name in ("a.nii.gz", "b.nii"):
        nib.save(nib.Nifti1Image(head.image, head.vox2world), f"scans/{name}")


def test_many_images_to_a_folder(scans, head, capsys):
    assert run("strip -i scans/a.nii.gz scans/b.nii --out-dir out") == 0
    assert names("out") == ["a_brain.nii.gz", "a_mask.nii.gz", "b_brain.nii", "b_mask.nii"]
    assert dice(load("out/b_mask.nii") > 0, head.mask) > 0.93
    assert capsys.readouterr() == ("", "")


def test_save_and_suffix(scans):
    assert run("strip -i scans/a.nii.gz -i scans/b.nii --out-dir out --save mask sdt picture --format .mgz") == 0
    assert names("out") == [
        "a_mask.mgz", "a_picture.png", "a_sdt.mgz", "b_mask.mgz", "b_picture.png", "b_sdt.mgz",
    ]  # fmt: skip


def test_images_from_a_list(scans):
    Path("list.txt").write_text("# two scans\nscans/a.nii.gz\n\n  scans/b.nii  \n")
    assert run("strip --list list.txt --out-dir out --save mask") == 0
    assert names("out") == ["a_mask.nii.gz", "b_mask.nii"]


@pytest.mark.parametrize(
    "line", ["fit-gmm -o new.nii.gz --inside 2 --outside 2", "train --picture new.png --init tiny.safetensors"]
)
def test_commands_say_that_a_mask_is_soft(line, files, tiny, head, capsys):
    soft = np.round(gaussian_filter(head.mask.astype(float), 1) * 255).astype(np.uint8)
    nib.save(nib.Nifti1Image(soft, head.vox2world), "soft.nii.gz")
    assert run(f"{line} -i image.nii.gz -m soft.nii.gz") == 0
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("singlestrip: soft.nii.gz: ") and said.endswith(f"brain from {soft.max() / 2:g} on")
    Path(line.split()[2]).unlink()
    assert run(f"{line} -i image.nii.gz -m labels.nii.gz") == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("singlestrip: labels.nii.gz: ") and "a label map" in said
    assert line.split()[2] not in names()


def test_resume_passes_over_what_is_whole(scans, head):
    line = "strip -i scans/a.nii.gz scans/b.nii --out-dir out --save mask"
    assert run(line) == 0
    done = load("out/a_mask.nii.gz").copy()
    marked = nib.Nifti1Image(1 - done, head.vox2world)
    nib.save(marked, "out/a_mask.nii.gz")
    Path("out/b_mask.nii").write_bytes(Path("out/b_mask.nii").read_bytes()[:1000])
    assert run(f"{line} --resume") == 0
    np.testing.assert_array_equal(load("out/a_mask.nii.gz"), 1 - done)  # kept
    np.testing.assert_array_equal(load("out/b_mask.nii"), done)  # done again
    assert run(line) == 0
    np.testing.assert_array_equal(load("out/a_mask.nii.gz"), done)


def test_resume_makes_anew_what_was_made_in_another_way(scans, capsys):
    """With another border or model, in a folder and of one image; what is the same is kept."""
    for line in ("-i scans/a.nii.gz scans/b.nii --out-dir out --save mask", "-i scans/b.nii -m out/b_mask.nii"):
        assert run(f"strip {line} --resume") == 0 and run(f"strip {line}") == 0
        before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir() if path.is_file()}
        thin = load("out/b_mask.nii").sum()
        capsys.readouterr()
        assert run(f"strip {line} --resume --fill 3") == 0
        assert capsys.readouterr() == ("", "")
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert run(f"strip {line} --resume --border 12") == 0
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and "border in mm 0 (now 12)" in err
        assert load("out/b_mask.nii").sum() > 1.2 * thin
        assert run(f"strip {line} --resume -q") == 0 and capsys.readouterr() == ("", "")
        assert load("out/b_mask.nii").sum() == thin
    Path("other.safetensors").touch()  # what strips is the phantom
    assert run("strip -i scans/b.nii -m out/b_mask.nii --resume --model other.safetensors") == 0
    assert "was made with model singlestrip.safetensors" in capsys.readouterr().err


def test_one_broken_file_does_not_stop_the_others(scans, capsys):
    Path("scans/broken.nii.gz").write_bytes(Path("scans/a.nii.gz").read_bytes()[:3000])
    assert run("strip -i scans/broken.nii.gz scans/a.nii.gz scans/b.nii --out-dir out --save mask --quiet") == 1
    assert names("out") == ["a_mask.nii.gz", "b_mask.nii"]
    reason, summary, name = (line.removeprefix("singlestrip: ") for line in capsys.readouterr().err.splitlines())
    assert "scans/broken.nii.gz" in reason
    assert "1 of 3" in summary
    assert name.strip() == "scans/broken.nii.gz"


def test_parts_make_together_what_one_process_makes(scans, capsys):
    """Under the same names, though no part sees two images of one name."""
    for number, name in enumerate(("a", "b", "b")):
        Path(f"scans/{number}").mkdir()
        Path(f"scans/{number}/{name}.nii").write_bytes(Path("scans/b.nii").read_bytes())
    line = "strip -i scans/0/a.nii scans/1/b.nii scans/2/b.nii --save mask"
    assert run(f"{line} --out-dir all") == 0
    everything = sorted(str(path.relative_to("all")) for path in Path("all").rglob("*.nii"))
    assert everything == ["0/a_mask.nii", "1/b_mask.nii", "2/b_mask.nii"]
    found = []
    for number in (1, 2):
        out = f"part{number}"
        assert run(f"{line} --out-dir {out} --shard {number}/2") == 0
        found.append({str(path.relative_to(out)) for path in Path(out).rglob("*.nii")})
    assert found == [{"0/a_mask.nii", "2/b_mask.nii"}, {"1/b_mask.nii"}]
    assert capsys.readouterr().err == ""


def test_a_part_without_images(scans, capsys):
    line = "strip -i scans/a.nii.gz scans/b.nii --out-dir out --save mask --shard 3/3"
    assert run(line) == 0
    assert "nothing for part 3/3 of 2 images" in capsys.readouterr().err
    assert run(f"{line} --quiet") == 0
    assert capsys.readouterr().err == "" and names("out") == []


def test_a_part_from_the_job_array(scans, capsys, monkeypatch):
    line = "strip -i scans/a.nii.gz scans/b.nii --out-dir out --save mask --shard slurm"
    for name in SLURM_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert_fails(line, capsys, "SLURM_ARRAY_TASK_ID", "sbatch --array")
    assert "out" not in names()
    for name, value in zip(SLURM_VARIABLES, "65612", strict=True):  # task 6 of --array=5-6
        monkeypatch.setenv(name, value)
    assert run(line) == 0
    assert names("out") == ["b_mask.nii"]


# train


def test_samples_alone_write_a_picture(tiny):
    before = set(names())
    assert run(f"train -i image.nii.gz -m mask.nii.gz --init {tiny} --picture sheet.png") == 0
    assert Path("sheet.png").read_bytes().startswith(PNG)
    assert set(names()) - before == {"sheet.png"}


def test_train_and_strip(tiny, capsys):
    line = f"train -l labels.nii.gz -o new.safetensors --init {tiny} --batch 2 --seed 3 --amp off --no-quality"
    assert run(f"{line} --steps 2 --val image.nii.gz mask.nii.gz --validate-every 1") == 0
    header = describe_model(Path("new.safetensors"))
    provenance = header["provenance"]
    assert provenance["seed"] == 3
    assert provenance["init"]["name"] == tiny
    assert provenance["labelled"][0]["labels"]["name"] == "labels.nii.gz"
    assert provenance["configuration"]["batch"] == 2
    assert header["configuration"] == describe_model(Path(tiny))["configuration"]
    for name in ("new.checkpoint", "new.metrics.csv", "new.curve.png"):
        assert Path(name).is_file()
    assert run(f"{line} --steps 3") == 1
    assert "--resume" in capsys.readouterr().err
    assert run(f"{line} --steps 3 --resume") == 0
    assert describe_model(Path("new.safetensors"))["provenance"]["step"] == 3
    assert "labels.nii.gz: no record of its fit lies beside it" in capsys.readouterr().err
    status = run("strip -i image.nii.gz -m m.nii.gz --model new.safetensors")
    err = capsys.readouterr().err
    if status == 0:
        remarks = ("is this another anatomy", "look at the mask")
        assert all(any(remark in line for remark in remarks) for line in err.splitlines())
    else:
        assert status == 1 and "no brain found" in err


def test_train_from_an_image_and_its_mask(tiny):
    assert (
        run(f"train -i image.nii.gz -m mask.nii.gz -o new.safetensors --init {tiny} --steps 1 --no-quality") == 0
    )
    provenance = describe_model(Path("new.safetensors"))["provenance"]
    named = {kind: source["name"] for kind, source in provenance["labelled"][0].items()}
    assert named == {"image": "image.nii.gz", "mask": "mask.nii.gz"}
    assert provenance["gmm"]["inside"] == 10


@pytest.mark.parametrize(
    ("options", "init", "config"),
    [
        ("", {"name": "singlestrip.safetensors", "provenance": {"made": "shipped"}}, TransferConfig()),
        ("--init tiny.safetensors", {"name": "tiny.safetensors", "provenance": {}}, TransferConfig()),
        ("--init none", None, TrainConfig()),
    ],
)
def test_what_training_began_with_is_on_record(tiny, monkeypatch, options, init, config):
    Path("models").mkdir()
    monkeypatch.setenv("SINGLESTRIP_MODELS", "models")
    torch.manual_seed(1)
    shipped = Cascade(tiny_cascade(8.0))
    checkpoint.save_model(Path("models/singlestrip.safetensors"), shipped, {"made": "shipped"})
    if init is None:
        monkeypatch.setattr(fitting, "fitting_cascade", lambda *arguments, **keywords: tiny_cascade(8.0))
    line = "train -l labels.nii.gz -o new.safetensors --steps 1 --lr 1e-9 --seed 5 --no-quality"
    assert run(f"{line} {options}") == 0
    model, header = checkpoint.load_model(Path("new.safetensors"))
    assert header["provenance"]["init"] == init
    assert header["provenance"]["configuration"]["locator_draws"] == config.locator_draws
    weight = model.segmenter.head.weight
    begun = {"singlestrip.safetensors": shipped, tiny: checkpoint.load_model(Path(tiny))[0]}
    for name, start in begun.items():
        same = torch.allclose(weight, start.segmenter.head.weight, atol=1e-3)
        assert same == (init is not None and init["name"] == name)


def test_weights_may_begin_at_another_voxel_size(tiny):
    line = f"train -l labels.nii.gz -o new.safetensors --init {tiny} --steps 1 --no-quality"
    assert run(f"{line} --voxel-size 6") == 0
    old, new = (checkpoint.load_model(Path(name))[0].config for name in (tiny, "new.safetensors"))
    assert new.voxel_size_mm == 6 and new.window_mm == pytest.approx(old.window_mm, rel=0.2)


def test_the_end_of_training_shows_the_labelled_scan(files, capsys):
    """By the mask of the model that was written: here the right one."""
    checkpoint.save_model(Path("knowing.safetensors"), threshold_cascade(), {})
    line = "train -i image.nii.gz -m mask.nii.gz -o new.safetensors --init knowing.safetensors --no-quality"
    line += " --steps 1 --lr 1e-9"
    assert run(line) == 0
    said = re.fullmatch(r"image\.nii\.gz, Dice (\d\.\d{3}) with its own mask\n", capsys.readouterr().out)
    assert run("strip -i image.nii.gz -m stripped.nii.gz --model new.safetensors") == 0
    expected = dice(load("stripped.nii.gz") > 0, load("mask.nii.gz") > 0)
    assert float(said[1]) == pytest.approx(expected, abs=5e-4) and expected > 0.95
    picture = Path("new.labelled.png").read_bytes()
    assert picture.startswith(PNG)
    Path("new.checkpoint").unlink()
    assert run(f"{line} --quiet") == 0
    assert capsys.readouterr().out == "" and Path("new.labelled.png").read_bytes() == picture


def test_a_labelled_scan_in_which_no_brain_is_found_counts_as_nothing(tiny, capsys, monkeypatch):
    monkeypatch.setattr(Stripper, "_is_black", lambda *arguments: True)
    line = f"train -i image.nii.gz -m mask.nii.gz -o new.safetensors --init {tiny} --steps 1 --no-quality"
    assert run(line) == 0
    assert capsys.readouterr().out == "image.nii.gz, Dice 0.000 with its own mask\n"
    assert Path("new.labelled.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_train_with_the_default_networks(files):
    line = "train -l labels.nii.gz -o new.safetensors --init none --norm none --voxel-size 3 --no-quality"
    assert run(f"{line} --steps 1") == 0
    model, _ = checkpoint.load_model(Path("new.safetensors"))
    assert model.config.voxel_size_mm == 3
    assert model.config.segmenter.norm == model.config.locator.norm == "none"


def test_sigterm_leaves_no_partial_file(tmp_path):
    """A scheduler's signal in the middle of writing: status 1, one line, nothing left behind."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys\n"
        "from singlestrip.io.images import writing\n"
        "from singlestrip.__main__ import main\n"
        "chain = writing._chain\n"
        "def interrupted(*parts):\n"
        "    yield from chain(*parts)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "writing._chain = interrupted\n"
        "sys.exit(main())\n"
    )
    head = make_head()
    for name, values in (("image", head.image), ("mask", head.mask.astype(np.uint8))):
        nib.Nifti1Pair(values, head.vox2world).to_filename(tmp_path / f"{name}.img")
    before = set(tmp_path.iterdir())
    arguments = ["-i", tmp_path / "image.img", "-m", tmp_path / "mask.img", "-o", tmp_path / "labels.nii"]
    done = subprocess.run(
        [sys.executable, script, "fit-gmm", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "singlestrip: interrupted\n")
    assert set(tmp_path.iterdir()) == before
