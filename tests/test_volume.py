"""The file boundary: what is read goes back out as it was, and what cannot be used is named."""

import errno
import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from singlestrip import volume
from singlestrip.errors import InputError, OutputError

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


@pytest.mark.parametrize("dtype, expected", [("u2", ">i4"), ("<f8", ">f4"), ("i1", ">i4"), ("<u4", ">f4")])
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
    assert not volume.is_whole(path)


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
    assert volume.is_whole(path)
    cut(path, 0.95 if suffix == ".nii" else 0.8)
    assert not volume.is_whole(path)


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

    def full_disk(self, path, *args, **kwargs):
        for holder in self.filespec_to_file_map(path).values():
            with open(holder.filename, "wb") as file:  # noqa: PTH123
                file.write(b"half")
        raise OSError(28, "No space left on device")

    for kind in (nib.Nifti1Image, nib.Nifti1Pair, nib.MGHImage):
        monkeypatch.setattr(kind, "to_filename", full_disk)
    with pytest.raises(OutputError, match=f"b{suffix}.*No space left"):
        volume.write_like(scan, out, scan.stored + 1)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_same_grid(tmp_path):
    def scan(name, shape=(5, 4, 3), change=None):
        affine = affine_of("oblique")
        affine += 0 if change is None else change
        return volume.read(make(tmp_path / name, values(shape), affine))

    a = scan("a.nii")
    assert volume.same_grid(a, scan("b.nii", (5, 4, 3, 2)))  # frames do not count
    assert not volume.same_grid(a, scan("c.nii", (5, 4, 2)))
    shift = np.zeros((4, 4))
    shift[1, 3] = 0.1
    assert not volume.same_grid(a, scan("d.nii", change=shift))
    assert volume.same_grid(a, scan("e.nii", change=shift / 100))
    assert not volume.same_grid(
        a, scan("f.nii", change=shift[:, [3, 1, 2, 0]])
    )  # turned by a tenth of a mm a voxel


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
    assert volume.is_whole(path)
    for position in np.linspace(40, len(whole) - 9, 25).astype(int):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        assert not volume.is_whole(path) or gzip.decompress(damaged) == gzip.decompress(whole), position


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


@pytest.mark.parametrize("step", ["is_dir", "open"])
def test_what_the_system_does_not_let_us_read(tmp_path, monkeypatch, step):
    """The folder, or the file: root may read both, so the refusal is made up."""
    path = tmp_path / "a.nii"
    path.write_bytes(bytes(400))

    def refuse(*args, **keywords):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, step, refuse)
    with pytest.raises(InputError, match=r"a\.nii: cannot be read \(Permission denied\)"):
        volume.read(path)
