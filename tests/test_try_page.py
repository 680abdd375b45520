"""The page in docs/try: its JavaScript computes what the Python code computes, and writes the same headers."""

import json
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from phantoms import PhantomCascade, make_head
from scipy.spatial import KDTree

from singlestrip.configuration import AutoencoderConfig, FlagConfig, ReasonConfig, StrippingConfig
from singlestrip.io.images import volume
from singlestrip.networks.engine import Engine
from singlestrip.networks.model_files import find_model
from singlestrip.networks.model_header import AUTOENCODER, Anatomy, read_header
from singlestrip.networks.onnx_export import with_derived
from singlestrip.networks.trees import Estimator
from singlestrip.quality.scores import QualityModel
from singlestrip.space.grid import voxel_sizes
from singlestrip.space.metrics import dice
from singlestrip.space.morphology import clean
from singlestrip.space.surface import NEAR_VOXELS, find_surface
from singlestrip.stripping.stripper import Stripper

PAGE = Path(__file__).parents[1] / "docs/try"
ANATOMY = Anatomy((2000.0,))
QUALITY = AutoencoderConfig(voxel_size_mm=12.0, size=16, layers=((4, 2, 4), (4, 2, 6)))
REACH_MM = 90.0


@pytest.fixture(autouse=True)
def node():
    if shutil.which("node") is None:
        pytest.skip("node is not installed")


def run(job: str, **values: Any) -> dict[str, Any]:
    """A job of docs/try/test/compare.mjs."""
    text = json.dumps({"job": job, **values}, default=str)
    command = ["node", str(PAGE / "test/compare.mjs")]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class ShapeThreshold(Engine):
    """A quality network that takes whatever is above half for the shape of a brain."""

    def __init__(self) -> None:
        self.config, self.estimator = QUALITY, shipped_estimator()

    def run(self, network: str, images: np.ndarray) -> np.ndarray:
        return 10 * (images - np.float32(0.5))


def shipped_estimator() -> Estimator:
    return read_header(find_model(None, AUTOENCODER.shipped), AUTOENCODER).parts[AUTOENCODER].estimator


def stripper(voxel_size_mm: float = 6.0, size: int = 32) -> Stripper:
    return Stripper(PhantomCascade(voxel_size_mm, size), anatomy=ANATOMY)


def strip(path: Path, ours: Stripper, folder: Path) -> dict[str, Any]:
    """Strip a file by JavaScript; the networks are those of the phantom stripper."""
    quality = {
        "configuration": asdict(QUALITY),
        "estimator": asdict(shipped_estimator()),
        "flags": asdict(FlagConfig()),
        "reasons": asdict(ReasonConfig()),
    }
    model = {
        "configuration": with_derived(ours.config),
        "stripping": asdict(StrippingConfig()),
        "anatomy": asdict(ANATOMY),
        "quality": quality,
    }
    names = {"mask": folder / "js-mask.nii", "brain": folder / "js-brain.nii", "distance": folder / "distance"}
    return run("strip", path=path, model=model, reach=REACH_MM, **names)


def rotation(degrees: float) -> np.ndarray:
    """About an oblique axis."""
    x, y, z = np.array([1.0, 2.0, 2.0]) / 3
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def turned(vox2world: np.ndarray, degrees: float) -> np.ndarray:
    """A geometry turned about the middle of the world."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(degrees)
    return matrix @ vox2world


def thick(image: np.ndarray, vox2world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every third axial slice."""
    return image[:, :, ::3], vox2world @ np.diag([1, 1, 3, 1])


