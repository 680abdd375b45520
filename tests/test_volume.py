"""The file boundary: what is read goes back out as it was, and what cannot be used is named."""

import bz2
import errno
import gzip
import io
import lzma
import os
import socket
import struct
import tracemalloc
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from singlestrip.errors import InputError, OutputError
from singlestrip.io import memory
from singlestrip.io.images import format as image_format
from singlestrip.io.images import stream as image_stream
from singlestrip.io.images import volume
from singlestrip.io.images import writing as image_writing
from singlestrip.io.images.stream import ImageStream
from singlestrip.space.grid import corners_apart

GZIP_START = b"\x1f\x8b"
TURN = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()
SHEAR = np.array([[1, 0.2, 0], [0, 1, 0.1], [0, 0, 1]])
GEOMETRIES = {
    "axis-aligned": np.eye(3) * 2,
    "anisotropic": np.diag([0.9, 1.1, 5]),
    "oblique": TURN @ np.diag([0.9, 1.1, 5]),
    "left-handed": np.diag([-1, 1, 1.5]),
    "permuted": np.array([[0, 0, 1.5], [-1, 0, 0], [0, 2, 0]]),
    "sheared": TURN @ SHEAR @ np.diag([1, 1, 3]),
}
SHAPES = [(5, 4), (5, 4, 1), (5, 4, 2), (5, 4, 3), (5, 4, 3, 2), (5, 4, 3, 1, 2), (5, 4, 3, 1, 1)]
TYPES = ["u1", "<i2", ">i2", "u2", "<i4", "<f4", ">f4", "<f8"]


def on_one_grid(file, other) -> bool:
    """Whether two images have the same shape and corners, except for the rounding of headers."""
    return file.space == other.space and corners_apart(file.grid, other.grid)[0] < volume.GRID_TOLERANCE_MM


def affine_of(name: str, origin=(-30.5, 12.25, 7.0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = GEOMETRIES[name], origin
    return affine


def values(shape, dtype="<i2") -> np.ndarray:
    return (np.arange(np.prod(shape)) % 251).reshape(shape).astype(dtype)


def make(path, stored=None, affine=None, forms="s", kind=nib.Nifti1Image, scaling=None, extension=False):
    """Save an image with every header field that must survive."""
    stored = values((5, 4, 3)) if stored is None else stored
    affine = affine_of("oblique") if affine is None else affine
    if kind is nib.MGHImage:
        nib.MGHImage(stored, affine).to_filename(path)
        return path
    header = kind.header_class(endianness=">" if stored.dtype.byteorder == ">" else "<")
    header.set_data_dtype(stored.dtype)
    image = kind(stored, None, header)
    header = image.header
    other = affine_of("oblique", origin=(1, 2, 3))
    header.set_sform(affine if "s" in forms else None, code=4 if "s" in forms else 0)
    if "q" in forms:
        header.set_qform(other if "s" in forms else affine, code=1)
    header.set_xyzt_units("mm", "msec")
    header["descrip"], header["aux_file"], header["intent_name"] = b"by hand", b"aux", b"T1"
    header["cal_max"], header["toffset"] = 200, 3
    if extension:
        header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"kept"))
    if scaling:
        header.set_slope_inter(*scaling)
    image._affine = header.get_best_affine()
    image.to_filename(path)
    return path


def files_of(path):
    """What the files of an image hold, by suffix, unpacked."""
    if path.suffix in (".img", ".hdr"):
        return {s: path.with_suffix(s).read_bytes() for s in (".img", ".hdr")}
    packed = path.name.endswith("z")
    return {"": gzip.decompress(path.read_bytes()) if packed else path.read_bytes()}


def rewrite(path, out):
    scan = volume.read(path)
    volume.write_like(scan, out, scan.stored, scan.slope, scan.intercept)
    return files_of(out)


# A qform has no shear.
FORMS = [
    (name, forms) for name in GEOMETRIES for forms in ("", "q", "s", "qs") if (name, forms) != ("sheared", "q")
]


@pytest.mark.parametrize("name, forms", FORMS)
def test_geometry_survives(tmp_path, name, forms):
    path = make(tmp_path / "a.nii", affine=affine_of(name), forms=forms, extension=True)
    assert rewrite(path, tmp_path / "b.nii") == files_of(path)
    scan = volume.read(path)
    if forms:
        np.testing.assert_allclose(scan.vox2world, affine_of(name), atol=1e-4)
    volume.write_like(scan, tmp_path / "m.nii", np.ones((5, 4, 3, 1), np.uint8), label="brain mask")
    image, mask = nib.load(path), nib.load(tmp_path / "m.nii")
    assert mask.get_data_dtype() == np.uint8 and mask.header["intent_name"] == b"brain mask"
    for field in ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "pixdim"):
        np.testing.assert_array_equal(mask.header[field], image.header[field])
    for field in ("qform_code", "sform_code", "xyzt_units", "descrip"):
        assert mask.header[field] == image.header[field]
    np.testing.assert_array_equal(mask.affine, image.affine)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img"])
def test_shapes_survive(tmp_path, shape, suffix):
    kind = nib.Nifti1Pair if suffix == ".img" else nib.Nifti1Image
    path = make(tmp_path / f"a{suffix}", values(shape), kind=kind)
    assert rewrite(path, tmp_path / f"b{suffix}") == files_of(path)
    scan = volume.read(path)
    assert scan.stored.shape[:3] == (*shape, 1)[:3] and scan.frames == np.prod(shape[3:])


@pytest.mark.parametrize("scaling", [None, (0.25, -7.0), (-2.0, 100.0)])
@pytest.mark.parametrize("dtype", TYPES)
def test_types_and_scaling_survive(tmp_path, dtype, scaling):
    path = make(tmp_path / "a.nii.gz", values((5, 4, 3), dtype), scaling=scaling)
    assert rewrite(path, tmp_path / "b.nii.gz") == files_of(path)
    slope, intercept = scaling or (1, 0)
    np.testing.assert_array_equal(volume.read(path).scaled(), values((5, 4, 3)) * slope + intercept)


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Image, nib.Nifti2Pair])
def test_other_nifti_survives(tmp_path, kind):
    suffix = ".img" if kind in (nib.Nifti1Pair, nib.Nifti2Pair) else ".nii"
    path = make(tmp_path / f"a{suffix}", kind=kind, forms="qs", extension=True, scaling=(0.5, 1.0))
    assert rewrite(path, tmp_path / f"b{suffix}") == files_of(path)


@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
@pytest.mark.parametrize("dtype", ["u1", ">i2", ">i4", ">f4"])
@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4, 1), (5, 4, 3, 2)], ids=str)
def test_mgh_survives(tmp_path, suffix, dtype, shape):
    path = make(tmp_path / f"a{suffix}", values(shape, dtype), kind=nib.MGHImage)
    assert rewrite(path, tmp_path / f"b{suffix}") == files_of(path)


