"""mri_singlestrip: calls of SynthStrip from public pipelines run as they are written there."""

import itertools
import os
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from phantoms import PhantomCascade, make_head

import singlestrip
from singlestrip.cli import options, synthstrip
from singlestrip.cli.main import main
from singlestrip.networks import model_files
from singlestrip.stripping.stripper import Stripper

# The arguments that public pipelines give mri_synthstrip, by repository and file on GitHub. Names of files stand
# for variables.
CALLS = {
    "freesurfer/freesurfer mri_synthstrip/test.sh": "-i in.mgz --sdt out.mgz",
    "scilus/nf-neuro modules/nf-neuro/betcrop/synthbet/main.nf": (
        "-i t1.nii.gz --out sub-01__bet_image.nii.gz --mask sub-01__brain_mask.nii.gz -b 2"
    ),
    "scilus/nf-scil modules/nf-scil/betcrop/synthbet/main.nf": (
        "-i t1.nii.gz --out sub-01__t1_bet.nii.gz --mask sub-01__t1_bet_mask.nii.gz -b1"
    ),
    "mcespedes99/sEEGPrep seegprep/workflow/rules/preproc_t1.smk": "-i t1.nii.gz -m mask.nii.gz --no-csf",
    "MRtrix3/mrtrix3 python/mrtrix3/dwi2mask/synthstrip/execute.py": (
        "-i bzero.nii -m synthstrip_mask.nii -o stripped.nii -b 1.5"
    ),
    "PennLINC/qsiprep qsiprep/interfaces/freesurfer.py": (
        "-b 1 -i T1w_SynthStripGrid.nii -o T1w_SynthStripGrid_brain.nii.gz -m T1w_SynthStripGrid_mask.nii.gz"
    ),
    "muschellij2/freesurfer R/mri_synthstrip.R": "-i 't1.nii.gz' -m 'file1a2b_mask.nii.gz' -o 'file1a2b.nii.gz'",
    "brainlife/app-synthstrip synthstrip.sh": "-i t1.nii.gz -o output_t1/t1.nii.gz -m output_mask/mask.nii.gz",
    "leonardocerliani/synthstrip_fmriprep run_synthstrip.sh": (
        "-i ORIG_T1w.nii.gz -o ORIG_T1w_brain.nii.gz -m ORIG_T1w_brain_mask.nii.gz -t 10 --no-csf"
    ),
    "nipreps/synthstrip nipreps/synthstrip/wrappers/nipype.py": (
        "-b 1 -i t1.nii.gz -n 2 -o t1_desc-brain.nii.gz -m t1_desc-brain_mask.nii.gz"
    ),
}
IMAGES = ("in.mgz", "t1.nii.gz", "bzero.nii", "T1w_SynthStripGrid.nii", "ORIG_T1w.nii.gz")
OUTPUTS = {"-o": "brain", "--out": "brain", "-m": "mask", "--mask": "mask", "-d": "sdt", "--sdt": "sdt"}


@pytest.fixture(scope="module")
def head():
    return make_head()


