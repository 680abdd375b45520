"""BIDS data sets: what is found, how masks are named and described, both levels, what the validators say."""

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bids_dataset import make_dataset
from phantoms import PhantomCascade, make_head, tiny_cascade

from singlestrip import __version__
from singlestrip.bids import layout
from singlestrip.bids.layout import Derivative, find_images, inherited
from singlestrip.cli.main import main
from singlestrip.configuration import AutoencoderConfig
from singlestrip.errors import InputError, OutputError, SingleStripError
from singlestrip.io.checksum import checksum
from singlestrip.io.text.json_file import read_json, write_json
from singlestrip.networks import checkpoint
from singlestrip.networks.autoencoder import Autoencoder
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.model_files import MODELS_VARIABLE
from singlestrip.space.metrics import dice
from singlestrip.stripping.stripper import Stripper

pytest.importorskip("ancpbids", reason="ancpbids is not installed")

QUALITY = AutoencoderConfig(voxel_size_mm=8.0, size=24, layers=((4, 2, 8), (4, 2, 12), (4, 2, 16), (3, 2, 16)))
SECOND = "sub-02/ses-a/anat/sub-02_ses-a_run-1"
MASKS = {
    "sub-01/anat/sub-01_desc-brain_mask.nii.gz": "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-01/anat/sub-01_space-FLAIR_desc-brain_mask.nii.gz": "sub-01/anat/sub-01_FLAIR.nii.gz",
    "sub-01/dwi/sub-01_desc-brain_mask.nii.gz": "sub-01/dwi/sub-01_dwi.nii.gz",
    "sub-01/func/sub-01_task-rest_desc-brain_mask.nii.gz": "sub-01/func/sub-01_task-rest_bold.nii.gz",
    "sub-01/func/sub-01_task-rest_space-sbref_desc-brain_mask.nii.gz": "sub-01/func/sub-01_task-rest_sbref.nii.gz",
    "sub-01/perf/sub-01_desc-brain_mask.nii.gz": "sub-01/perf/sub-01_asl.nii.gz",
    "sub-01/pet/sub-01_desc-brain_mask.nii.gz": "sub-01/pet/sub-01_pet.nii.gz",
    f"{SECOND}_desc-brain_mask.nii.gz": f"{SECOND}_T1w.nii.gz",
    "sub-02/ses-b/anat/sub-02_ses-b_desc-brain_mask.nii.gz": "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz",
}


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def below(root, paths):
    return [path.relative_to(root).as_posix() for path in paths]