def test_unscaled_as_others_write_it(tmp_path):
    path = make(tmp_path / "a.nii")
    raw = bytearray(path.read_bytes())
    raw[112:120] = bytes(8)  # scl_slope = scl_inter = 0: no scaling
    path.write_bytes(raw)
    np.testing.assert_array_equal(volume.read(path).scaled(), values((5, 4, 3)))
    assert rewrite(path, tmp_path / "b.nii") == files_of(path)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize(
    "start, end", [("a.mgz", "b.nii.gz"), ("a.nii", "b.mgz"), ("a.nii", "b.img"), ("a.img", "b.nii")]
)
@pytest.mark.parametrize("scaling", [None, (0.5, -3.0)])
def test_change_of_format(tmp_path, name, start, end, scaling):
    kind = {"a.mgz": nib.MGHImage, "a.img": nib.Nifti1Pair}.get(start, nib.Nifti1Image)
    path = make(
        tmp_path / start,
        values((5, 4, 3, 2), ">i2" if kind is nib.MGHImage else "<i2"),
        affine_of(name),
        kind=kind,
        scaling=scaling,
    )
    rewrite(path, tmp_path / end)
    before, after = volume.read(path), volume.read(tmp_path / end)
    np.testing.assert_allclose(after.vox2world, before.vox2world, rtol=1e-5, atol=1e-5)
    for t in range(2):
        np.testing.assert_array_equal(after.scaled(t), before.scaled(t))
    if end in ("b.img", "b.nii"):
        headers = nib.load(path).header, nib.load(tmp_path / end).header
        assert headers[0]["sform_code"] == headers[1]["sform_code"]


@pytest.mark.parametrize("dtype, expected", [("u2", ">i4"), ("<f8", ">f4"), ("i1", ">i4"), ("<u4", ">i4")])
def test_mgh_takes_the_nearest_type(tmp_path, dtype, expected):
    path = make(tmp_path / "a.nii", values((5, 4, 3), dtype) % 100)
    rewrite(path, tmp_path / "b.mgh")
    assert nib.load(tmp_path / "b.mgh").get_data_dtype() == np.dtype(expected)
    np.testing.assert_array_equal(volume.read(tmp_path / "b.mgh").scaled(), volume.read(path).scaled())


def test_frame_time_goes_along(tmp_path):
    image = nib.Nifti1Image(values((5, 4, 3, 2)), np.eye(4))
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((1, 1, 1, 2.5))
    image.to_filename(tmp_path / "a.nii")
    rewrite(tmp_path / "a.nii", tmp_path / "b.mgz")
    assert nib.load(tmp_path / "b.mgz").header["tr"] == 2500
    rewrite(tmp_path / "b.mgz", tmp_path / "c.nii")
    assert nib.load(tmp_path / "c.nii").header.get_zooms()[3] == 2.5


@pytest.mark.parametrize("folder", ["adults", "clinical", "mouse", "label_maps"])
def test_real_scans_survive(data, tmp_path, folder):
    path = min(data.glob(f"{folder}/*.nii.gz"))
    assert rewrite(path, tmp_path / "b.nii.gz") == files_of(path)


def break_affine(path, bad):
    raw = bytearray(make(path).read_bytes())
    raw[280:328] = np.asarray(bad, "<f4").tobytes()  # srow_x, srow_y, srow_z
    path.write_bytes(raw)


def cut(path, share):
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])


BROKEN = {
    "missing.nii": lambda p: None,
    "cut.nii.gz": lambda p: cut(make(p), 0.6),
    "cut.nii": lambda p: cut(make(p), 0.9),
    "header.nii": lambda p: cut(make(p), 0.3),
    "empty.nii": lambda p: p.write_bytes(b""),
    "random.nii": lambda p: p.write_bytes(np.random.default_rng(0).bytes(2000)),
    "random.nii.gz": lambda p: p.write_bytes(np.random.default_rng(0).bytes(2000)),
    "random.mgz": lambda p: p.write_bytes(np.random.default_rng(0).bytes(2000)),
    "zipped.nii.gz": lambda p: p.write_bytes(gzip.compress(np.random.default_rng(0).bytes(2000))),
    "cut.mgz": lambda p: cut(make(p, values((5, 4, 3), ">i2"), kind=nib.MGHImage), 0.5),
    "complex.nii": lambda p: nib.Nifti1Image(np.ones((3, 3, 3), np.complex64), np.eye(4)).to_filename(p),
    "singular.nii": lambda p: break_affine(p, np.diag([1, 1, 0, 0])[:3]),
    "nan.nii": lambda p: break_affine(p, np.full((3, 4), np.nan)),
    "huge.nii": lambda p: make(p, affine=np.diag([500.0, 500, 500, 1])),
    "name.png": lambda p: p.write_bytes(b"not an image"),
    "folder.nii": lambda p: p.mkdir(),
}


@pytest.mark.parametrize("name", BROKEN)
def test_unusable_input_is_named(tmp_path, name):
    path = tmp_path / name
    BROKEN[name](path)
    with pytest.raises(InputError, match=name):
        volume.read(path)
    assert not volume.is_complete(path)


def test_damaged_headers_never_escape(tmp_path):
    """Whatever a header says, it is read or refused in one sentence."""
    raw = make(tmp_path / "good.nii").read_bytes()
    path = tmp_path / "bad.nii"
    for position in [*range(0, 4), *range(40, 56), *range(70, 74), *range(76, 124), *range(252, 256), 344, 348]:
        for byte in (0, 0x7F, 0xFF):
            path.write_bytes(raw[:position] + bytes([byte]) + raw[position + 1 :])
            try:
                volume.read(path)
            except InputError as error:
                assert "bad.nii" in str(error)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz"])
def test_is_whole(tmp_path, suffix):
    kind = nib.MGHImage if suffix == ".mgz" else nib.Nifti1Image
    path = make(
        tmp_path / f"a{suffix}", np.random.default_rng(0).integers(0, 99, (9, 9, 9)).astype(">i2"), kind=kind
    )
    assert volume.is_complete(path)
    cut(path, 0.95 if suffix == ".nii" else 0.8)
    assert not volume.is_complete(path)


@pytest.mark.parametrize("name", ["a.txt", "a", "nowhere/a.nii"])
def test_unusable_output_is_named(tmp_path, name):
    with pytest.raises(OutputError, match=name):
        volume.check_output(tmp_path / name)


