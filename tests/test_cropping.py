"""Cropped images: nibabel, which knows nothing of the crop, finds each voxel where it was."""

import struct

import nibabel as nib
import numpy as np
import pytest

from singlestrip.io.images import volume

SHAPE = (7, 6, 5)
BOX = (slice(1, 6), slice(2, 4), slice(0, 5))
TURN = nib.eulerangles.euler2mat(0.1, -0.2, 0.3)


def vox2world(turn=TURN):
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag([-1.5, 2, 2.5])
    matrix[:3, 3] = 31, -47, 11
    return matrix


def make_nifti(path, sform=0, qform=0, units="mm", frames=1, kind=nib.Nifti1Image):
    shape = SHAPE if frames == 1 else (*SHAPE, frames)
    stored = np.random.default_rng(0).integers(0, 999, shape).astype(np.int16)
    image = kind(stored, None)
    image.header.set_zooms((1.5, 2, 2.5, *[2.0] * (len(shape) - 3)))
    image.header.set_xyzt_units({"mm": "mm", "micron": "micron"}[units])
    scale = np.diag([1000.0] * 3 + [1]) if units == "micron" else np.eye(4)
    image.header["pixdim"][1:4] *= scale[0, 0]
    image.set_sform(scale @ vox2world() if sform else None, sform)
    image.set_qform(scale @ vox2world(nib.eulerangles.euler2mat(0.11, -0.2, 0.3)) if qform else None, qform)
    image.header["slice_code"], image.header["slice_end"] = 1, 4
    nib.save(image, path)
    return stored


def cropped(path, out):
    image = volume.read_quietly(path)
    part = volume.crop(image, BOX)
    volume.write_like(part, out, part.stored, part.slope, part.intercept)
    return image, part


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Pair])
@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (2, 0), (0, 1), (0, 0)])
def test_nifti(tmp_path, sform, qform, kind, frames):
    suffix = ".img" if kind is nib.Nifti1Pair else ".nii"
    stored = make_nifti(tmp_path / f"a{suffix}", sform, qform, frames=frames, kind=kind)
    image, part = cropped(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}")
    before, after = (nib.load(tmp_path / f"{name}{suffix}") for name in "ab")
    np.testing.assert_array_equal(np.asanyarray(after.dataobj), stored[BOX])
    shift = np.eye(4)
    shift[:3, 3] = 1, 2, 0
    if sform or qform:
        np.testing.assert_allclose(after.affine, before.affine @ shift, atol=1e-4)
    for name, code in (("sform", sform), ("qform", qform)):
        own, number = getattr(after, f"get_{name}")(coded=True)
        if code:
            np.testing.assert_allclose(own, getattr(before, f"get_{name}")() @ shift, atol=1e-4)
            assert number == code
    np.testing.assert_allclose(volume.read_header(tmp_path / f"b{suffix}").vox2world, part.vox2world, atol=1e-4)
    np.testing.assert_allclose(part.vox2world, image.vox2world @ shift)
    assert after.header["slice_code"] == after.header["slice_end"] == 0


@pytest.mark.parametrize("quaternion", [1.5, np.nan])
def test_a_damaged_qform_beside_a_sform_loses_its_code(tmp_path, quaternion):
    stored = make_nifti(tmp_path / "whole.nii", 1, 1)
    image = nib.load(tmp_path / "whole.nii")
    image.header["quatern_b"] = quaternion
    nib.save(nib.Nifti1Image(stored, None, image.header), tmp_path / "a.nii")
    _, part = cropped(tmp_path / "a.nii", tmp_path / "b.nii")
    after = nib.load(tmp_path / "b.nii")
    np.testing.assert_allclose(after.affine, part.vox2world, atol=1e-4)
    assert (int(after.header["sform_code"]), int(after.header["qform_code"])) == (1, 0)


def test_other_units(tmp_path):
    make_nifti(tmp_path / "a.nii", 1, 1, "micron")
    _, part = cropped(tmp_path / "a.nii", tmp_path / "b.nii")
    found = volume.read_header(tmp_path / "b.nii").vox2world
    np.testing.assert_allclose(found, part.vox2world, atol=1e-3)
    np.testing.assert_allclose(part.vox2world[:3, 3], (vox2world() @ [1, 2, 0, 1])[:3], atol=1e-3)


@pytest.mark.parametrize("has_geometry", [True, False])
@pytest.mark.parametrize("name", ["a.mgh", "a.mgz"])
def test_mgh(tmp_path, name, has_geometry):
    stored = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    image = nib.MGHImage(stored, vox2world())
    nib.save(image, tmp_path / name)
    if not has_geometry:
        plain = tmp_path / "plain.mgh"
        nib.save(image, plain)
        content = bytearray(plain.read_bytes())
        content[28:30] = struct.pack(">h", 0)  # goodRASFlag
        plain.write_bytes(content)
        name = plain.name
    before, part = cropped(tmp_path / name, tmp_path / "b.mgz")
    after = nib.load(tmp_path / "b.mgz")
    np.testing.assert_array_equal(np.asanyarray(after.dataobj), stored[BOX])
    np.testing.assert_allclose(after.affine[:3, 3], (before.vox2world @ [1, 2, 0, 1])[:3], atol=1e-4)
    np.testing.assert_allclose(after.affine, part.vox2world, atol=1e-4)


def test_a_part_of_the_grid_is_complete_if_that_will_do(tmp_path):
    for name in ("a.nii", "b.nii", "c.nii"):
        make_nifti(tmp_path / name, 1, 1)
    image, part = tmp_path / "a.nii", tmp_path / "b.nii"
    cropped(image, part)
    assert volume.is_complete(part, image, may_be_cropped=True) and not volume.is_complete(part, image)
    assert volume.is_complete(image, image, may_be_cropped=True)
    assert not volume.is_complete(image, part, may_be_cropped=True)  # it is larger
    aside = nib.load(part)
    aside.set_sform(aside.affine + np.eye(4)[:, [3, 3, 3, 0]] * 0.7, 1)
    nib.save(nib.Nifti1Image(np.asanyarray(aside.dataobj), aside.get_sform()), tmp_path / "c.nii")
    assert not volume.is_complete(tmp_path / "c.nii", image, may_be_cropped=True)  # it lies between voxels