@pytest.fixture
def loaded(head, tmp_path, monkeypatch):
    """The arguments that a stripper was loaded with, which knows the phantom. Images are in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in IMAGES:
        kind = nib.MGHImage if name.endswith("mgz") else nib.Nifti1Image
        nib.save(kind(head.image, head.vox2world), name)
    for folder in ("output_t1", "output_mask", "models"):
        Path(folder).mkdir()
    Path("models/tissues.safetensors").touch()
    monkeypatch.setenv(model_files.MODELS_VARIABLE, "models")
    monkeypatch.setattr(options, "set_thread_limit", lambda threads: None)
    calls = []

    def load(*arguments):
        calls.append(arguments)
        return Stripper(PhantomCascade())

    monkeypatch.setattr(Stripper, "load", staticmethod(load))
    return calls


def load(path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def test_there_are_ten_calls():
    assert len(CALLS) == 10


@pytest.mark.parametrize("source", CALLS)
def test_calls_of_public_pipelines_run_unchanged(source, loaded, head, capsys):
    """They write what they name, with the border that they name or that SynthStrip has, on the processor."""
    words = shlex.split(CALLS[source])
    assert synthstrip.main(words) == 0
    assert capsys.readouterr() == ("", "")
    wanted = synthstrip.build_parser().parse_args(words)
    assert main(["strip", "-i", str(wanted.image), "-m", "own.nii", "-d", "sdt.nii", f"-b{wanted.border}"]) == 0
    own = load("own.nii")
    outputs = {OUTPUTS[word]: Path(path) for word, path in itertools.pairwise(words) if word in OUTPUTS}
    written = {kind: load(path) for kind, path in outputs.items()}
    if "mask" in written:
        np.testing.assert_array_equal(written["mask"], own)
    if "brain" in written:
        np.testing.assert_array_equal(
            written["brain"] > head.image.min(), (own > 0) & (head.image > head.image.min())
        )
    if "sdt" in written:
        np.testing.assert_array_equal(written["sdt"], load("sdt.nii"))
    model, device, _, fluid = loaded[0]
    assert device == "cpu" and fluid != ("--no-csf" in words)
    assert Path(model).name == ("singlestrip.safetensors" if fluid else "tissues.safetensors")


def test_the_border_is_one_millimetre_unless_named(loaded):
    for border in ("", "-b 1", "-b -3", "--bord 0"):  # abbreviated, as argparse lets SynthStrip's be
        assert synthstrip.main(f"-i t1.nii.gz -m mask{len(border)}.nii {border}".split()) == 0
    default, one, tight, none = (load(f"mask{number}.nii").sum() for number in (0, 4, 5, 8))
    assert default == one > none > tight
    assert main(["strip", "-i", "t1.nii.gz", "-m", "plain.nii"]) == 0
    assert load("plain.nii").sum() == none


def test_every_option_reaches_strip():
    line = "-i=a.nii -o b.nii -m c.nii -d d.nii -b 2 -f -7 -t 3 --no-csf --model mouse -g --debug"
    found = synthstrip.strip_arguments(synthstrip.build_parser().parse_args(line.replace("=", " ").split()))
    assert found == [
        "strip", "--image=a.nii", "--out=b.nii", "--mask=c.nii", "--sdt=d.nii", "--model=mouse", "--border=2.0",
        "--fill=-7.0", "--threads=3", "--device=cuda", "--no-csf", "--debug",
    ]  # fmt: skip


def test_weights_of_synthstrip_are_refused_in_one_sentence(loaded, capsys):
    assert synthstrip.main(["-i", "t1.nii.gz", "-m", "m.nii", "--model", "models/synthstrip.1.pt"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("singlestrip: models/synthstrip.1.pt: weights of SynthStrip")
    assert said.endswith("leave out --model") and not Path("m.nii").exists()


def test_without_a_model_for_it_no_csf_is_one_sentence(loaded, monkeypatch, capsys):
    monkeypatch.setenv(model_files.MODELS_VARIABLE, "output_t1")
    monkeypatch.setattr(model_files, "shipped_folder", lambda: Path("output_mask"))
    for run, line in ((synthstrip.main, ""), (main, "strip ")):
        assert run(f"{line}-i t1.nii.gz -m m.nii --no-csf".split()) == 1
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith("singlestrip: --no-csf needs a model that tells the fluid")
        assert "named tissues in output_t1" in said and said.endswith("name one with --model")


@pytest.mark.parametrize(
    "line", ["", "-i a.nii", "-m m.nii", "-i a.nii -m m.nii -b wide", "-i a.nii b.nii -m m.nii"]
)
def test_wrong_command_lines(line, capsys):
    with pytest.raises(SystemExit) as stop:
        synthstrip.main(line.split())
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("usage: mri_singlestrip -i FILE")


def test_the_program_runs(tmp_path):
    """As the script that an installation makes of the entry point calls it."""
    code = "import sys; from singlestrip.__main__ import mri_singlestrip; sys.exit(mri_singlestrip())"
    environment = os.environ | {"PYTHONPATH": str(Path(singlestrip.__file__).parents[1])}
    page, refused = (
        subprocess.run(
            [sys.executable, "-c", code, *line.split()],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        for line in ("--help", "-i missing.nii -m m.nii")
    )
    assert page.returncode == 0 and "the border is 1 mm, not 0" in " ".join(page.stdout.split())
    assert refused.returncode == 1 and refused.stderr.startswith("singlestrip: missing.nii")