def test_unwritable_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(volume.os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(OutputError, match="cannot be written to"):
        volume.check_output(tmp_path / "a.nii")
    scan = volume.read(make(tmp_path / "a.nii"))
    with pytest.raises(OutputError, match="nowhere"):
        volume.write_like(scan, tmp_path / "nowhere" / "b.nii", scan.stored)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img", ".mgz"])
@pytest.mark.parametrize("older", [False, True])
def test_output_appears_whole_or_not_at_all(tmp_path, monkeypatch, suffix, older):
    scan = volume.read(make(tmp_path / "a.nii"))
    out = tmp_path / f"b{suffix}"
    if older:
        volume.write_like(scan, out, scan.stored)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full_disk(stored, order):
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(image_writing, "_in_file_order", full_disk)
    with pytest.raises(OutputError, match=f"b{suffix}.*No space left"):
        volume.write_like(scan, out, scan.stored + 1)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_same_grid(tmp_path):
    def scan(name, shape=(5, 4, 3), change=None):
        affine = affine_of("oblique")
        affine += 0 if change is None else change
        return volume.read(make(tmp_path / name, values(shape), affine))

    a = scan("a.nii")
    assert on_one_grid(a, scan("b.nii", (5, 4, 3, 2)))  # frames do not count
    assert not on_one_grid(a, scan("c.nii", (5, 4, 2)))
    shift = np.zeros((4, 4))
    shift[1, 3] = 0.1
    assert not on_one_grid(a, scan("d.nii", change=shift))
    assert on_one_grid(a, scan("e.nii", change=shift / 100))
    assert not on_one_grid(a, scan("f.nii", change=shift[:, [3, 1, 2, 0]]))  # turned by a tenth of a mm a voxel


def test_finite_range():
    assert volume.finite_range(np.array([3, -2, 7], np.int16)) == (-2, 7)
    assert volume.finite_range(np.array([np.nan, 1, np.inf, -4, -np.inf])) == (-4, 1)
    assert volume.finite_range(np.array([np.nan, np.inf])) == (np.inf, -np.inf)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz"])
def test_a_flipped_bit_in_compressed_data_is_noticed(tmp_path, suffix):
    """The checksum at the end of the stream is verified, whatever the bit did to the values."""
    path = tmp_path / f"scan{suffix}"
    values = np.random.default_rng(0).integers(0, 100, (12, 12, 12)).astype(np.int16)
    (nib.MGHImage if suffix == ".mgz" else nib.Nifti1Image)(values, np.eye(4)).to_filename(path)
    whole = path.read_bytes()
    assert volume.is_complete(path)
    for position in np.linspace(40, len(whole) - 9, 25).astype(int):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        assert not volume.is_complete(path) or gzip.decompress(damaged) == gzip.decompress(whole), position


def test_what_is_named_wrongly_is_said(tmp_path):
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(InputError, match="a folder"):
        volume.read(tmp_path / "folder.nii")
    make(tmp_path / "a.nii.gz").rename(tmp_path / "a.nii")
    with pytest.raises(InputError, match="rename it"):
        volume.read(tmp_path / "a.nii")


@pytest.mark.parametrize("name", ["empty.mgz", "short.mgh"])
def test_mgh_files_without_a_header(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b"") if name == "empty.mgz" else bytes(20))
    with pytest.raises(InputError, match=name):
        volume.read(tmp_path / name)


@pytest.mark.parametrize("owner, step", [(os, "stat"), (Path, "open")])
def test_what_the_system_does_not_let_us_read(tmp_path, monkeypatch, owner, step):
    """The folder, or the file: root may read both, so the refusal is made up."""
    path = tmp_path / "a.nii"
    path.write_bytes(bytes(400))

    def refuse(*args, **keywords):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, refuse)
        with pytest.raises(InputError) as error:
            volume.read(path)
    assert str(error.value) == f"{path}: cannot be read (Permission denied)"


def read_all(path) -> volume.Volume:
    """An image without a remark."""
    scan = volume.read(path)
    assert scan.remarks == ()
    return scan


# Whatever can be read can be written

WIDE_SHAPES = [*SHAPES, (5, 4, 3, 1), (5, 4, 3, 2, 2), (5, 4, 3, 1, 1, 1, 1), (2, 2, 2, 1, 2, 1, 3)]


