"""A night's batch: 200 scans through the command line, one in twenty of them broken in a way of its own."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from phantoms import make_head, threshold_cascade

import singlestrip
from singlestrip import checkpoint, volume
from singlestrip.metrics import dice

pytestmark = pytest.mark.slow
HEAD = make_head()
WHOLE = nib.Nifti1Image(HEAD.image, HEAD.vox2world)


def save(path, array, vox2world=HEAD.vox2world):
    nib.save(nib.Nifti1Image(array, vox2world), path)


def truncated(path):
    nib.save(WHOLE, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def wrong_magic(path):
    plain = path.with_suffix("")
    nib.save(WHOLE, plain)
    raw = bytearray(plain.read_bytes())
    plain.unlink()
    raw[344:348] = b"abcd"
    path.write_bytes(bytes(raw))


def singular(path):
    image = nib.Nifti1Image(HEAD.image, None)
    image.header["sform_code"], image.header["qform_code"] = 2, 0
    for row in "xyz":
        image.header[f"srow_{row}"] = (1, 1, 1, 0)
    nib.save(image, path)


def bit_flipped(path):
    """Its length is right, its checksum is not."""
    nib.save(WHOLE, path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(bytes(raw))


def other_format(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(400))


# The scan's number and what breaks it.
BROKEN = {
    3: truncated,
    24: lambda path: path.write_bytes(b""),
    45: lambda path: path.write_text("Dear colleague, the scan is attached.\n"),
    66: lambda path: save(path, np.full_like(HEAD.image, 7)),
    87: lambda path: save(path, np.full_like(HEAD.image, np.nan)),
    108: lambda path: None,  # there is no such file
    129: wrong_magic,
    150: lambda path: path.mkdir(),
    171: singular,
    192: lambda path: save(path, HEAD.image.astype(np.complex64)),
}
# What else could be; in place of the above in a second batch, of these alone.
MORE = {0: bit_flipped, 1: other_format, 2: lambda path: save(path, np.zeros((0, 4, 4), np.float32))}


def strip(folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "singlestrip", "strip", "--list", "list.txt", "--out-dir", "masks", *options]
    command += ["--save", "mask", "--model", "model.safetensors", "--threads", "1", "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(Path(singlestrip.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def make_scans(folder: Path, count: int, broken) -> list[str]:
    """Their names; the list names them all."""
    (folder / "scans").mkdir()
    names = [f"scans/s{number:03}.nii.gz" for number in range(count)]
    nib.save(WHOLE, folder / "whole.nii.gz")
    for number, name in enumerate(names):
        if number in broken:
            broken[number](folder / name)
        else:
            (folder / name).hardlink_to(folder / "whole.nii.gz")
    (folder / "list.txt").write_text("\n".join(names))
    checkpoint.save_model(folder / "model.safetensors", threshold_cascade(), {})
    return names


def check_failures(done: subprocess.CompletedProcess, failing: list[str], count: int) -> None:
    """Status 1; a sentence for each, which names it, and all names once more at the end; nothing else."""
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    reasons, summary, listed = lines[: len(failing)], lines[len(failing)], lines[len(failing) + 1 :]
    for name, reason in zip(failing, reasons, strict=True):
        assert reason.startswith(f"singlestrip: {name}: ") and "unexpected" not in reason
    assert len({reason.partition(".nii.gz: ")[2] for reason in reasons}) == len(failing)
    assert summary == f"singlestrip: {len(failing)} of {count} images failed:"
    assert [line.removeprefix("singlestrip:   ") for line in listed] == failing


def test_two_hundred_scans(tmp_path):
    names = make_scans(tmp_path, 200, BROKEN)
    failing = [names[number] for number in BROKEN]
    check_failures(strip(tmp_path), failing, 200)
    masks = {tmp_path / "masks" / f"s{n:03}_mask.nii.gz" for n in range(200) if n not in BROKEN}
    assert set((tmp_path / "masks").iterdir()) == masks and len(masks) == 190
    for mask in masks:
        assert dice(volume.read(mask).frame(0) > 0, HEAD.mask) > 0.99
    before = {mask: mask.stat().st_mtime_ns for mask in masks}

    check_failures(strip(tmp_path, "--resume"), failing, 200)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "masks").iterdir()} == before

    for number in BROKEN:
        path = tmp_path / names[number]
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        path.hardlink_to(tmp_path / "whole.nii.gz")
    done = strip(tmp_path, "--resume")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "masks").iterdir())) == 200
    assert {mask: mask.stat().st_mtime_ns for mask in masks} == before


def test_more_ways_to_break(tmp_path):
    names = make_scans(tmp_path, 5, MORE)
    check_failures(strip(tmp_path), names[:3], 5)
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["s003_mask.nii.gz", "s004_mask.nii.gz"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_scan_that_may_not_be_read(tmp_path):
    names = make_scans(tmp_path, 2, {0: truncated})
    (tmp_path / names[0]).chmod(0)
    done = strip(tmp_path)
    assert done.returncode == 1 and names[0] in done.stderr and "unexpected" not in done.stderr
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["s001_mask.nii.gz"]
