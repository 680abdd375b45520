"""Damaged inputs and kills at random moments: a few of those that the benchmarks try by the thousand."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    """Their folder, from which they import one another."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def benchmark(name: str, *options: str) -> str:
    """What a benchmark prints; it has to end with status 0, without a fault. In a process of its own: it forks."""
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, BENCHMARKS / f"{name}.py", *options]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_damaged_inputs():
    out = benchmark("fuzz", "--cases", "150", "--seed", "2")
    assert "| all | 150 |" in out


@pytest.mark.slow
def test_kills():
    out = benchmark("kills", "--kills", "4", "--commands", "strip")
    assert out.count("| strip | 4 |") == 1


# What the fuzzer takes for a fault


@pytest.fixture
def case(tmp_path):
    """A case's folder, and what judges it: status, what was said, trial, seconds and memory."""
    import json
    from dataclasses import asdict

    import fuzz
    from fuzz_inputs import Trial
    from tiny import make_images

    folder = tmp_path / "files"
    folder.mkdir()
    make_images(folder)
    inputs = fuzz._checksums(folder)

    def judge(status=0, said="", trial=None, seconds=1.0, gib=0.5) -> str:
        record = asdict(trial or Trial(["strip"], "image.nii")) | {"inputs": inputs}
        folder.with_suffix(".json").write_text(json.dumps(record))
        folder.with_suffix(".err").write_text(said)
        return fuzz.judge(status, folder, seconds, gib)[0]

    return folder, judge


@pytest.mark.parametrize(
    ("keywords", "verdict"),
    [
        ({}, "success"),
        ({"said": "singlestrip: 3 voxels are not finite\n"}, "success"),
        ({"status": 1, "said": "singlestrip: a.nii: no such file\n"}, "clean"),
        ({"status": 2, "said": "usage: singlestrip\nsinglestrip: no image\n"}, "clean"),
        ({"status": 1}, "no sentence"),
        ({"status": 1, "said": "a.nii: no such file\n"}, "a line that is not the program's"),
        ({"said": "pixdim should be positive\n"}, "a line that is not the program's"),
        ({"status": 1, "said": "usage: x\nsinglestrip: no image\n"}, "a line that is not the program's"),
        ({"status": 1, "said": "Traceback (most recent call last):\n"}, "traceback"),
        (
            {
                "status": 1,
                "said": "singlestrip: a.nii: unexpected KeyError: 3; run again with --debug and report it\n",
            },
            "unexpected KeyError",
        ),
        ({"status": 1, "said": "singlestrip: out of memory; use a larger machine\n"}, "out of memory"),
        ({"status": -11}, "status -11"),
        ({"status": 120}, "status 120"),
        ({"status": -14}, "hangs"),
        ({"seconds": 21.0}, "over 20 s"),
        ({"gib": 2.5}, "over 2 GiB"),
    ],
)
def test_verdicts_on_what_a_case_did(case, keywords, verdict):
    _, judge = case
    assert judge(**keywords) == verdict


def test_verdicts_on_what_a_case_wrote(case):
    import nibabel as nib
    import numpy as np
    from fuzz_inputs import Trial

    folder, judge = case
    image, head = nib.load(folder / "image.nii"), nib.load(folder / "mask.nii")
    brain = np.asarray(head.dataobj)
    trial = Trial(["strip"], "image.nii", ("out_mask.nii",))

    def verdict_on(mask: np.ndarray, affine=image.affine) -> str:
        nib.save(nib.Nifti1Image(mask, affine), folder / "out_mask.nii")
        return judge(trial=trial)

    assert judge(trial=trial) == "an output is missing"
    assert judge(status=1, said="singlestrip: no brain\n", trial=trial) == "clean"
    assert verdict_on(brain) == "success"
    assert verdict_on(brain * 2) == "a mask is not of 0 and 1"
    assert verdict_on(brain * 0) == "a mask is empty"
    assert verdict_on(brain[1:]) == "an output has another shape than its image"
    assert verdict_on(brain, image.affine + np.eye(4)) == "an output lies elsewhere than its image"
    (folder / "out_mask.nii").write_bytes((folder / "out_mask.nii").read_bytes()[:3000])
    assert judge(trial=trial).startswith("an output that cannot be read")
    flat = np.where(brain > 0, image.get_fdata(), 0).astype(np.float32)
    nib.save(nib.Nifti1Image(flat, image.affine), folder / "flat.nii")
    nib.save(nib.Nifti1Image(1 - brain, image.affine), folder / "out_mask.nii")
    assert judge(trial=Trial(["strip"], "flat.nii")) == "a mask of the background"
    (folder / "out_mask.nii").unlink()
    for name, text, verdict in (
        (".0123abcd-partial-out.nii", "", "a half-written file is left"),
        ("out.tsv", "mask\tflag\na\tpass\nb\n", "a table is torn"),
        ("pickle-ran", "", "a checkpoint ran code"),
        ("image.nii", "changed", "an input changed"),
    ):
        (folder / name).write_text(text)
        assert judge(trial=Trial(["strip"])) == verdict
        (folder / name).unlink()


def test_cases_of_a_seed_are_the_same():
    import fuzz
    from fuzz_inputs import KINDS

    drawn = [fuzz.draw_kind(number, list(KINDS), 1) for number in range(400)]
    assert drawn == [fuzz.draw_kind(number, list(KINDS), 1) for number in range(400)]
    assert drawn != [fuzz.draw_kind(number, list(KINDS), 2) for number in range(400)]
    assert set(Counter(drawn)) == set(KINDS)


# What counts as a fault of a killed run


def test_what_kills_compares(tmp_path):
    import kills

    def readable(name: str, data: bytes) -> bool:
        (tmp_path / name).write_bytes(data)
        return kills.is_readable(tmp_path, Path(name))

    assert readable("a.metrics.csv", b"step,seconds\n1,2\n") and not readable(
        "a.metrics.csv", b"step,seconds\n1\n"
    )
    assert readable("a.json", b'{"a": 1}') and not readable("a.json", b'{"a": ')
    assert not readable("a.png", b"\x89PNG") and not readable("a.nii.gz", b"\x1f\x8b")
    assert readable("a.tsv", b"mask\n") and not readable("a.tsv", b"mask\nhal")
    for name, first, second, same in (
        ("a.json", b'{"step": 1, "seconds": 2}', b'{"step": 1, "seconds": 3}', True),
        ("a.json", b'{"step": 1}', b'{"step": 2}', False),
        ("a.metrics.csv", b"step,seconds\n1,2\n", b"step,seconds\n1,3\n", True),
        ("a.tsv", b"a\n", b"b\n", False),
    ):
        found = []
        for data in (first, second):
            (tmp_path / name).write_bytes(data)
            found.append(kills.content(tmp_path, Path(name)))
        assert (found[0] == found[1]) == same