def files(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def load(path):
    return np.asanyarray(nib.load(path).dataobj)


# Finding


def test_images_of_every_kind(tmp_path):
    kinds = ["anat/sub-1_T1w", "anat/sub-1_acq-x_run-2_FLAIR", "perf/sub-1_m0scan", "dwi/sub-1_dir-AP_sbref"]
    kinds += ["func/sub-1_task-a_echo-1_part-mag_bold", "pet/sub-1_trc-FDG_pet", "anat/sub-1_UNIT1"]
    kinds += ["fmap/sub-1_magnitude1", "fmap/sub-1_magnitude2", "fmap/sub-1_acq-b_magnitude"]
    touch(tmp_path, *(f"sub-1/{kind}.nii.gz" for kind in kinds), "sub-2/ses-x/anat/sub-2_ses-x_T2w.nii")
    found = find_images(tmp_path)
    assert found == sorted(found) and len(found) == 11
    assert set(below(tmp_path, found)) == {f"sub-1/{kind}.nii.gz" for kind in kinds} | {
        "sub-2/ses-x/anat/sub-2_ses-x_T2w.nii"
    }


@pytest.mark.parametrize(
    "name",
    [
        "sub-1_T1w.nii.gz",  # not where images belong
        "anat/sub-1_T1w.nii.gz",
        "sub-1/anat/old/sub-1_T1w.nii.gz",
        "derivatives/x/sub-1/anat/sub-1_T1w.nii.gz",
        "sourcedata/sub-1/anat/sub-1_T1w.nii.gz",
        "sub-1/other/sub-1_T1w.nii.gz",
        "sub-1/fmap/sub-1_m0scan.nii.gz",
        "sub-1/fmap/sub-1_phasediff.nii.gz",
        "sub-1/fmap/sub-1_dir-AP_epi.nii.gz",
        "sub-1/anat/T1w.nii.gz",  # not a name of that participant or session
        "sub-1/anat/sub-2_T1w.nii.gz",
        "sub-1/ses-a/anat/sub-1_T1w.nii.gz",
        "sub-1/anat/.sub-1_T1w.nii.gz",
        "sub-1/anat/sub-1_T1w (copy).nii.gz",
        "sub-1/anat/sub-1_T1w.json",  # not an image of a head as the scanner made it
        "sub-1/anat/sub-1_T1map.nii.gz",
        "sub-1/anat/sub-1_space-MNI_T1w.nii.gz",
        "sub-1/anat/sub-1_desc-preproc_T1w.nii.gz",
        "sub-1/func/sub-1_task-a_part-phase_bold.nii.gz",
    ],
)
def test_what_is_no_image_of_a_head_is_not_found(name, tmp_path):
    assert below(tmp_path, find_images(touch(tmp_path, "sub-1/anat/sub-1_T2w.nii.gz", name))) == [
        "sub-1/anat/sub-1_T2w.nii.gz"
    ]


def test_participants_sessions_and_suffixes_are_chosen(tmp_path):
    names = [
        f"sub-{p}/ses-{s}/anat/sub-{p}_ses-{s}_{k}.nii.gz" for p in "12" for s in "ab" for k in ("T1map", "T1w")
    ]
    touch(tmp_path, *names)

    def found(*arguments, **keywords):
        return [path.name.removesuffix(".nii.gz") for path in find_images(tmp_path, *arguments, **keywords)]

    assert found() == ["sub-1_ses-a_T1w", "sub-1_ses-b_T1w", "sub-2_ses-a_T1w", "sub-2_ses-b_T1w"]
    assert found(["2"]) == found(["sub-2"]) == ["sub-2_ses-a_T1w", "sub-2_ses-b_T1w"]
    assert found(["1", "2"], ["b"]) == found(None, ["ses-b"]) == ["sub-1_ses-b_T1w", "sub-2_ses-b_T1w"]
    assert found(["1"], ["a"], ["T1map", "T1w"]) == ["sub-1_ses-a_T1map", "sub-1_ses-a_T1w"]
    for wrong, part in (((["3"],), "sub-3; there are sub-1, sub-2"), ((None, ["c"]), "ses-c; there are ses-a")):
        with pytest.raises(InputError, match=part):
            found(*wrong)


def test_a_misspelt_suffix_is_told_what_there_is(tmp_path):
    root = touch(tmp_path, "dataset_description.json", *(f"sub-01/anat/sub-01_{s}.nii" for s in ("T1w", "UNIT1")))
    (root / "dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.9.0"}')
    with pytest.raises(
        InputError,
        match=r"kind T1W, t2 \(did you mean T1w or T2w\?\); there are T1w, UNIT1, and BIDS has T1w",
    ):
        find_images(root, suffixes=["t2", "T1w", "T1W"])
    for wrong, meant in (("T1", "T1w"), ("UNIT", "UNIT1"), ("flair", "FLAIR")):
        with pytest.raises(InputError, match=rf"of the kind {wrong} \(did you mean {meant}\?\); there"):
            find_images(root, suffixes=[wrong])
    with pytest.raises(InputError, match=r"of the kind xyz; there"):
        find_images(root, suffixes=["xyz"])
    assert below(root, find_images(root, suffixes=["UNIT1", "bold"])) == ["sub-01/anat/sub-01_UNIT1.nii"]
    assert find_images(root, suffixes=["bold"]) == []


def test_nothing_hidden_counts(tmp_path):
    """Such as what a killed process left."""
    root = touch(tmp_path, "dataset_description.json", "sub-01/dwi/sub-01_dwi.nii", "sub-01/dwi/sub-01_dwi.bval")
    (root / "dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.9.0"}')
    for name in ("sub-01_dwi.nii", "sub-01_dwi.bval", "dwi.bval", "sub-01_desc-brain_mask.nii.gz", "_dwi.bval"):
        touch(root, f"sub-01/dwi/.{name}", f"sub-01/dwi/.aaaaaaaa-partial-{name}", f".hidden/sub-01/dwi/{name}")
    image = root / "sub-01/dwi/sub-01_dwi.nii"
    assert find_images(root) == [image]
    assert inherited(root, image, "dwi", ".bval") == [image.with_suffix(".bval")]
    assert Derivative(root, root).masks() == []
    touch(root, "sub-01/dwi/sub-01_desc-brain_mask.nii.gz", "sub-01/.trash/sub-01_desc-brain_mask.nii.gz")
    assert len(Derivative(root, root).masks()) == 1


def test_files_that_never_end(tmp_path):
    description = tmp_path / "dataset_description.json"
    description.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"description\.json: cannot be read as JSON .a device"):
        find_images(tmp_path)
    description.unlink()
    os.mkfifo(description)
    with pytest.raises(InputError, match=r"description\.json: cannot be read as JSON .a FIFO"):
        find_images(tmp_path)
    assert read_json(description) == {}


