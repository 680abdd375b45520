"""Image files of all kinds through the whole of stripping: read, stripped, written, or refused before any work."""

import gzip
import os
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from phantoms import make_head

from singlestrip.batch.jobs import Job, StripOptions
from singlestrip.batch.stages import stored_fill
from singlestrip.batch.strip import strip_file
from singlestrip.configuration import GMMConfig
from singlestrip.errors import InputError, OutputError
from singlestrip.io import memory
from singlestrip.io.images import volume
from singlestrip.io.images.pairs import read_pair
from singlestrip.space.grid import corners_apart
from singlestrip.space.metrics import dice
from singlestrip.synthesis.labelling import fit_files

HEAD = make_head()
KINDS = ("brain", "mask", "sdt")
SHAPES = [(32, 32, 32, 1), (32, 32, 32, 1, 1), (32, 32, 32, 2), (32, 32, 32, 1, 2), (32, 32, 32, 1, 1, 1, 1)]


class Untouched:
    """A stripper that must not be asked."""

    def __init__(self, stripper):
        self.config = stripper.config

    def strip(self, *args, **keywords):
        raise AssertionError("the network runs")


def save(path, image=HEAD.image, shape=None, dtype=np.float32, kind=nib.Nifti1Image):
    frames = int(np.prod((shape or image.shape)[3:]))
    stored = np.stack([image] * frames, -1).reshape(shape or image.shape)
    header = kind.header_class()
    header.set_data_dtype(dtype)
    kind(stored.astype(dtype), HEAD.vox2world, header).to_filename(path)
    return path


def job(image, suffix, *kinds):
    return Job(image, {kind: image.parent / f"{kind}{suffix}" for kind in kinds})


@pytest.fixture(autouse=True)
def plenty_of_memory(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 64 * memory.GIB)


def lies_on(image, other):
    """Whether an image has the shape of another, and its voxels in the same places but for rounding in headers."""
    return image.space == other.space and corners_apart(image.grid, other.grid)[0] < 0.01


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("suffix", [".mgz", ".mgh", ".nii.gz", ".hdr"])
def test_outputs_of_every_shape(phantom_stripper, tmp_path, shape, suffix):
    todo = job(save(tmp_path / "a.nii", shape=shape), suffix, *KINDS)
    strip_file(phantom_stripper, todo)
    scan, mask = volume.read(todo.image), volume.read(todo.outputs["mask"])
    for kind in KINDS:
        found = volume.read(todo.outputs[kind])
        assert lies_on(found, scan) and found.frames == scan.frames and not found.remarks
    assert all(dice(mask.frame(t) > 0, HEAD.mask) > 0.9 for t in range(mask.frames))


def test_a_label_map_of_a_scan_of_four_axes(tmp_path):
    image = save(tmp_path / "a.nii", shape=(32, 32, 32, 1))
    mask = save(tmp_path / "m.nii", HEAD.mask, dtype=np.uint8)
    for name in ("labels.mgz", "labels.nii.gz"):
        fit_files(image, mask, tmp_path / name, GMMConfig(inside=2, outside=2))
    labels = [volume.read(tmp_path / name) for name in ("labels.mgz", "labels.nii.gz")]
    np.testing.assert_array_equal(labels[0].stored, labels[1].stored)


@pytest.mark.parametrize("dtype, value", [(np.float64, 1e300), (np.int64, 2**40 + 1)])
def test_what_an_output_cannot_hold_is_told_before_the_network_runs(phantom_stripper, tmp_path, dtype, value):
    image = HEAD.image.astype(dtype)
    image[0, 0, 0] = value
    todo = job(save(tmp_path / "a.nii", image, dtype=dtype), ".mgz", "brain")
    with pytest.raises(OutputError, match=r"brain\.mgz: .*; write NIfTI"):
        strip_file(Untouched(phantom_stripper), todo)


def test_a_fill_that_an_output_cannot_hold(phantom_stripper, tmp_path):
    todo = job(save(tmp_path / "a.nii", dtype=np.float64), ".mgz", "brain")
    with pytest.raises(OutputError, match=r"brain\.mgz: .* 32 bits"):
        strip_file(Untouched(phantom_stripper), todo, StripOptions(fill=1e300))