def wide(image: np.ndarray, vox2world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A field of view of twice the width, with a second bright thing."""
    larger = np.zeros((70, 40, 72), dtype=np.float32)
    larger[2:34, 4:36, 8:40] = image
    larger[50:56, 10:16, 60:66] = 90
    return larger, vox2world


HEADS = {
    "plain": lambda image, vox2world: (image, vox2world),
    "oblique": lambda image, vox2world: (image, turned(vox2world, 25)),
    "thick": thick,
    "thick, oblique": lambda image, vox2world: thick(image, turned(vox2world, -40)),
    "wide": wide,
    "padded": lambda image, vox2world: (np.where(image < 3, -2000, image), vox2world),
}


def test_unit_tests_of_the_modules():
    tests = sorted(map(str, (PAGE / "test").glob("*.test.js")))
    done = subprocess.run(["node", "--test", *tests], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", HEADS)
def test_masks_and_headers_are_those_of_the_command(name, tmp_path):
    head = make_head()
    image, vox2world = HEADS[name](head.image, head.vox2world)
    path = tmp_path / "head.nii.gz"
    nib.save(nib.Nifti1Image(image.astype(np.int16), vox2world), path)
    ours = stripper()
    told = strip(path, ours, tmp_path)
    assert "error" not in told, told
    read = volume.read(path)
    expected = ours.strip(read.scan())
    mask = volume.read(tmp_path / "js-mask.nii")
    assert dice(mask.frame(0) > 0, expected.mask) > 0.9995
    assert len(told["doubts"]) == len(expected.doubts)
    judged = QualityModel(ShapeThreshold(), anatomy=ANATOMY).assess(
        expected.mask, read.vox2world, read.scan(), expected.field
    )
    quality = told["quality"]
    assert quality["dice"] == pytest.approx(judged.estimated_dice, abs=2e-3)
    assert (quality["flag"], quality["reasons"]) == (judged.flag, list(judged.reasons))
    volume.write_like(read, tmp_path / "mask.nii", mask.stored, label="brain mask", one_frame=True)
    assert (tmp_path / "mask.nii").read_bytes() == (tmp_path / "js-mask.nii").read_bytes()
    brain = np.where(mask.stored > 0, read.stored, 0)
    volume.write_like(read, tmp_path / "brain.nii", brain, one_frame=True)
    assert (tmp_path / "brain.nii").read_bytes() == (tmp_path / "js-brain.nii").read_bytes()


@pytest.mark.parametrize("name", ["plain", "thick, oblique"])
def test_the_signed_distance_is_that_to_the_nearest_foot(name, tmp_path):
    head = make_head()
    image, vox2world = HEADS[name](head.image, head.vox2world)
    path = tmp_path / "head.nii"
    nib.save(nib.Nifti1Image(image, vox2world), path)
    ours = stripper()
    told = strip(path, ours, tmp_path)
    scan = volume.read(path).scan()
    stripped = ours.strip(scan, sdt=True)
    box = tuple(slice(*ends) for ends in zip(told["box"]["start"], told["box"]["stop"], strict=True))
    shape = [side.stop - side.start for side in box]
    distance = np.fromfile(tmp_path / "distance", dtype=np.float32).reshape(shape, order="F")
    largest_mm = voxel_sizes(vox2world).max()
    far = np.isfinite(distance) & (np.abs(distance) > NEAR_VOXELS * largest_mm)
    inside, logit = stripped.field.around_brain(scan.grid)
    start = np.array([side.start for side in inside])
    surface = find_surface(logit, stripped.mask[inside], scan.vox2world[:3, :3], start)
    points = (np.argwhere(far) + told["box"]["start"]) @ scan.vox2world[:3, :3].T
    nearest = KDTree(surface.feet.T).query(points)[0]
    assert far.sum() > 100 and np.abs(distance).min() < 1
    error = np.abs(np.abs(distance[far]) - nearest)
    assert error.mean() < 0.03 * largest_mm and error.max() < 0.5 * largest_mm
    for border in (-6.0, 6.0):
        assert dice(distance < border, stripped.sdt[box] < border) > 0.94  # it goes through many voxel centres


@pytest.mark.parametrize("type_", ["<u1", "<i1", "<i2", ">i2", "<u2", "<i4", "<f4", "<f8", ">f8", ">i8"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_types_of_nifti_keep_values_and_header(type_, kind, tmp_path):
    order, dtype = type_[0], type_[1:]
    mask = np.zeros((6, 5, 4), dtype=bool)
    mask[1:4, 1:4, 1:3] = True
    stored = (np.random.default_rng(0).integers(1, 100, mask.shape) * mask).astype(dtype)
    header = kind.header_class(endianness=order)
    header["descrip"], header["cal_max"], header["intent_code"] = b"made up", 7, 3
    header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    image = kind(stored, turned(np.diag([1.0, 2.0, 3.0, 1.0]), 20), header, dtype=stored.dtype)
    image.header.set_slope_inter(1, 0)
    path, out = tmp_path / "image.nii", tmp_path / "out.nii"
    nib.save(image, path)
    read = volume.read(path)
    told = run("geometry", path=path)
    np.testing.assert_allclose(np.reshape(told["vox2world"], (3, 4)), read.vox2world[:3], rtol=0, atol=1e-6)
    run("clean", path=path, out=out)
    expected = clean(read.frame(0) > 0).astype(np.uint8)[..., None]
    volume.write_like(read, tmp_path / "expected.nii", expected, label="brain mask")
    assert out.read_bytes() == (tmp_path / "expected.nii").read_bytes()


@pytest.mark.parametrize("form", ["sform", "qform", "neither", "metres", "mgh"])
def test_geometries_are_read_as_the_command_reads_them(form, tmp_path):
    vox2world = turned(np.diag([1.1, -1.2, 2.5, 1.0]), 33)
    vox2world[:3, 3] = -70, 80, 10
    values = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    if form == "mgh":
        path = tmp_path / "image.mgz"
        nib.save(nib.MGHImage(values, vox2world), path)
    else:
        path = tmp_path / "image.nii"
        if form == "metres":
            vox2world[:3] /= 1000
        image = nib.Nifti1Image(values, vox2world)
        image.header.set_sform(vox2world, code=int(form in ("sform", "metres")))
        image.header.set_qform(vox2world, code=0 if form == "neither" else 1)
        image.header.set_xyzt_units({"metres": "meter"}.get(form, "mm"))
        image.header.set_slope_inter(2, 1)
        nib.save(image, path)
    read = volume.read(path)
    told = run("geometry", path=path)
    np.testing.assert_allclose(np.reshape(told["vox2world"], (3, 4)), read.vox2world[:3], rtol=0, atol=1e-4)
    assert told["shape"] == [3, 4, 5] and (told["slope"], told["intercept"]) == (read.slope, read.intercept)
    assert (told["first"], told["last"]) == (read.stored.flat[0], read.stored.flat[-1])


def test_a_mask_has_the_header_of_its_mgh_image(tmp_path):
    mask = np.zeros((6, 5, 4), dtype=np.float32)
    mask[1:4, 1:4, 1:3] = 1
    path, out = tmp_path / "image.mgh", tmp_path / "out.mgh"
    nib.save(nib.MGHImage(mask, turned(np.eye(4), 10)), path)
    run("clean", path=path, out=out)
    read = volume.read(path)
    volume.write_like(read, tmp_path / "expected.mgh", mask.astype(np.uint8)[..., None])
    assert out.read_bytes() == (tmp_path / "expected.mgh").read_bytes()


def test_files_that_are_no_images_get_a_sentence(tmp_path):
    good = tmp_path / "good.nii"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), dtype=np.float32), np.eye(4)), good)
    content = bytearray(good.read_bytes())
    cases = {
        "text.nii": (b"no image", "not an image"),
        "short.nii": (bytes(content[:600]), "cut short"),
        "noise.nii": (bytes(range(256)) * 4, "no NIfTI header"),
        "damaged.nii.gz": (b"\x1f\x8b" + b"x" * 400, "cannot be unpacked"),
        "short.mgz": (bytes(400), "no MGH header"),
    }
    for name, (given, expected) in cases.items():
        (tmp_path / name).write_bytes(given)
        told = run("geometry", path=tmp_path / name)
        assert told["kind"] == "InputError" and expected in told["error"], told
    told = strip(good, stripper(), tmp_path)
    assert told["error"] == "the image is constant: there is nothing to strip"


def test_estimates_are_those_of_the_estimator():
    estimator = shipped_estimator()
    random = np.random.default_rng(0)
    for _ in range(5):
        evidence = {name: float(random.uniform(0.6, 1)) for name in estimator.own.measurements}
        estimate = float(random.uniform(0.5, 1))
        told = run("estimate", estimator=asdict(estimator), evidence=evidence | {"estimate": estimate})
        low, high = estimator.by_networks.around(estimate)
        assert told == pytest.approx({"own": estimator.own.of(evidence), "low": low, "high": high})