def test_an_output_folder_that_leads_nowhere(tmp_path):
    root = make_dataset(tmp_path / "raw")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="loop: cannot be made"):
        Derivative(root, tmp_path / "loop").prepare()


def test_json_of_others(tmp_path):
    """What is not finite is no JSON; what is no object counts for nothing."""
    path = tmp_path / "a.json"
    path.write_text('{"a": NaN, "b": [-Infinity, 1e999, 0.5], "c": "caf\\u00e9"}')
    content = read_json(path)
    assert content == {"a": None, "b": [None, None, 0.5], "c": "café"}
    write_json(path, content)
    assert read_json(path) == content
    for text in ("[1]", "{", "[" * 100_000, ""):
        path.write_text(text)
        assert read_json(path) == {}
    mask = tmp_path / "sub-01_desc-brain_mask.nii.gz"
    for sources in ("[]", "7", '{"a": 1}', '"bids:raw:x"', "[[1]]"):
        path.with_name("sub-01_desc-brain_mask.json").write_text(f'{{"Sources": {sources}}}')
        assert Derivative(tmp_path, tmp_path).image_of(mask) is None


def test_paths_are_as_the_root_was_given(tmp_path, monkeypatch):
    touch(tmp_path, "study/sub-1/anat/sub-1_T1w.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert find_images(Path("study/")) == [Path("study/sub-1/anat/sub-1_T1w.nii.gz")]
    monkeypatch.chdir("study")
    assert find_images(Path()) == [Path("sub-1/anat/sub-1_T1w.nii.gz")]


def test_data_sets_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        find_images(tmp_path / "nowhere")
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz")
    (tmp_path / "dataset_description.json").write_text("{no")
    with pytest.raises(InputError, match=r"dataset_description\.json"):
        find_images(tmp_path)
    monkeypatch.setitem(sys.modules, "ancpbids", None)
    with pytest.raises(SingleStripError, match=r"pip install 'singlestrip\[bids\]'"):
        find_images(tmp_path)


def test_no_pickle_of_a_data_set_is_opened(tmp_path):
    """It could run code."""
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz")
    (tmp_path / ".ancpbids-dataset.pickle").write_bytes(
        b"cos\nsystem\n(S'touch " + bytes(tmp_path) + b"/ran'\ntR."
    )
    assert len(find_images(tmp_path)) == 1
    assert not (tmp_path / "ran").exists()


def test_inheritance(tmp_path):
    """Nearer files come later; those with an entity that the image has not, or another suffix, are not its own."""
    names = ["dwi.bval", "dir-AP_dwi.bval", "dir-PA_dwi.bval", "run-1_dwi.json", "sub-1/sub-1_dwi.bval"]
    names += ["sub-1/dwi/sub-1_run-1_dwi.bval", "sub-1/dwi/sub-1_run-2_dwi.bval", "sub-1/dwi/sub-1_xdwi.bval"]
    touch(tmp_path, *names, "sub-1/anat/sub-1_dwi.bval")
    image = tmp_path / "sub-1/dwi/sub-1_dir-AP_run-1_dwi.nii.gz"
    expected = ["dwi.bval", "dir-AP_dwi.bval", "sub-1/sub-1_dwi.bval", "sub-1/dwi/sub-1_run-1_dwi.bval"]
    assert below(tmp_path, inherited(tmp_path, image, "dwi", ".bval")) == expected
    assert Derivative(tmp_path, tmp_path / "out").bval(image) == tmp_path / expected[-1]


# Naming


@pytest.mark.parametrize(
    ("image", "mask", "brain"),
    [
        ("anat/sub-1_T1w.nii", "anat/sub-1_desc-brain_mask", "anat/sub-1_desc-brain_T1w"),
        (
            "anat/sub-1_acq-hi_run-2_T2w.nii.gz",
            "anat/sub-1_acq-hi_run-2_space-T2w_desc-brain_mask",
            "anat/sub-1_acq-hi_run-2_desc-brain_T2w",
        ),
        (
            "dwi/sub-1_dir-AP_chunk-1_sbref.nii.gz",
            "dwi/sub-1_dir-AP_space-sbref_chunk-1_desc-brain_mask",
            "dwi/sub-1_dir-AP_chunk-1_desc-brain_sbref",
        ),
        ("perf/sub-1_m0scan.nii.gz", "perf/sub-1_space-m0scan_desc-brain_mask", "perf/sub-1_desc-brain_m0scan"),
    ],
)
def test_names(image, mask, brain):
    derivative = Derivative(Path("raw"), Path("out"))
    assert derivative.mask(Path("raw/sub-1", image)) == Path("out/sub-1", f"{mask}.nii.gz")
    assert derivative.brain(Path("raw/sub-1", image)) == Path("out/sub-1", f"{brain}.nii.gz")


# The data set made


def test_description(tmp_path):
    raw = make_dataset(tmp_path / "raw")
    derivative = Derivative(raw, raw / "derivatives/masks")
    derivative.prepare()
    description = json.loads((derivative.root / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and description["BIDSVersion"] == layout.BIDS_VERSION
    assert description["Name"] == "Brain masks of Made-up heads"
    assert description["GeneratedBy"] == [{"Name": "singlestrip", "Version": __version__}]
    assert description["DatasetLinks"] == {"raw": "../.."} and description["SourceDatasets"] == [{"URL": "../.."}]
    apart = Derivative(raw, tmp_path / "apart")
    apart.prepare()
    link = json.loads((apart.root / "dataset_description.json").read_text())["DatasetLinks"]["raw"]
    assert link == raw.resolve().as_uri()
    before = files(apart.root)
    assert before == [".bidsignore", "README.md", "dataset_description.json"]
    (apart.root / "README.md").write_text("mine")
    apart.prepare()
    assert (apart.root / "README.md").read_text() == "mine" and files(apart.root) == before


def test_no_other_data_set_is_written_to(tmp_path):
    raw, other = make_dataset(tmp_path / "raw"), make_dataset(tmp_path / "other")
    with pytest.raises(OutputError, match="is the data set itself"):
        Derivative(raw, tmp_path / "other/../raw").prepare()
    for content in (None, {"GeneratedBy": [{"Name": "fMRIPrep"}]}, {"GeneratedBy": "singlestrip"}, [1]):
        if content is not None:
            (other / "dataset_description.json").write_text(json.dumps(content))
        before = {name: (other / name).read_bytes() for name in files(other)}
        with pytest.raises(OutputError, match="singlestrip did not make"):
            Derivative(raw, other).prepare()
        assert {name: (other / name).read_bytes() for name in files(other)} == before
    Derivative(raw, tmp_path / "out").prepare()
    third = make_dataset(tmp_path / "third")
    with pytest.raises(OutputError, match=f"made from {raw.as_uri()}, not {third.as_uri()}"):
        Derivative(third, tmp_path / "out").prepare()


# From file to file


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The data set `raw` in the working folder, models, and a stripper that knows the phantom."""
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "raw")
    (tmp_path / "models").mkdir()
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    torch.manual_seed(0)
    checkpoint.save_model(tmp_path / "models/singlestrip.safetensors", Cascade(tiny_cascade(8.0)), {})
    checkpoint.save_model(tmp_path / "models/quality.safetensors", Autoencoder(QUALITY), {})
    monkeypatch.setattr(Stripper, "load", staticmethod(lambda *arguments: Stripper(PhantomCascade())))
    return tmp_path


def run(line):
    return main(line.split())


def sidecar(mask):
    return json.loads(Path(mask.replace(".nii.gz", ".json")).read_text())


def table():
    with Path("out/reports/quality.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_participants(study, capsys):
    assert run("bids raw out participant") == 0
    assert capsys.readouterr() == ("", "")
    written = [name for name in files(study / "out") if name.startswith("sub-")]
    assert written == sorted([*MASKS, *(name.replace(".nii.gz", ".json") for name in MASKS)])
    truth = make_head().mask
    for mask, image in MASKS.items():
        values = load(f"out/{mask}")
        assert values.shape == truth.shape and values.dtype == np.uint8
        assert dice(values > 0, truth) > 0.97, mask
        np.testing.assert_array_equal(nib.load(f"out/{mask}").affine, nib.load(f"raw/{image}").affine)
        said = sidecar(f"out/{mask}")
        assert (said["Sources"], said["RawSources"], said["Type"]) == ([f"bids:raw:{image}"], [image], "Brain")
        assert said["SingleStripVersion"] == __version__ and said["Model"] == "singlestrip.safetensors"
        assert said["ModelSHA256"] == checksum(study / "models/singlestrip.safetensors")
        assert ("b=0" in said["Description"]) == ("dwi" in mask)
        assert "EstimatedDice" not in said and "BorderMM" not in said
    (study / "raw/sub-01/dwi/sub-01_dwi.bval").write_text("0 0 0 0")  # the dark frames count now
    assert run("bids raw out participant --suffix dwi") == 0
    assert np.abs(load("out/sub-01/dwi/sub-01_desc-brain_mask.nii.gz") - truth.astype(int)).mean() > 0.01


def test_the_highest_b_value_that_counts(study, capsys):
    """Frames of b=5 are left out at 0; a record tells which frames counted, so that masks are made anew."""
    (study / "raw/dwi.bval").write_text("5 1000 1000 0\n")
    mask = "out/sub-01/dwi/sub-01_desc-brain_mask"
    line = "bids raw out participant --suffix dwi"
    assert run(f"{line} --b0-limit 1000") == 0
    assert sidecar(f"{mask}.nii.gz")["B0Limit"] == 1000
    too_many = load(f"{mask}.nii.gz").sum()
    assert run(f"{line} --resume") == 0
    assert "limit of b=0 in s/mm² 1000 (now 50)" in capsys.readouterr().err
    assert load(f"{mask}.nii.gz").sum() != too_many and "B0Limit" not in sidecar(f"{mask}.nii.gz")
    assert dice(load(f"{mask}.nii.gz") > 0, make_head().mask) > 0.97
    (study / "raw/dwi.bval").write_text("5 1000 1000 5\n")
    assert run(f"{line} --b0-limit 0") == 1
    assert "no frame has a b-value up to 0 s/mm²; raise the limit" in capsys.readouterr().err


def test_masks_of_fieldmaps_and_mp2rage(study):
    image = nib.load(study / "raw/sub-01/anat/sub-01_T1w.nii.gz")
    images = ["fmap/sub-01_magnitude1", "fmap/sub-01_magnitude2", "anat/sub-01_UNIT1"]
    for name in images:
        (study / "raw/sub-01" / name).parent.mkdir(exist_ok=True)
        nib.save(image, study / f"raw/sub-01/{name}.nii.gz")
    assert run("bids raw out participant --suffix magnitude1 magnitude2 UNIT1") == 0
    written = [name for name in files(study / "out/sub-01") if name.endswith("nii.gz")]
    assert written == [
        "anat/sub-01_space-UNIT1_desc-brain_mask.nii.gz",
        "fmap/sub-01_desc-brain_mask.nii.gz",
        "fmap/sub-01_space-magnitude2_desc-brain_mask.nii.gz",
    ]
    assert sidecar("out/sub-01/fmap/sub-01_desc-brain_mask.nii.gz")["RawSources"] == [f"sub-01/{images[0]}.nii.gz"]


def test_options_of_the_participant_level(study, capsys):
    assert run("bids raw out participant --participant-label 01 --suffix T1w asl dwi --save brain --qc -b 6") == 0
    said, printed = sidecar("out/sub-01/anat/sub-01_desc-brain_mask.nii.gz"), capsys.readouterr().out
    assert said["BorderMM"] == 6 and 0 <= said["EstimatedDice"] <= 1
    line = f"raw/sub-01/anat/sub-01_T1w.nii.gz: {said['QualityFlag']}, estimated Dice {said['EstimatedDice']:.3f}"
    assert line in printed.splitlines()
    wide = load("out/sub-01/anat/sub-01_desc-brain_mask.nii.gz") > 0
    assert wide.sum() > 1.3 * make_head().mask.sum()
    brain, image = load("out/sub-01/anat/sub-01_desc-brain_T1w.nii.gz"), load("raw/sub-01/anat/sub-01_T1w.nii.gz")
    np.testing.assert_array_equal(brain[wide], image[wide])
    assert len(np.unique(brain[~wide])) == 1
    kept = sidecar("out/sub-01/perf/sub-01_desc-brain_asl.nii.gz")
    assert kept["SkullStripped"] is True and kept["ArterialSpinLabelingType"] == "PCASL"
    assert kept["Sources"] == ["bids:raw:sub-01/perf/sub-01_asl.nii.gz"]
    for copied in ("perf/sub-01_aslcontext.tsv", "dwi/sub-01_dwi.bvec"):
        assert Path("out/sub-01", copied).read_bytes() == Path("raw/sub-01", copied).read_bytes()
    assert Path("out/sub-01/dwi/sub-01_dwi.bval").read_bytes() == Path("raw/dwi.bval").read_bytes()
    assert not Path("out/sub-02").exists() and not Path("out/sub-01/func").exists()


def test_one_failure_does_not_stop_the_others(study, capsys):
    damaged = study / "raw/sub-01/anat/sub-01_T1w.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    (study / "raw/dwi.bval").unlink()
    assert run("bids raw out participant") == 1
    lines = capsys.readouterr().err.splitlines()
    assert any("sub-01_T1w.nii.gz" in line and "damaged" in line for line in lines)
    assert any("sub-01_dwi.bval: no such file" in line for line in lines)
    assert lines[-3:] == [
        "singlestrip: 2 of 9 images failed:",
        "singlestrip:   raw/sub-01/anat/sub-01_T1w.nii.gz",
        "singlestrip:   raw/sub-01/dwi/sub-01_dwi.nii.gz",
    ]
    assert len([name for name in files(study / "out") if name.endswith("mask.nii.gz")]) == 7
    make_dataset(study / "raw")
    times = {name: (study / "out" / name).stat().st_mtime_ns for name in files(study / "out")}
    assert run("bids raw out participant --resume") == 0
    assert {name: (study / "out" / name).stat().st_mtime_ns for name in times} == times
    assert [name for name in files(study / "out") if name.endswith("mask.nii.gz")] == sorted(MASKS)


def test_a_diffusion_image_of_one_frame_needs_no_b_values(study, capsys):
    (study / "raw/dwi.bval").unlink()
    image = study / "raw/sub-01/dwi/sub-01_dwi.nii.gz"
    nib.save(nib.load(image).slicer[..., 0], image)
    assert run("bids raw out participant --suffix dwi") == 0
    mask = load(study / "out/sub-01/dwi/sub-01_desc-brain_mask.nii.gz") > 0
    assert dice(mask, make_head().mask) > 0.95
    image.with_name("sub-01_dwi.bval").write_text("1000")  # of the one frame there is
    assert run("bids raw out participant --suffix dwi") == 0
    image.write_bytes(image.read_bytes()[:3000])
    assert run("bids raw out participant --suffix dwi") == 1
    assert "sub-01_dwi.nii.gz: the voxel data are damaged" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_the_failure_of_its_images(study, capsys):
    touch(study, "out/sub-01/anat")
    assert run("bids raw out participant --suffix T1w") == 1
    err = capsys.readouterr().err
    assert "1 of 3 images failed" in err and "out/sub-01/anat does not exist" in err
    assert len([name for name in files(study / "out") if name.endswith("mask.nii.gz")]) == 2


def test_a_side_file_that_never_ends(study, capsys):
    directions = study / "raw/sub-01/dwi/sub-01_dwi.bvec"
    directions.unlink()
    os.mkfifo(directions)
    assert run("bids raw out participant --save brain --suffix dwi") == 1
    assert "sub-01_dwi.bvec: cannot be read as text (a FIFO" in capsys.readouterr().err


def test_a_side_file_that_cannot_be_read_is_the_failure_of_its_image(study, capsys):
    directions = study / "raw/sub-01/dwi/sub-01_dwi.bvec"
    directions.unlink(missing_ok=True)
    directions.symlink_to("not-fetched")
    assert run("bids raw out participant --save brain") == 1
    err = capsys.readouterr().err
    assert "raw/sub-01/dwi/sub-01_dwi.bvec: cannot be read" in err and "1 of 9 images failed" in err
    assert len([name for name in files(study / "out") if name.endswith("mask.nii.gz")]) == 9


def test_images_that_differ_in_their_ending_alone_are_failures(study, capsys):
    twin = study / "raw/sub-01/anat/sub-01_T1w.nii"
    twin.write_bytes(gzip.decompress(twin.with_name("sub-01_T1w.nii.gz").read_bytes()))
    assert run("bids raw out participant") == 1
    err = capsys.readouterr().err
    assert "sub-01_T1w.nii: another image has the same name" in err and "2 of 10 images failed" in err
    assert len([name for name in files(study / "out") if name.endswith("mask.nii.gz")]) == 8


def test_resume_deletes_nothing_before_there_is_something_better(study, capsys):
    assert run("bids raw out participant --suffix T1w -q") == 0
    before = files(study / "out")
    assert run("bids raw out participant --suffix T1w --save brain --resume --memory 0.0001") == 1
    assert files(study / "out") == before


def test_the_group_level_refuses_what_is_not_its_own(study, capsys):
    with pytest.raises(SystemExit) as stop:
        run("bids raw out group --border 0")
    assert stop.value.code == 2 and "--border goes with the participant level" in capsys.readouterr().err


def test_the_quality_network_of_the_model_scores(study, capsys):
    cascade, quality = Cascade(tiny_cascade(8.0)), Autoencoder(QUALITY)
    with torch.no_grad():
        quality.decoder[-1].bias.fill_(5)  # it reconstructs a brain everywhere
    part = checkpoint.QualityPart(quality, {})
    checkpoint.save_model(study / "own.safetensors", cascade, {}, quality=part)
    checkpoint.save_model(study / "other.safetensors", quality, {})
    shown = []
    for options in ("", "--model own.safetensors", "--model singlestrip --qc-model other.safetensors"):
        shutil.rmtree(study / "out", ignore_errors=True)
        assert run(f"bids raw out participant --suffix T1w --qc {options}") == 0
        assert run(f"bids raw out group --suffix T1w {options}") == 0
        told, err = capsys.readouterr()
        page = (study / "out/reports/index.html").read_text()
        shown.append((told, page.split("Quality model: ")[1].split('."')[0]))
        assert err == ""
    assert shown[1][0] == shown[2][0] != shown[0][0]
    assert [name for _, name in shown] == ["shipped", "own.safetensors", "other.safetensors"]


def test_resume(study):
    """A mask without its JSON file is not finished; one that is kept can still be scored."""
    assert run("bids raw out participant --suffix T1w") == 0
    first, second = (f"out/{name}" for name in MASKS if "T1w" in MASKS[name] and "sub-02" in name)
    Path(first.replace(".nii.gz", ".json")).unlink()
    head = make_head()
    for name in (first, second):
        nib.save(nib.Nifti1Image(np.zeros_like(head.labels), head.vox2world), name)
    assert run("bids raw out participant --suffix T1w --resume --qc -q") == 0
    assert load(first).any() and not load(second).any()
    assert sidecar(second)["EstimatedDice"] == 0 and sidecar(second)["QualityFlag"] == "fail"
    assert sidecar(second)["EstimatedDiceInterval"] == [0, 0] and sidecar(second)["QualityEvidence"] == "mask"
    assert sidecar(second)["QualityReasons"] == ["empty"]
    assert sidecar(second)["Type"] == sidecar(first)["Type"] == "Brain"


def test_resume_makes_anew_what_was_made_in_another_way(study, capsys):
    """By the JSON files, of older versions too; a mask mended by hand is kept, and counted."""
    line = "bids raw out participant --suffix T1w --participant-label 02"
    first, by_hand = (f"out/{name}" for name in MASKS if "T1w" in MASKS[name] and "sub-02" in name)
    assert run(line) == 0
    thin = load(first).sum()
    said = sidecar(first)
    assert len(said["OutputSHA256"]) == 64 and "Frames" not in said and "BorderMM" not in said
    assert said["ImageSHA256"] == checksum(Path("raw", said["RawSources"][0]))
    older = {key: value for key, value in said.items() if key not in ("OutputSHA256", "ImageSHA256")}
    Path(first.replace(".nii.gz", ".json")).write_text(json.dumps(older))
    nib.save(nib.load(by_hand).slicer[:], by_hand.replace(".nii.gz", ".nii"))
    Path(by_hand).write_bytes(gzip.compress(Path(by_hand.replace(".nii.gz", ".nii")).read_bytes(), 1))
    mended = Path(by_hand).read_bytes()
    capsys.readouterr()
    assert run(f"{line} --resume --border 12") == 0
    told = capsys.readouterr().err
    assert f"{first}: was made with border in mm 0 (now 12); making it anew" in told
    assert "1 of the kept outputs have no record" in told
    assert load(first).sum() > 1.2 * thin and sidecar(first)["BorderMM"] == 12
    assert Path(by_hand).read_bytes() == mended
    assert run(f"{line} --resume") == 0
    assert load(first).sum() == thin and "BorderMM" not in sidecar(first)
    assert not list(Path("out").rglob(".singlestrip"))


@pytest.mark.slow
def test_group(study, capsys):
    assert run("bids raw out participant") == 0
    Path("out/sub-01/pet/sub-01_desc-brain_mask.nii.gz").unlink()
    assert run("bids raw out group") == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 9
    assert err.splitlines() == [
        "singlestrip: raw/sub-01/pet/sub-01_pet.nii.gz: has no mask; run the participant level"
    ]
    rows = {row["mask"]: row for row in table()}
    assert {Path(mask).relative_to("out").as_posix() for mask in rows} == set(MASKS)
    for mask, image in MASKS.items():
        row = rows[f"out/{mask}"]
        assert row["image"] == f"raw/{image}"
        assert ("has no mask" in row["note"]) == ("pet" in mask) == (row["estimated_dice"] == "")
    page = Path("out/reports/index.html").read_text()
    assert "sub-01/perf/sub-01_desc-brain" in page and "has no mask" in page
    assert len(list(Path("out/reports/pictures").rglob("*.png"))) == 8
    assert run("bids raw out group --participant-label 02 -q") == 0
    assert len(table()) == 2
    other = touch(study, "raw/sub-03/anat/sub-03_T1map.nii.gz") / "raw/sub-03/anat/sub-03_T1map.nii.gz"
    shutil.copy(study / "raw/sub-01/anat/sub-01_T1w.nii.gz", other)
    assert run("bids raw out participant --suffix T1map") == 0
    assert run("bids raw out group -q") == 1
    assert any(row["image"] == "raw/sub-03/anat/sub-03_T1map.nii.gz" for row in table())


def test_a_group_of_nothing(study, capsys):
    shutil.rmtree("raw/sub-01"), shutil.rmtree("raw/sub-02")
    assert run("bids raw out group") == 1
    assert "no mask here" in capsys.readouterr().err


# The validators


def tool(name):
    """A command beside Python, in this repository's node_modules, or on the path."""
    folders = [Path(sys.executable).parent, Path(__file__).parents[1] / "node_modules/.bin"]
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture
def current():
    """The validator's errors as (code, place); it judges by the schema, and knows derivatives."""
    command = tool("bids-validator-deno")

    def errors(folder):
        done = subprocess.run([command, "--format", "json", folder], capture_output=True, text=True)
        issues = json.loads(done.stdout)["issues"]["issues"]
        return [(issue["code"], issue.get("location")) for issue in issues if issue["severity"] == "error"]

    return errors


@pytest.mark.slow
def test_the_current_validator_finds_no_error(study, current):
    assert current("raw") == []
    assert run("bids raw out participant --save brain --qc -q") == 0
    assert run("bids raw out group -q") == 0
    assert current("out") == []
    assert run("bids raw raw/derivatives/masks participant -q") == 0
    assert current("raw") == current("raw/derivatives/masks") == []
    Path("out/.bidsignore").unlink()
    places = {place for _, place in current("out")}
    assert places and all(any(part in place for part in ("/perf/", "/pet/", "/reports/")) for place in places)


@pytest.mark.slow
def test_the_validator_of_npm_finds_no_error_in_what_is_tested_with(study):
    """Version 1 knows raw data sets alone; a derivative within one does no harm."""
    assert run("bids raw raw/derivatives/masks participant -q") == 0
    done = subprocess.run([tool("bids-validator"), "--json", "raw"], capture_output=True, text=True)
    assert json.loads(done.stdout)["issues"]["errors"] == []
    Path("raw/sub-01/anat/sub-01_oops.nii.gz").write_bytes(b"")
    assert subprocess.run([tool("bids-validator"), "raw"], capture_output=True).returncode == 1
