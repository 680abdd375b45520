"""Files whole or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import singlestrip
from singlestrip.errors import OutputError
from singlestrip.io import partial_files
from singlestrip.io.images import volume
from singlestrip.io.output import atomic_write, check_picture, check_writable, make_folder


def test_a_file_appears_when_its_block_ends_well(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as (partial,):
        partial.write_text("new")
        assert path.read_text() == "old" and partial.parent == tmp_path and partial.name.startswith(".")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_ends_badly_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OutputError, match=r"a.txt: cannot be written"), atomic_write(path) as (partial,):
        partial.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_two_writers_with_one_process_number_do_not_meet(tmp_path, monkeypatch):
    """As in two containers, where both may be process 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path = tmp_path / "a.txt"
    with atomic_write(path) as (first,):
        first.write_text("first")
        with atomic_write(path) as (second,):
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


# Names


def refused(path, why):
    with pytest.raises(OutputError, match=why) as caught:
        check_writable(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_names_of_any_legal_length_can_be_written(tmp_path):
    volume_in = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(np.arange(60, dtype=np.uint8).reshape(3, 4, 5), np.eye(4)), volume_in)
    scan = volume.read(volume_in)
    for suffix in (".nii", ".nii.gz", ".img", ".mgh", ".mgz", ".NII.GZ"):
        path = tmp_path / ("é" * 100 + "x" * (55 - len(suffix)) + suffix)
        assert len(os.fsencode(path.name)) == 255
        volume.check_output(path)
        volume.write_like(scan, path, scan.stored)
        np.testing.assert_array_equal(volume.read(path).stored, scan.stored)
        refused(path.with_name(f"x{path.name}"), "256 bytes, 255 at most")
    for name in (".nii", "a." + "b" * 253, "no-suffix", "a.safetensors"):
        with atomic_write(tmp_path / name) as (partial,):
            partial.write_text("x")
        assert (tmp_path / name).read_text() == "x"


def test_places_where_no_file_can_be_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "nul\0.nii", "NUL")
    refused(tmp_path / "gone" / "a", "folder .*gone does not exist")
    refused(tmp_path / "file" / "a", "does not exist")
    refused(tmp_path / "folder", "is a folder")
    refused(tmp_path / "fifo", "is a FIFO")
    refused(tmp_path / ("d" * 300) / "a", "name too long")
    refused(Path("/dev/null"), "is a device")
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "loop")
    (tmp_path / "file").chmod(0)  # a new file takes its place
    check_writable(tmp_path / "file")
    for name in ("x" * 252 + ".nii", "nul\0.nii"):
        with pytest.raises(OutputError, match=r"bytes|NUL"):
            volume.check_output(tmp_path / name)
        with pytest.raises(OutputError, match=r"bytes|NUL"):
            check_picture(tmp_path / name.replace(".nii", ".png"))


def test_folders_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "a", tmp_path / "nul\0", tmp_path / ("x" * 256)):
        with pytest.raises(OutputError, match="cannot be made"):
            make_folder(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folders_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    refused(tmp_path / "a", "cannot be written to")
    with pytest.raises(OutputError, match="cannot be written to"):
        make_folder(tmp_path)


# What killed processes leave

HOLD = """
import sys
from pathlib import Path
from singlestrip.io.output import atomic_write
with atomic_write(Path(sys.argv[1])) as (partial,):
    partial.write_text("half")
    print(partial.name, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """A process in the middle of writing tmp_path/a.txt, and its partial file."""
    environment = os.environ | {"PYTHONPATH": str(Path(singlestrip.__file__).parents[1])}
    command = [sys.executable, "-c", HOLD, tmp_path / "a.txt"]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process, tmp_path / process.stdout.readline().strip()
    process.kill()
    process.communicate()


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    """To which all folders are new."""
    monkeypatch.setattr(partial_files, "_cleaned", set())


def write(path):
    partial_files._cleaned.clear()
    with atomic_write(path) as (partial,):
        partial.write_text("x")


def test_what_a_killed_process_left_goes(tmp_path, writer):
    process, partial = writer
    write(tmp_path / "b.txt")
    assert partial.read_text() == "half"  # a live process has it
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.exists()
    write(tmp_path / "b.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


def test_a_writer_is_not_disturbed(tmp_path, writer):
    process, partial = writer
    os.utime(partial, (0, 0))
    write(tmp_path / "b.txt")
    process.communicate("")
    assert process.returncode == 0 and (tmp_path / "a.txt").read_text() == "half"


def test_what_another_machine_may_be_writing_stays_for_a_day(tmp_path):
    """Its locks may not be seen here."""
    ours = tmp_path / f".aaaaaaaa-partial-{partial_files._kernel()}"
    young, old = tmp_path / ".bbbbbbbb-partial-a.nii", tmp_path / ".cccccccc-partial-a.nii"
    own_file, folder = tmp_path / ".hidden-partial-x", tmp_path / ".dddddddd-partial-folder"
    for path in (ours, young, old, own_file):
        path.touch()
    folder.mkdir()
    link = tmp_path / ".eeeeeeee-partial-link"
    link.symlink_to(own_file)
    for path in (old, own_file):
        os.utime(path, (1, 1))
    write(tmp_path / "b.txt")
    assert sorted(tmp_path.iterdir()) == sorted([young, own_file, folder, link, tmp_path / "b.txt"])


def test_folders_are_cleaned_once(tmp_path):
    with atomic_write(tmp_path / "a") as (partial,):
        partial.write_text("x")
    leftover = tmp_path / f".aaaaaaaa-partial-{partial_files._kernel()}"
    leftover.touch()
    with atomic_write(tmp_path / "b") as (partial,):
        partial.write_text("x")
    assert leftover.exists()