@pytest.mark.parametrize("limit, reason", [(None, "4.0 GiB are free"), (3.0, "over the limit of 3 GiB")])
def test_the_need_is_told_from_the_header(phantom_stripper, tmp_path, monkeypatch, limit, reason):
    path = save(tmp_path / "a.nii", dtype=np.uint8)
    raw = bytearray(path.read_bytes())
    raw[42:48] = np.array([1500] * 3, "<i2").tobytes()
    path.write_bytes(raw)
    os.truncate(path, 352 + 1500**3)
    monkeypatch.setattr(volume, "_read_voxels", None)
    monkeypatch.setattr(memory, "available", lambda: 4 * memory.GIB)
    with pytest.raises(InputError, match=rf"a\.nii: needs about .*{reason}"):
        strip_file(Untouched(phantom_stripper), job(path, ".nii", "mask"), StripOptions(memory_gib=limit))


@pytest.mark.parametrize("dtype, fill", [(np.float32, 1e300), (np.float32, -4e38), (np.uint8, 256)])
def test_a_fill_that_the_image_cannot_hold(tmp_path, dtype, fill):
    scan = volume.read(save(tmp_path / "a.nii", HEAD.mask, dtype=dtype))
    with pytest.raises(InputError, match="cannot be stored"):
        stored_fill(scan, fill)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_background_beyond_what_can_be_stored_is_the_nearest(tmp_path, dtype):
    scan = volume.read(save(tmp_path / "a.nii", HEAD.mask, dtype=dtype))
    limits = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    assert stored_fill(replace(scan, slope=1e-300, intercept=1e38), None) == limits.min
    assert stored_fill(replace(scan, slope=-1e-300, intercept=1e38), None) == limits.max


def test_remarks_on_labelled_scans_are_said(tmp_path, caplog):
    image, mask = save(tmp_path / "a.nii.gz"), save(tmp_path / "m.nii.gz", HEAD.mask, dtype=np.uint8)
    for path in (image, mask):
        path.write_bytes(path.read_bytes() + b"garbage")
    read_pair(image, mask)
    assert [text.partition(": ")[0] for text in caplog.messages] == [str(image), str(mask)]


def test_what_was_assumed_is_said(phantom_stripper, tmp_path, caplog):
    path = save(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes() + b"garbage")
    strip_file(phantom_stripper, job(path, ".nii", "mask"))
    said = [text for text in caplog.messages if "brain of" not in text]  # to the phantom any brain is large
    assert said == [f"{path}: {remark}" for remark in volume.read(path).remarks] != []


@pytest.mark.parametrize("unit, per_mm", [(1, 1e-3), (3, 1e3)])
@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz"])
def test_a_head_in_another_unit(phantom_stripper, tmp_path, unit, per_mm, suffix):
    image = nib.Nifti1Image(HEAD.image, np.diag([per_mm] * 3 + [1]) @ HEAD.vox2world)
    image.header["xyzt_units"] = unit
    image.to_filename(tmp_path / "a.nii")
    in_mm, other = (job(path, suffix, *KINDS) for path in (save(tmp_path / "mm.nii"), tmp_path / "a.nii"))
    other = replace(other, outputs={kind: path.with_name(f"o{path.name}") for kind, path in other.outputs.items()})
    for todo in (in_mm, other):
        strip_file(phantom_stripper, todo)
    for kind in KINDS:
        expected, found = (volume.read(todo.outputs[kind]) for todo in (in_mm, other))
        assert lies_on(found, expected)
        apart = np.abs(found.stored.astype(float) - expected.stored)
        assert np.quantile(apart, 0.99) < 1e-3  # but for voxels at the border, by rounding


def test_a_footer_goes_to_every_output(phantom_stripper, tmp_path):
    path = save(tmp_path / "a.mgz", kind=nib.MGHImage, dtype=">f4")
    footer = np.arange(200, dtype=np.uint8).tobytes()
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-20] + footer))
    todo = job(path, ".mgh", *KINDS)
    strip_file(phantom_stripper, todo)
    for kind, out in todo.outputs.items():
        size = 1 if kind == "mask" else 4
        assert out.read_bytes()[284 + 32**3 * size :] == footer