@pytest.mark.parametrize("shape", WIDE_SHAPES, ids=str)
@pytest.mark.parametrize("end", [".nii", ".nii.gz", ".img", ".hdr", ".mgz", ".mgh"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_every_shape_in_every_format(tmp_path, shape, end, kind):
    """All frames, and one for all of them; frames of several axes in the order of the file."""
    scan = read_all(make(tmp_path / "a.nii", values(shape), kind=kind, forms="qs"))
    out = tmp_path / f"b{end}"
    volume.check_grid_fits(scan, out)
    volume.check_values_fit(scan, out)
    frames = int(np.prod(shape[3:]))
    mask = (scan.stored % 2).astype(np.uint8)
    for stored, one_frame in ((scan.stored, False), (mask, False), (mask[..., :1], True)):
        volume.write_like(scan, out, stored, one_frame=one_frame)
        again = read_all(out)
        np.testing.assert_array_equal(again.stored, stored)
        assert on_one_grid(again, scan) and again.frames == (1 if one_frame else frames)
        if end[1:3] != "mg":
            assert nib.load(out).shape == (shape[:3] if one_frame else shape)
    volume.write_like(scan, out, mask)
    others = np.asarray(nib.load(out).dataobj).reshape((*scan.space, -1), order="F")
    np.testing.assert_array_equal(others, mask)


LONG = 2**15 + 1


def test_an_axis_too_long_for_nifti_1(tmp_path):
    path = tmp_path / "a.mgh"
    nib.MGHImage(values((LONG, 2, 2), ">i2"), affine_of("oblique")).to_filename(path)
    scan = read_all(path)
    volume.write_like(scan, tmp_path / "b.nii", scan.stored)
    assert isinstance(nib.load(tmp_path / "b.nii"), nib.Nifti2Image)
    again = read_all(tmp_path / "b.nii")
    np.testing.assert_array_equal(again.stored, scan.stored)
    np.testing.assert_allclose(again.vox2world, scan.vox2world, atol=1e-9)


def with_header(path, kind=nib.Nifti1Image, stored=None, tail=b"", **fields):
    """An image of which some header fields are set to what nibabel would not write."""
    raw = bytearray(files_of(make(path, stored, kind=kind))[""])
    layout = (
        kind.header_class.template_dtype if kind is not nib.MGHImage else nib.freesurfer.mghformat.header_dtype
    )
    block = np.frombuffer(raw[: layout.itemsize], layout).copy()
    for name, value in fields.items():
        block[name] = value
    data = block.tobytes() + bytes(raw[layout.itemsize :])
    path.write_bytes((gzip.compress(data, mtime=0) if path.name.endswith("z") else data) + tail)
    return path


def test_a_grid_that_no_format_but_its_own_can_hold_is_told_beforehand(tmp_path):
    long = volume.read_header(make(tmp_path / "a.nii", kind=nib.Nifti2Image))
    long = replace(long, shape=(2**31, 1, 1))
    far = volume.read_header(make(tmp_path / "far.nii", affine=affine_of("oblique", origin=(1e7, 0, 0))))
    for header in (long, far):
        volume.check_grid_fits(header, tmp_path / "b.nii")
        with pytest.raises(OutputError, match=r"b\.mgz: .* cannot hold"):
            volume.check_grid_fits(header, tmp_path / "b.mgz")


KEPT = [
    ("<i8", [-(2**31), 2**31 - 1], ">i4"),
    ("<u8", [0, 2**31 - 1], ">i4"),
    ("<u4", [0, 2**32 - 2**8], ">f4"),
    ("<i8", [2**40, -(2**40)], ">f4"),
    ("<u2", [0, 65535], ">i4"),
    ("<f8", [-1.5, 3e38], ">f4"),
    ("<f8", [np.nan, np.inf], ">f4"),
]


@pytest.mark.parametrize("dtype, ends, expected", KEPT)
def test_values_are_kept_in_mgh(tmp_path, dtype, ends, expected):
    stored = values((5, 4, 3), dtype)
    stored.flat[:2] = ends
    scan = read_all(make(tmp_path / "a.nii", stored))
    volume.check_values_fit(scan, tmp_path / "b.mgz")
    volume.write_like(scan, tmp_path / "b.mgz", scan.stored)
    again = read_all(tmp_path / "b.mgz")
    assert again.dtype == np.dtype(expected)
    np.testing.assert_array_equal(again.stored[..., 0], stored.astype(np.float32) if dtype == "<f8" else stored)


@pytest.mark.parametrize(
    "dtype, end, scaling",
    [
        ("<i8", 2**31 + 1, None),
        ("<u8", 2**64 - 1, None),
        ("<u4", 2**32 - 1, None),
        ("<f8", 1e300, None),
        ("<f8", -4e38, None),
        ("<i2", 1000, (1e37, 0)),
        ("<i2", 1000, (1, 1e37)),
    ],
)
def test_values_that_mgh_cannot_hold_are_told_beforehand(tmp_path, dtype, end, scaling):
    stored = values((5, 4, 3), dtype)
    stored.flat[0] = end
    scan = read_all(make(tmp_path / "a.nii", stored, scaling=scaling))
    volume.check_values_fit(scan, tmp_path / "b.nii")
    with pytest.raises(OutputError, match=r"b\.mgh: .*; write NIfTI"):
        volume.check_values_fit(scan, tmp_path / "b.mgh")
    with pytest.raises(OutputError, match=r"b\.mgh: .*; write NIfTI"):
        volume.check_values_fit(replace(scan, stored=scan.stored[1:]), tmp_path / "b.mgh", scan.stored[:1])


def test_big_endian_brain_is_still_the_image(tmp_path):
    """What arithmetic makes of big-endian values is in the machine's own order: they go out as they came."""
    path = make(tmp_path / "a.nii", values((5, 4, 3), ">i2"), forms="qs")
    scan = read_all(path)
    volume.write_like(scan, tmp_path / "b.nii", scan.stored.astype("=i2"), scan.slope, scan.intercept)
    assert files_of(tmp_path / "b.nii") == files_of(path)


# Headers as the standards and their readers take them


def set_quaternion(path, b, c, d, sform_code=0, kind=nib.Nifti1Image):
    return with_header(
        path, kind, quatern_b=b, quatern_c=c, quatern_d=d, sform_code=sform_code, qform_code=1, pixdim=1
    )


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("excess", [1e-7, 1e-6, 1e-5, 1e-3])
def test_a_quaternion_longer_than_1_by_rounding(tmp_path, kind, excess):
    length = np.sqrt(0.5) * (1 + excess)
    path = set_quaternion(tmp_path / "a.nii", 0, length, -length, kind=kind)
    scan = read_all(path)
    np.testing.assert_allclose(scan.vox2world[:3, :3], [[-1, 0, 0], [0, 0, -1], [0, -1, 0]], atol=1e-7)
    assert rewrite(path, tmp_path / "b.nii") == files_of(path)
    volume.write_like(scan, tmp_path / "m.mgz", np.ones((5, 4, 3, 1), np.uint8))
    assert on_one_grid(read_all(tmp_path / "m.mgz"), scan)


@pytest.mark.parametrize("wrong", [0.9, 5, np.inf, np.nan])
def test_a_qform_that_is_none(tmp_path, wrong):
    path = set_quaternion(tmp_path / "a.nii", wrong, 0.9, 0.1)
    with pytest.raises(InputError, match=r"a\.nii: the qform is invalid"):
        volume.read(path)
    path = set_quaternion(tmp_path / "b.nii", wrong, 0.9, 0.1, sform_code=2)  # nobody needs it
    np.testing.assert_allclose(read_all(path).vox2world, affine_of("oblique"), atol=1e-5)
    assert rewrite(path, tmp_path / "c.nii") == files_of(path)


@pytest.mark.parametrize("wrong, text", [(np.nan, "is not finite"), (np.inf, "is not finite"), (5, "over 1")])
def test_what_is_wrong_with_a_quaternion(tmp_path, wrong, text):
    with pytest.raises(InputError, match=rf"its quaternion .*{text}; repair") as error:
        volume.read(set_quaternion(tmp_path / "a.nii", 0.1, wrong, 0.1))
    assert "nan" not in str(error.value)


@pytest.mark.parametrize("name", sorted(set(GEOMETRIES) - {"sheared"}))
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_qforms_are_what_nibabel_makes_of_them(tmp_path, name, order, kind):
    path = make(tmp_path / "a.nii", values((5, 4, 3), f"{order}i2"), affine_of(name), forms="q", kind=kind)
    np.testing.assert_array_equal(read_all(path).vox2world, nib.load(path).affine)


UNITS = {1: 1e3, 3: 1e-3}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("forms", ["q", "s", "qs"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_lengths_in_other_units_than_mm(tmp_path, unit, forms, kind):
    mm = affine_of("anisotropic") if forms == "q" else affine_of("oblique")
    given = mm.copy()
    given[:3] /= UNITS[unit]
    image = kind(values((5, 4, 3)), None)
    image.header.set_sform(given if "s" in forms else None, code=1 if "s" in forms else 0)
    image.header.set_qform(given, code=1 if "q" in forms else 0)
    image.header["xyzt_units"] = unit + 16
    image.to_filename(tmp_path / "a.nii")
    scan = read_all(tmp_path / "a.nii")
    np.testing.assert_allclose(scan.vox2world, mm, rtol=1e-5, atol=1e-4)
    assert rewrite(tmp_path / "a.nii", tmp_path / "b.nii") == files_of(tmp_path / "a.nii")
    volume.write_like(scan, tmp_path / "m.nii", np.ones((5, 4, 3, 1), np.uint8), label="brain mask")
    volume.write_like(scan, tmp_path / "d.mgz", np.ones((5, 4, 3, 1), np.float32))
    for name in ("m.nii", "d.mgz"):
        assert on_one_grid(read_all(tmp_path / name), scan)
    before, after = (nib.load(tmp_path / name).header for name in ("a.nii", "m.nii"))
    for field in ("xyzt_units", "pixdim", "srow_x", "srow_y", "srow_z", "qoffset_x", "qform_code", "sform_code"):
        np.testing.assert_array_equal(after[field], before[field])
    np.testing.assert_allclose(nib.load(tmp_path / "d.mgz").affine, mm, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("unit, text", [(1, "metre, does not fit"), (3, "micron, does not fit"), (7, "code 7")])
def test_units_that_cannot_be_meant(tmp_path, unit, text):
    scan = volume.read(with_header(tmp_path / "a.nii", xyzt_units=unit))
    np.testing.assert_allclose(scan.vox2world, affine_of("oblique"), atol=1e-5)
    assert len(scan.remarks) == 1 and text in scan.remarks[0]
    assert read_all(with_header(tmp_path / "b.nii", xyzt_units=0)).vox2world.tolist() == scan.vox2world.tolist()


FIRST_BYTE = {nib.Nifti1Image: 352, nib.Nifti2Image: 544}


@pytest.mark.parametrize("kind", FIRST_BYTE)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("offset", [0, 1, 16, 348, 351])
def test_voxels_said_to_begin_within_the_header(tmp_path, kind, name, offset):
    path = with_header(tmp_path / name, kind, vox_offset=offset)
    scan = volume.read(path)
    assert len(scan.remarks) == 1 and f"byte {FIRST_BYTE[kind]} is taken" in scan.remarks[0]
    np.testing.assert_array_equal(scan.stored[..., 0], values((5, 4, 3)))
    rewrite(path, tmp_path / "b.nii")
    assert rewrite(tmp_path / "b.nii", tmp_path / "c.nii") == files_of(make(tmp_path / "d.nii", kind=kind))


def test_an_offset_of_0_has_no_sign(tmp_path):
    assert "at byte 0, within" in volume.read(with_header(tmp_path / "a.nii", vox_offset=-0.0)).remarks[0]
    pair = make(tmp_path / "b.img", kind=nib.Nifti1Pair)
    raw = bytearray(pair.with_suffix(".hdr").read_bytes())
    raw[108:112] = struct.pack("<f", -0.0)
    pair.with_suffix(".hdr").write_bytes(raw)
    assert read_all(pair).offset == 0


def chain(*sizes):
    """The flag and extensions of these sizes in bytes."""
    return b"\1\0\0\0" + b"".join(struct.pack("<2i", size, 6) + b"x" * (size - 8) for size in sizes)


@pytest.mark.parametrize("kind", FIRST_BYTE)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("sizes", [(32,), (16, 48)])
@pytest.mark.parametrize("offset", [0, 16])
def test_voxels_begin_behind_the_extensions_where_the_header_does_not_tell(tmp_path, kind, name, sizes, offset):
    path = with_extensions(tmp_path / name, chain(*sizes), kind=kind, vox_offset=offset)
    scan = volume.read(path)
    first = FIRST_BYTE[kind] + sum(sizes)
    assert len(scan.remarks) == 1 and f"byte {first}, behind its extensions, is taken" in scan.remarks[0]
    np.testing.assert_array_equal(scan.stored[..., 0], values((5, 4, 3)))
    rewrite(path, tmp_path / "b.nii")
    again = read_all(tmp_path / "b.nii")
    assert again.offset == first and again.extensions == chain(*sizes)


@pytest.mark.parametrize(
    "between, tail",
    [
        (b"\1\0\0\0", b""),  # none follow
        (b"\1\0\0\0", bytes(32)),  # what follows the voxels leaves room, but there are none
        (b"\0\0\0\0", b""),
    ],
)
def test_voxels_begin_behind_the_header_where_there_are_no_extensions(tmp_path, between, tail):
    path = with_extensions(tmp_path / "a.nii", between, tail, vox_offset=0)
    scan = volume.read(path)
    assert "byte 352 is taken" in scan.remarks[0] and scan.offset == 352
    np.testing.assert_array_equal(scan.stored[..., 0], values((5, 4, 3)))


def with_extensions(path, between, tail=b"", kind=nib.Nifti1Image, **fields):
    """An image with what stands between the fields of its header and its voxels, and behind these."""
    raw = files_of(with_header(path, kind, **fields))[""]
    size = FIRST_BYTE[kind]
    data = raw[: size - 4] + between + raw[size:] + tail
    path.write_bytes(gzip.compress(data) if path.name.endswith("z") else data)
    return path


@pytest.mark.parametrize("behind", [1, 100, 2**36])
def test_what_follows_the_header_of_a_pair_stays_behind(tmp_path, monkeypatch, behind):
    """It may be of any length: it is neither read nor written."""
    path = make(tmp_path / "a.img", kind=nib.Nifti1Pair)
    header = path.with_suffix(".hdr")
    before = header.read_bytes().ljust(352, b"\0")
    header.write_bytes(before)
    os.truncate(header, 352 + behind)
    monkeypatch.setattr(image_format, "ImageStream", CountedStream)
    monkeypatch.setattr(CountedStream, "count", 0)
    scan = volume.read(path)
    assert CountedStream.count < 1000
    assert scan.remarks == (
        f"{behind} bytes follow its header, are no extensions and are left out of what is written",
    )
    assert rewrite(path, tmp_path / "b.img") == {".hdr": before, ".img": path.read_bytes()}
    volume.write_like(scan, tmp_path / "m.nii", np.ones((5, 4, 3, 1), np.uint8))
    assert (tmp_path / "m.nii").stat().st_size == 352 + 60


@pytest.mark.parametrize("kind", FIRST_BYTE)
@pytest.mark.parametrize("offset", [-1, -1e30, np.nan, np.inf, 400, 1e6, 1e9, 1e30])
def test_voxels_said_to_begin_nowhere(tmp_path, kind, offset):
    if kind is nib.Nifti2Image and not abs(offset) < 2**63:
        offset = np.copysign(2**62, offset)
    path = with_header(tmp_path / "a.nii", kind, vox_offset=offset + 200 * (offset == 400))
    with pytest.raises(InputError, match=r"a\.nii: .*(vox_offset|from byte \d+ on, more than the file can hold)"):
        volume.read(path)


def test_damaged_extensions_cost_no_image(tmp_path):
    path = make(tmp_path / "a.nii", extension=True)
    raw = bytearray(path.read_bytes())
    raw[352:356] = (2**30).to_bytes(4, "little")
    path.write_bytes(raw)
    scan = volume.read(path)
    assert "extensions of its header are damaged" in scan.remarks[0]
    rewrite(path, tmp_path / "b.nii")
    np.testing.assert_array_equal(read_all(tmp_path / "b.nii").stored, scan.stored)
    assert not nib.load(tmp_path / "b.nii").header.extensions


@pytest.mark.parametrize("axis, size", [(4, 0), (5, 0), (4, 1)])
def test_an_axis_of_no_element_after_the_third(tmp_path, axis, size):
    dim = [axis, 5, 4, 3, *[1] * (axis - 4), size, *[1] * (7 - axis)]
    scan = volume.read(with_header(tmp_path / "a.nii", dim=dim))
    assert scan.frames == 1 and bool(scan.remarks) == (size == 0)
    volume.write_like(scan, tmp_path / "m.mgz", np.ones((5, 4, 3, 1), np.uint8))
    volume.write_like(scan, tmp_path / "m.nii", np.ones((5, 4, 3, 1), np.uint8))
    assert nib.load(tmp_path / "m.nii").get_fdata().sum() == 60


@pytest.mark.parametrize(
    "dim", [[3, 0, 4, 3], [3, -5, 4, 3], [4, 5, 4, 3, -1], [0, 5, 4, 3], [8, 5, 4, 3], [1, 60]]
)
def test_shapes_of_no_image(tmp_path, dim):
    path = with_header(tmp_path / "a.nii", dim=dim + [1] * (8 - len(dim)))
    with pytest.raises(InputError, match=r"a\.nii: .*damaged"):
        volume.read(path)


def test_no_orientation_is_said(tmp_path):
    scan = volume.read(with_header(tmp_path / "a.nii", sform_code=0, qform_code=0))
    assert "the orientation is a guess" in scan.remarks[0]
    scan = volume.read(with_header(tmp_path / "b.nii", sform_code=77))
    assert "unknown code 77" in scan.remarks[0]
    np.testing.assert_allclose(scan.vox2world, affine_of("oblique"), atol=1e-5)
    assert rewrite(tmp_path / "b.nii", tmp_path / "c.nii") == files_of(tmp_path / "b.nii")


# Scaling


@pytest.mark.parametrize("slope, remarks", [(0, 0), (np.nan, 1), (np.inf, 1), (-np.inf, 1)])
def test_a_slope_that_is_none(tmp_path, slope, remarks):
    path = with_header(tmp_path / "a.nii", scl_slope=slope, scl_inter=7)
    scan = volume.read(path)
    np.testing.assert_array_equal(scan.scaled(), values((5, 4, 3)))
    assert len(scan.remarks) == remarks
    assert rewrite(path, tmp_path / "b.nii") == files_of(path)


@pytest.mark.parametrize("intercept", [np.nan, np.inf])
def test_an_intercept_that_is_none(tmp_path, intercept):
    with pytest.raises(InputError, match=r"a\.nii: its scaling is not finite \(scl_inter"):
        volume.read(with_header(tmp_path / "a.nii", scl_slope=2, scl_inter=intercept))


@pytest.mark.parametrize(
    "dtype, factor", [("<f8", 1e-60), ("<f8", 1e60), ("<i2", 1), ("<f4", 1e-30), ("<f4", 1e30)]
)
def test_scaling_is_exact_where_32_bits_would_overflow_on_the_way(tmp_path, dtype, factor):
    stored = values((5, 4, 3)) * np.array(factor, dtype)
    slope = 3 / factor
    path = make(tmp_path / "a.nii", stored.astype(dtype), kind=nib.Nifti2Image, scaling=(slope, 1))
    np.testing.assert_allclose(read_all(path).scaled(), values((5, 4, 3)) * 3.0 + 1, rtol=1e-6)


@pytest.mark.parametrize("scaling", [(1e38, 0), (1, 1e38), (-1e38, 5), (1e-60, 0), (1, -1e300)])
@pytest.mark.parametrize("dtype", ["u1", "<i2", "<f4"])
def test_numbers_that_32_bits_cannot_hold(tmp_path, dtype, scaling):
    scan = read_all(make(tmp_path / "a.nii", values((5, 4, 3), dtype), kind=nib.Nifti2Image, scaling=scaling))
    with pytest.raises(InputError, match=r"a\.nii: values from .* 32 bits.*; rescale the image"):
        scan.scaled()
    grey = scan.grey()
    assert np.isfinite(grey).all()
    assert (grey.flat[1] > grey.flat[0]) == (scaling[0] > 0)


@pytest.mark.parametrize("dtype, odd", [("<f8", 1e300), ("<f8", -4e38), ("<i8", None)])
def test_stored_numbers_that_32_bits_cannot_hold(tmp_path, dtype, odd):
    stored = values((5, 4, 3), dtype) + (2**60 if odd is None else 0)
    if odd is not None:
        stored.flat[3] = odd
    scan = read_all(make(tmp_path / "a.nii", stored))
    with pytest.raises(InputError, match="32 bits"):
        scan.scaled()
    assert np.isfinite(scan.grey()).all()


def test_tiny_and_missing_values_stay(tmp_path):
    stored = values((5, 4, 3), "<f4") * np.float32(1e-20)
    stored.flat[:3] = np.nan, np.inf, -np.inf
    scaled = read_all(make(tmp_path / "a.nii", stored, scaling=(2, 0))).scaled()
    np.testing.assert_array_equal(scaled, stored * np.float32(2))


# MGH: what stands before and behind the voxels

TAGS = struct.pack(">5f", 2300, 0.2, 3, 900, 256) + struct.pack(">iq", 31, 17) + b"talairach/a.xfm\0\0" + b"\0\0\1"


def with_footer(path, footer, stored=None, **fields):
    """An MGH file with an own footer, and something in the part of its header that nobody uses."""
    stored = values((5, 4, 3), ">i2") if stored is None else stored
    raw = files_of(make(path, stored, kind=nib.MGHImage))[""]
    head = np.frombuffer(raw[:90], nib.freesurfer.mghformat.header_dtype).copy()
    for name, value in fields.items():
        head[name] = value
    data = head.tobytes() + b"unused" + raw[96 : 284 + stored.nbytes] + footer
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".mgz" else data)
    return path


@pytest.mark.parametrize("footer", [TAGS, TAGS[:20], TAGS[:7], b"", bytes(3000), b"\xff" * 100], ids=len)
@pytest.mark.parametrize("start, end", [("a.mgh", "b.mgz"), ("a.mgz", "b.mgh")])
@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4, 3, 2)])
def test_the_footer_of_mgh_comes_back(tmp_path, footer, start, end, shape):
    path = with_footer(tmp_path / start, footer, values(shape, ">i2"), dof=12)
    assert rewrite(path, tmp_path / end) == files_of(path)
    scan = read_all(path)
    volume.write_like(scan, tmp_path / f"m{end}", np.ones((5, 4, 3, 1), np.uint8), one_frame=True)
    mask = files_of(tmp_path / f"m{end}")[""]
    before = files_of(path)[""]
    assert mask[284 + 60 :] == footer
    assert mask[24:284] == before[24:284]
    volume.write_like(scan, tmp_path / "c.nii", scan.stored)
    np.testing.assert_array_equal(read_all(tmp_path / "c.nii").stored, scan.stored)


def test_mgh_without_geometry(tmp_path):
    """FreeSurfer's documented default: x to the left, y down, z forward, and the origin in the middle."""
    path = with_footer(tmp_path / "a.mgz", TAGS, goodRASFlag=0, delta=0, Mdc=np.nan)
    scan = volume.read(path)
    assert len(scan.remarks) == 1 and "FreeSurfer's default" in scan.remarks[0]
    expected = [[-1, 0, 0, 2.5], [0, 0, 1, -1.5], [0, -1, 0, 2], [0, 0, 0, 1]]
    np.testing.assert_array_equal(scan.vox2world, expected)
    assert rewrite(path, tmp_path / "b.mgz") == files_of(path)
    rewrite(path, tmp_path / "b.nii")
    np.testing.assert_array_equal(read_all(tmp_path / "b.nii").vox2world, expected)
    with pytest.raises(InputError) as error:
        volume.read(with_footer(tmp_path / "c.mgz", TAGS, delta=0))
    assert "singular" in str(error.value) and "form" not in str(error.value)  # MGH knows no sform


def test_unsigned_shorts_of_mgh(tmp_path):
    path = with_footer(tmp_path / "a.mgz", TAGS, values((5, 4, 3), ">u2"))
    assert rewrite(path, tmp_path / "b.mgz") == files_of(path)


# What is no image file


def named_pipe(path):
    os.mkfifo(path)


def socket_file(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def link(target):
    return lambda path: path.symlink_to(str(target).format(path.name))


NO_FILES = {
    "a FIFO": named_pipe,
    "a socket": socket_file,
    "a device": link("/dev/zero"),
    "a folder": Path.mkdir,
    "no such file": lambda path: None,
    "leads back to itself": link("{}"),
    "a link to .*nowhere, which does not exist": link("nowhere"),
    "datalad get": link("../.git/annex/objects/0f/Gq/MD5E-s1--0/MD5E-s1--0.nii.gz"),
    "git annex get": lambda path: path.write_text("/annex/objects/MD5E-s1--0.nii.gz\n"),
    "git lfs pull": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("what", NO_FILES)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mgz", ".hdr"])
def test_what_is_no_file_is_named(tmp_path, monkeypatch, what, suffix):
    monkeypatch.chdir(tmp_path)
    path = Path(f"a{suffix}")
    NO_FILES[what](path)
    if suffix == ".hdr":
        Path("a.img").write_bytes(bytes(2000))
    for read in (volume.read, volume.read_header):
        with pytest.raises(InputError, match=rf"^a\{suffix}: .*{what}"):
            read(path)
    assert not volume.is_complete(path)


@pytest.mark.parametrize("name", ["a\0b.nii", "x" * 300 + ".nii", "\ud800.nii"])
def test_names_that_no_file_can_have(tmp_path, name):
    with pytest.raises(InputError, match="name"):
        volume.read(tmp_path / name)


def test_half_a_pair(tmp_path):
    make(tmp_path / "a.img", kind=nib.Nifti1Pair)
    (tmp_path / "a.img").rename(tmp_path / "b.img")
    for name in ("a.hdr", "b.img"):
        with pytest.raises(InputError, match=r"(a\.img|b\.hdr): no such file"):
            volume.read(tmp_path / name)


@pytest.mark.parametrize(
    "name, kind", [("a.nii", nib.Nifti1Image), ("a.nii", nib.Nifti2Image), ("a.mgh", nib.MGHImage)]
)
def test_what_is_not_compressed_is_said(tmp_path, name, kind):
    path = make(tmp_path / name, values((5, 4, 3), ">i2"), kind=kind)
    packed = path.rename(tmp_path / ("a.nii.gz" if path.suffix == ".nii" else "a.mgz"))
    with pytest.raises(InputError, match=rf"not compressed: rename it to end in {path.suffix}"):
        volume.read(packed)


def zipped(data: bytes) -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.nii", data)
        return file.getvalue()


PACKINGS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zlib": zlib.compress,
    "zip": zipped,
    "zstd": lambda data: b"\x28\xb5\x2f\xfd" + data,  # begins so; Python has none of its own
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgh", ".mgz"])
@pytest.mark.parametrize("packing", sorted(set(PACKINGS) - {"gzip"}))
def test_another_compression_is_named(tmp_path, packing, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACKINGS[packing](make(tmp_path / "b.nii").read_bytes()))
    with pytest.raises(InputError, match=f"a{suffix}: compressed with {packing}, .*; unpack it") as error:
        volume.read(path)
    assert "not compressed" not in str(error.value)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_what_is_compressed_twice_is_said(tmp_path, packing, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(PACKINGS[packing](make(tmp_path / "b.nii").read_bytes())))
    with pytest.raises(
        InputError, match=f"compressed twice, with ({packing} and then with )?gzip; unpack it once"
    ):
        volume.read(path)


@pytest.mark.parametrize("kind", ["NIfTI", "MGH"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgh", ".mgz"])
def test_the_name_that_an_image_should_have_is_said(tmp_path, kind, packed, suffix):
    right = {("NIfTI", 0): ".nii", ("NIfTI", 1): ".nii.gz", ("MGH", 0): ".mgh", ("MGH", 1): ".mgz"}[kind, packed]
    image = nib.MGHImage if kind == "MGH" else nib.Nifti1Image
    path = make(tmp_path / f"right{right}", values((5, 4, 3), ">i2"), kind=image)
    read_all(path)
    path = path.rename(tmp_path / f"a{suffix}")
    if suffix == right:
        return
    with pytest.raises(InputError, match=rf"rename it to end in {right}$"):
        volume.read(path)


@pytest.mark.parametrize("suffix", [".hdr", ".img"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_a_compressed_half_of_a_pair_is_to_be_unpacked(tmp_path, packing, suffix):
    path = make(tmp_path / "a.img", np.zeros((20, 20, 20), np.int16), kind=nib.Nifti1Pair)
    half = path.with_suffix(suffix)
    half.write_bytes(PACKINGS[packing](half.read_bytes()[:10_000]))
    with pytest.raises(InputError, match=rf"a\{suffix}: compressed (with {packing}|inside).*; unpack it"):
        volume.read(path)


# What follows the image


@pytest.mark.parametrize(
    "tail", [b"GARBAGE" * 10, b"x", GZIP_START, GZIP_START + b"\x08 damaged", bytes(100)], ids=str
)
@pytest.mark.parametrize("name", ["a.nii.gz", "a.mgz"])
def test_bytes_behind_a_gzip_member(tmp_path, tail, name):
    kind = nib.MGHImage if name == "a.mgz" else nib.Nifti1Image
    stored = np.random.default_rng(0).integers(0, 99, (40, 40, 40)).astype(">i2")
    path = make(tmp_path / name, stored, kind=kind)
    before = files_of(path)
    path.write_bytes(path.read_bytes() + tail)
    scan = volume.read(path)
    padding = not tail.strip(b"\0")
    assert len(scan.remarks) == (0 if padding else 1) and all("not gzip" in remark for remark in scan.remarks)
    np.testing.assert_array_equal(scan.stored[..., 0], stored)
    assert rewrite(path, tmp_path / f"b{name}") == before


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mgz"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_member_cut_short_behind_the_image_is_said_once(tmp_path, name, share):
    """And nothing of it goes into what is written."""
    kind = nib.MGHImage if name == "a.mgz" else nib.Nifti1Image
    path = make(tmp_path / name, values((5, 4, 3), ">i2"), kind=kind)
    before = files_of(path)
    further = gzip.compress(np.random.default_rng(0).bytes(200_000))
    path.write_bytes(path.read_bytes() + further[: int(share * len(further))])
    scan = volume.read(path)
    assert len(scan.remarks) == 1 and "or are damaged" in scan.remarks[0]
    assert rewrite(path, tmp_path / f"b{name}") == before


@pytest.mark.parametrize("dtype", [">i2", "<i2", ">f4", ">f8", "u1"])
def test_values_have_the_byte_order_of_the_machine(tmp_path, dtype):
    path = make(tmp_path / "a.nii", values((5, 4, 3), dtype))
    image = read_all(path)
    assert image.dtype == np.dtype(dtype) and image.stored.dtype.isnative
    assert not image.stored.flags.writeable
    volume.write_like(image, tmp_path / "b.nii", image.stored)
    assert (tmp_path / "b.nii").read_bytes() == path.read_bytes()


def test_several_gzip_members_are_one_image(tmp_path):
    path = make(tmp_path / "a.nii.gz")
    raw = files_of(path)[""]
    path.write_bytes(b"".join(gzip.compress(raw[at : at + 100]) for at in range(0, len(raw), 100)))
    np.testing.assert_array_equal(read_all(path).stored[..., 0], values((5, 4, 3)))
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1  # the length of the last
    path.write_bytes(damaged)
    assert not volume.is_complete(path)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mgz"])
def test_compressed_outputs_are_one_gzip_member_without_time_or_name(tmp_path, name):
    kind = nib.MGHImage if name == "a.mgz" else nib.Nifti1Image
    image = read_all(make(tmp_path / name, values((5, 4, 3), ">i2"), kind=kind))
    for other in ("b", "c"):
        volume.write_like(image, tmp_path / f"{other}{name}", image.stored)
    raw = (tmp_path / f"b{name}").read_bytes()
    assert raw == (tmp_path / f"c{name}").read_bytes()
    assert raw[:8] == b"\x1f\x8b\x08\0\0\0\0\0"
    member = zlib.decompressobj(wbits=31)
    assert member.decompress(raw) == files_of(tmp_path / name)[""] and member.eof and not member.unused_data


@pytest.mark.parametrize("at", [-8, -4])
def test_a_wrong_checksum_or_length_is_one_sentence(tmp_path, at):
    path = make(tmp_path / "a.nii.gz")
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"a\.nii\.gz: the voxel data are damaged or cut short \(.+\)$"):
        volume.read(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_bytes_behind_the_voxels(tmp_path, name):
    path = with_header(tmp_path / "b.nii", tail=bytes(77))
    raw = path.read_bytes()
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if name.endswith("z") else raw)
    assert volume.read(path).remarks == ("77 bytes follow its voxels and are ignored",)


def test_gzip_members_without_end_are_not_read_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(image_stream, "MOST_MEMBERS", 5)
    path = make(tmp_path / "a.nii.gz")
    whole = path.read_bytes()
    path.write_bytes(whole + gzip.compress(b"") * 4)
    read_all(path)
    path.write_bytes(whole + gzip.compress(b"") * 100)
    np.testing.assert_array_equal(volume.read(path).stored[..., 0], values((5, 4, 3)))
    path.write_bytes(gzip.compress(b"") * 5 + whole)
    with pytest.raises(InputError, match="more than 5 gzip members"):
        volume.read(path)


class CountedStream(ImageStream):
    """Counts the bytes that are read of any image."""

    count = 0

    def _some(self, most):
        piece = super()._some(most)
        CountedStream.count += len(piece)
        return piece


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz"])
def test_no_end_of_zeros_is_read_to_the_end(tmp_path, monkeypatch, name):
    kind = nib.MGHImage if name == "a.mgz" else nib.Nifti1Image
    path = make(tmp_path / name, values((5, 4, 3), ">i2"), kind=kind)
    if name == "a.nii":
        os.truncate(path, 2**40)
    else:
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(files_of(make(tmp_path / f"b{name}", values((5, 4, 3), ">i2"), kind=kind))[""])
            for _ in range(48):
                file.write(bytes(2**20))
    monkeypatch.setattr(image_format, "ImageStream", CountedStream)
    monkeypatch.setattr(CountedStream, "count", 0)
    scan = volume.read(path)
    assert "16 MiB or more follow its voxels" in scan.remarks[0]
    assert CountedStream.count < 2**25
    np.testing.assert_array_equal(scan.stored[..., 0], values((5, 4, 3)))
    rewrite(path, tmp_path / "c.mgz")
    assert read_all(tmp_path / "c.mgz").footer in (b"", bytes(20))


# The need is known before voxels are read


def huge(path, side=1700):
    """An image of side³ zeros by its header, none of which take room."""
    header = nib.Nifti1Header()
    header.set_data_shape((side,) * 3)
    header.set_data_dtype(np.uint8)
    header.set_sform(np.eye(4), code=1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    raw = header.binaryblock + bytes(4)
    if path.name.endswith("z"):
        path.write_bytes(gzip.compress(raw + np.random.default_rng(0).bytes(side**3 // 1000)))
    else:
        path.write_bytes(raw)
        os.truncate(path, 352 + side**3)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_an_image_larger_than_the_memory_is_not_read(tmp_path, monkeypatch, name):
    path = huge(tmp_path / name)
    header = volume.read_header(path)
    assert header.shape == (1700,) * 3 and header.nbytes == 1700**3
    monkeypatch.setattr(memory, "available", lambda: 4 * memory.GIB)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"a\.nii(\.gz)?: needs about .* GiB of memory and 4\.0 GiB are free"):
            volume.read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dim", [[3, 2**15 - 1, 2**15 - 1, 2**15 - 1], [7] + [2**15 - 1] * 7, [3, 50, 400, 300]])
def test_a_header_that_tells_of_more_than_the_file_can_hold(tmp_path, name, dim):
    path = with_header(tmp_path / name, dim=dim + [1] * (8 - len(dim)))
    with pytest.raises(InputError, match=r"a\.nii(\.gz)?: cut short, or its header is damaged: it tells of"):
        volume.read_header(path)


def test_the_terminal_stays_silent(tmp_path, capfd, recwarn):
    """Of headers that libraries have a word or a warning about."""
    for number, fields in enumerate(
        (
            {"qform_code": 77},
            {"bitpix": 3},
            {"pixdim": -1},
            {"pixdim": np.inf},
            {"sizeof_hdr": 5},
            {"scl_slope": np.nan},
        )
    ):
        path = with_header(tmp_path / f"{number}.nii", **fields)
        scan = volume.read(path)
        volume.write_like(scan, tmp_path / "m.mgz", np.ones((5, 4, 3, 1), np.uint8))
        assert rewrite(path, tmp_path / "b.nii") == files_of(path)
    for affine in (np.full((3, 4), 1e38), np.full((3, 4), np.inf), np.zeros((3, 4))):
        path = make(tmp_path / "a.nii")
        break_affine(path, affine)
        with pytest.raises(InputError, match="geometry"):
            volume.read(path)
    assert capfd.readouterr() == ("", "") and not recwarn.list
