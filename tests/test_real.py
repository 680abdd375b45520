"""The shipped weights on real scans, through the functions and the command that users call."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import singlestrip
from singlestrip.cli.main import main
from singlestrip.io.images import volume
from singlestrip.io.images.masks import read_mask
from singlestrip.quality.scores import QualityModel
from singlestrip.space.metrics import dice
from singlestrip.space.resample import block_mean
from singlestrip.space.scan import Scan

EXAMPLE = Path(nib.__file__).parent / "tests" / "data" / "example4d.nii.gz"


def test_every_installation_can_strip_the_example_of_nibabel(tmp_path):
    mask, brain = tmp_path / "mask.nii.gz", tmp_path / "brain.nii.gz"
    status = main(["strip", "-i", str(EXAMPLE), "-m", str(mask), "-o", str(brain), "--mean-frame"])
    assert status == 0
    image, inside = nib.load(EXAMPLE), np.asarray(nib.load(mask).dataobj) > 0
    assert inside.shape == image.shape[:3]
    litres = inside.sum() * np.prod(image.header.get_zooms()[:3]) / 1e6
    assert 0.4 < litres < 1.2  # a slab of 53 mm of an adult brain
    stripped = np.asarray(nib.load(brain).dataobj)
    np.testing.assert_array_equal(stripped[inside], np.asarray(image.dataobj)[inside])
    assert (stripped[~inside] == 0).all()


def test_arrays_and_files_give_the_same_mask(tmp_path):
    image = nib.load(EXAMPLE)
    first = np.asarray(image.dataobj)[..., 0]
    path = tmp_path / "first.nii"
    nib.Nifti1Image(first, image.affine).to_filename(path)
    singlestrip.strip_file(path, mask=tmp_path / "mask.mgz", sdt=tmp_path / "sdt.nii.gz")
    result = singlestrip.strip(first, image.affine, sdt=True)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "mask.mgz").dataobj) > 0, result.mask)
    np.testing.assert_array_equal((result.sdt < 0), result.mask)


def test_a_file_needs_an_output():
    with pytest.raises(singlestrip.SingleStripError, match="output"):
        singlestrip.strip_file(EXAMPLE)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("adults/sub-02_T1w", 0.965),
        ("adults/sub-07_T2w", 0.96),
        ("clinical/patient01_study1_FLAIR", 0.945),
        ("clinical/patient04_study1_T1w", 0.94),
    ],
)
def test_development_scans(data, tmp_path, name, least):
    image, mask = data / f"{name}.nii.gz", tmp_path / "mask.nii.gz"
    assert main(["strip", "-i", str(image), "-m", str(mask)]) == 0
    truth, found = nib.load(data / f"{name}_mask.nii.gz"), nib.load(mask)
    assert dice(np.asarray(found.dataobj) > 0, np.asarray(truth.dataobj) > 0) > least
    original = nib.load(image).header
    for form in ("get_qform", "get_sform"):
        for ours, theirs in zip(
            getattr(found.header, form)(coded=True), getattr(original, form)(coded=True), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_quality_of_real_masks(data):
    """By shape alone a reference mask is to be looked at; half of it fails, and so do those of other anatomies."""
    quality = QualityModel.load(device="cpu")

    def flag(name, part=slice(None)):
        scan, mask = read_mask(data / name)
        cut = np.zeros_like(mask)
        cut[part] = mask[part]
        return quality.assess(cut, scan.vox2world).flag

    assert flag("adults/sub-02_T1w_mask.nii.gz") == "look"
    assert flag("adults/sub-02_T1w_mask.nii.gz", slice(80)) == "fail"
    for path in (*(data / "fetal").glob("*mask.nii.gz"), *(data / "mouse").glob("*mask.nii.gz")):
        assert flag(path.relative_to(data)) == "fail"


def test_a_real_mask_passes_by_way_of_the_networks(data, tmp_path, capsys):
    """Half of it fails."""
    image, whole = data / "adults/sub-02_T1w.nii.gz", data / "adults/sub-02_T1w_mask.nii.gz"
    mask = nib.load(whole)
    half = np.asanyarray(mask.dataobj).copy()
    half[half.shape[0] // 2 :] = 0
    nib.save(nib.Nifti1Image(half, mask.affine), tmp_path / "half.nii.gz")
    assert main(["qc", "-m", str(whole), str(tmp_path / "half.nii.gz"), "-i", str(image), str(image)]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["fail", "pass"]


@pytest.mark.parametrize("size, field_mm, noise", [(0.6, 330, 0.0), (0.4, 400, 0.02)])
@pytest.mark.parametrize("stripped", [True, False])
def test_small_heads_in_wide_black_fields(data, size, field_mm, noise, stripped):
    """Of a T1w whose voxels count as smaller than they are, in a corner of a field without anything else."""
    scan = volume.read(data / "adults/sub-02_T1w.nii.gz")
    _, mask = read_mask(data / "adults/sub-02_T1w_mask.nii.gz")
    parts = (np.where(mask, scan.scaled(), 0) if stripped else scan.scaled(), mask)
    head, brain = (block_mean(Scan(part, scan.vox2world), 2.6) for part in parts)
    vox2world = head.vox2world
    vox2world[:3, :3] *= size
    beyond = np.maximum(field_mm / head.grid.voxel_sizes_mm - head.shape, 0).astype(int)
    image, truth = (np.pad(part, [(0, n) for n in beyond]) for part in (head.array, brain.array > 0.5))
    image += noise * image.max() * np.abs(np.random.default_rng(0).normal(size=image.shape))
    assert dice(singlestrip.strip(image, vox2world).mask, truth) > 0.95
