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
from singlestrip.batch.quality_table import read_table
from singlestrip.io.images import volume
from singlestrip.networks import checkpoint
from singlestrip.space.metrics import dice

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


def found(folder: Path) -> list[Path]:
    """All that is in a folder of masks but the records of how they were made."""
    return sorted(path for path in folder.iterdir() if path.name != ".singlestrip")


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
    assert set(found(tmp_path / "masks")) == masks and len(masks) == 190
    for mask in masks:
        assert dice(volume.read(mask).frame(0) > 0, HEAD.mask) > 0.99
    before = {mask: mask.stat().st_mtime_ns for mask in masks}

    check_failures(strip(tmp_path, "--resume"), failing, 200)
    assert {path: path.stat().st_mtime_ns for path in found(tmp_path / "masks")} == before

    for number in BROKEN:
        path = tmp_path / names[number]
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        path.hardlink_to(tmp_path / "whole.nii.gz")
    done = strip(tmp_path, "--resume")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(found(tmp_path / "masks")) == 200
    assert {mask: mask.stat().st_mtime_ns for mask in masks} == before


def test_more_ways_to_break(tmp_path):
    names = make_scans(tmp_path, 5, MORE)
    check_failures(strip(tmp_path), names[:3], 5)
    assert [path.name for path in found(tmp_path / "masks")] == ["s003_mask.nii.gz", "s004_mask.nii.gz"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_scan_that_may_not_be_read(tmp_path):
    names = make_scans(tmp_path, 2, {0: truncated})
    (tmp_path / names[0]).chmod(0)
    done = strip(tmp_path)
    assert done.returncode == 1 and names[0] in done.stderr and "unexpected" not in done.stderr
    assert [path.name for path in found(tmp_path / "masks")] == ["s001_mask.nii.gz"]


# Names of any bytes but NUL, which no argument can hold, and line feed in lists; and lines that name no image.
GOOD_NAMES = (
    *(b"plain.nii", b"caf\xe9\xff.nii", b"new\nline.nii", b"c\rr.nii", b"tab\there.nii", b"\x1b[31mred\x07.nii"),
    *(b"=1+1.nii", b"-x.nii", b"@a.nii", b"'q.nii", b'"q.nii', b"back\\nslash.nii", b" lead.nii", b"#hash.nii"),
    *("Müller\u2028\u202e.nii".encode(), b"\xef\xbb\xbfmark.nii", b"x" * 246 + b".nii"),
)
BAD_LINES = (
    *(b"~no-such-user/x.nii", b"./nul\0.nii", b"loop.nii", b"missing.nii", b"fifo.nii", b"folder.nii"),
    *(b"./" + b"y" * 300 + b".nii", b"z" * 5000 + b"/a.nii", b"/", b".", b"\x1b[2J.nii"),
)


def run_bytes(folder: Path, *arguments: str | bytes, given: bytes = b"") -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(Path(singlestrip.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "singlestrip", *arguments, "--threads", "1", "--quiet"]
    return subprocess.run(command, cwd=folder, env=environment, input=given, capture_output=True, timeout=600)


def test_names_of_any_bytes(tmp_path):
    """Through arguments, a piped list with line ends of Windows, the table, and back through the table."""
    for name in GOOD_NAMES:
        nib.save(WHOLE, tmp_path / "a.nii")
        (tmp_path / "a.nii").rename(tmp_path / os.fsdecode(name))
    (tmp_path / "loop.nii").symlink_to("loop.nii")
    os.mkfifo(tmp_path / "fifo.nii")
    (tmp_path / "folder.nii").mkdir()
    nib.save(nib.Nifti1Pair(HEAD.image, HEAD.vox2world), tmp_path / "pair.img")
    checkpoint.save_model(tmp_path / "model.safetensors", threshold_cascade(), {})
    listed = [b"./" + name for name in GOOD_NAMES if b"\n" not in name]
    piped = b"\r\n".join([*listed, *BAD_LINES, b"pair.hdr", b"pair.img", b""])
    arguments = ("--list", "/dev/stdin", "-i", b"new\nline.nii", "--save", "mask", "--qc", "--out-dir", "out")
    done = run_bytes(tmp_path, "strip", *arguments, "--model", "model.safetensors", given=piped)
    assert done.returncode == 1 and done.stdout == b"" and b"unexpected" not in done.stderr
    assert f"{len(BAD_LINES)} of {len(GOOD_NAMES) + 1 + len(BAD_LINES)} images failed".encode() in done.stderr
    masks = {name.removesuffix(b".nii") + b"_mask.nii" for name in GOOD_NAMES} | {
        b"pair_mask.img",
        b"pair_mask.hdr",
    }
    assert {os.fsencode(path.name) for path in found(tmp_path / "out")} == masks | {b"qc.tsv"}
    check_table_of_any_bytes(tmp_path / "out" / "qc.tsv")

    written = ("--out", "again.tsv", "--report", "page")
    done = run_bytes(tmp_path, "qc", "--table", "out/qc.tsv", *written, "--model", "model.safetensors")
    assert done.returncode == 1 and b"unexpected" not in done.stderr
    again = (tmp_path / "again.tsv").read_text(encoding="utf-8").splitlines()
    assert sorted(again) == sorted((tmp_path / "out" / "qc.tsv").read_text(encoding="utf-8").splitlines())
    assert len(list((tmp_path / "page" / "pictures").iterdir())) == len(GOOD_NAMES) + 1


def check_table_of_any_bytes(path: Path) -> None:
    """A row a scan, of printable characters, from which the names come back."""
    cases = read_table(path)
    images = {os.fsencode(case.image) for case in cases if not case.note}
    assert images == {*GOOD_NAMES, b"pair.img"}
    assert {os.fsencode(case.image) for case in cases if case.note} == {
        os.fsencode(Path(os.fsdecode(line))) for line in BAD_LINES
    }
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(cases) + 1 and len(cases) == len(images) + len(BAD_LINES)
    cells = [cell for line in lines for cell in line.split("\t")]
    assert all(cell.isprintable() and cell[:1] not in ("=", "+", "-", "@", '"') for cell in cells if cell)


def test_a_damaged_table_is_told_before_a_night_is_lost(tmp_path):
    make_scans(tmp_path, 2, {})
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "qc.tsv").write_text("flag\testimated_dice\tmask\npass\tnan\ta.nii\n")
    done = strip(tmp_path, "--qc")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "masks/qc.tsv: line 2 has 'nan' as estimated_dice" in done.stderr
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["qc.tsv"]
