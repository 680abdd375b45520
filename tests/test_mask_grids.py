"""Masks on other grids than their images: shifted, turned and flipped by known amounts."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from phantoms import make_head, tiny_cascade
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from singlestrip.cli.main import main
from singlestrip.configuration import AutoencoderConfig, MaskGridConfig
from singlestrip.errors import GridError, InputError
from singlestrip.io.images import volume
from singlestrip.io.images.masks import check_grid
from singlestrip.io.images.pairs import read_pair
from singlestrip.networks import checkpoint
from singlestrip.networks.autoencoder import Autoencoder
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.model_files import MODELS_VARIABLE
from singlestrip.training import fitting

SHAPE = (20, 16, 10)
SIZES_MM = np.array([2.75, 2.75, 4.0])
TRUST = MaskGridConfig(trust_voxels=True)


def header(path, vox2world, shape=SHAPE):
    """The header of an image with this geometry."""
    nib.Nifti1Image(np.zeros(shape, np.uint8), vox2world).to_filename(path)
    return volume.read_header(path)


def oblique(sizes_mm=SIZES_MM, degrees=20.0):
    vox2world = np.eye(4)
    turn = Rotation.from_euler("xyz", [degrees, -degrees / 2, degrees / 3], degrees=True).as_matrix()
    vox2world[:3, :3] = turn @ np.diag(sizes_mm)
    vox2world[:3, 3] = -30, 20, 7
    return vox2world


def shifted(vox2world, mm):
    moved = vox2world.copy()
    moved[:3, 3] += mm
    return moved


def turned(vox2world, degrees):
    """Turned about the last axis of the grid, through the middle of its voxels."""
    angle = np.deg2rad(degrees)
    middle = (np.array(SHAPE) - 1) / 2
    turn, there = np.eye(4), np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    there[:3, 3] = middle
    sizes = np.diag([*SIZES_MM, 1.0])
    return vox2world @ there @ np.linalg.inv(sizes) @ turn @ sizes @ np.linalg.inv(there)


@pytest.fixture
def grids(tmp_path):
    """A function that gives the headers of a mask and an image, by their vox2world."""

    def pair(mask, image, shape=SHAPE):
        return header(tmp_path / "mask.nii", mask, shape), header(tmp_path / "image.nii", image)

    return pair


@pytest.mark.parametrize("mm", [0, 1e-4, 0.009])
def test_what_headers_round_off_is_not_said(grids, caplog, mm):
    check_grid(*grids(shifted(oblique(), [0, mm, 0]), oblique()))
    assert not caplog.messages


@pytest.mark.parametrize(
    ("mm", "said"),
    [
        ([0.02, 0, 0], "up to 0.02 mm (0.00727 voxels)"),
        ([0, -0.2, 0], "up to 0.2 mm (0.0727 voxels)"),
        ([0, 0, 0.39], "up to 0.39 mm (0.0975 voxels)"),  # voxels are 4 mm along this axis
    ],
)
def test_a_small_share_of_a_voxel_is_said_and_accepted(grids, caplog, mm, said):
    straight = np.diag([*SIZES_MM, 1.0])
    mask, image = grids(shifted(straight, mm), straight)
    check_grid(mask, image)
    assert caplog.messages == [f"{mask.path}: lies {said} beside {image.path}, whose geometry counts"]


@pytest.mark.parametrize("share", [0.09, -0.09, 0.11, -0.11])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_share_is_one_of_the_voxels_along_the_axes_of_the_image(grids, axis, share):
    image = oblique()
    mask = shifted(image, image[:3, axis] * share)
    if abs(share) < 0.1:
        check_grid(*grids(mask, image))
    else:
        with pytest.raises(GridError, match=r" mm \(0.11 voxels\) aside; resample"):
            check_grid(*grids(mask, image))


@pytest.mark.parametrize("degrees", [0.1, -0.4, 0.7, 5])
def test_a_turn_moves_the_corners_most(grids, caplog, degrees):
    """About the middle: by the chord of the half diagonal of the plane."""
    image = oblique()
    half_diagonal_mm = np.hypot(*(SIZES_MM * SHAPE)[:2]) / 2
    apart_mm = 2 * np.sin(np.deg2rad(abs(degrees)) / 2) * half_diagonal_mm
    text = f"{apart_mm:.3g} mm ({apart_mm / SIZES_MM[0]:.3g} voxels)"
    if apart_mm / SIZES_MM[0] <= 0.1:
        check_grid(*grids(turned(image, degrees), image))
        assert text in caplog.messages[0]
    else:
        with pytest.raises(GridError) as error:
            check_grid(*grids(turned(image, degrees), image))
        assert f"of the same shape, but up to {text} aside; resample the mask to it" in str(error.value)


def test_voxels_of_another_size_move_the_far_corner(grids):
    """3 mm for 2.75: 20 voxels end 5 mm further, from a corner half a voxel before the first voxel's centre."""
    mask, image = grids(np.diag([3, 2.75, 4, 1]), np.diag([*SIZES_MM, 1.0]))
    with pytest.raises(GridError, match=r"up to 4\.88 mm \(1\.77 voxels\) aside"):
        check_grid(mask, image)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flipped_axis_is_named(grids, caplog, axis):
    image = np.diag([*SIZES_MM, 1.0])
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, SHAPE[axis] - 1
    codes = ["LAS", "RPS", "RAI"][axis]
    mask, image = grids(image @ flip, image)
    text = f"up to {SHAPE[axis] * SIZES_MM[axis]:.3g} mm ({SHAPE[axis]} voxels)"
    with pytest.raises(GridError) as error:
        check_grid(mask, image, advice="do this")
    assert str(error.value) == (
        f"{mask.path}: not on the grid of {image.path}: of the same shape, but {text} aside, with axes to "
        f"{codes}, not RAS; do this, or trust the voxels of the mask if only its header is wrong"
    )
    check_grid(mask, image, TRUST)
    assert caplog.messages == [
        f"{mask.path}: its header puts it {text} beside {image.path}, with axes to {codes}, not RAS; its voxels "
        "are taken for those of that image"
    ]


def test_tiny_voxels_within_what_headers_round_off(grids, caplog):
    """0.009 mm is 0.18 voxels of 0.05 mm: accepted, and said."""
    image = np.diag([0.05, 0.05, 0.05, 1.0])
    check_grid(*grids(shifted(image, [0.009, 0, 0]), image))
    assert "0.009 mm (0.18 voxels)" in caplog.messages[0]


@pytest.mark.parametrize("policy", [MaskGridConfig(), TRUST])
def test_another_shape_is_refused_whatever_is_trusted(grids, policy):
    with pytest.raises(InputError, match="its shape is 10 × 16 × 20, not 20 × 16 × 10; resample") as error:
        check_grid(*grids(oblique(), oblique(), SHAPE[::-1]), policy)
    assert not isinstance(error.value, GridError)


# Commands

HEAD = make_head(24, 6.0)
ASIDE_MM = 0.3  # 0.05 voxels
WRONG = np.diag([1.0, 1, 1, 1])  # of a program that knows no geometry


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The phantom; its mask as it is, slightly aside and with a wrong header, the last two also soft; models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    HEAD.save(tmp_path)
    soft = np.round(100 * gaussian_filter(HEAD.mask.astype(np.float32), 0.5)).astype(np.uint8)
    near = shifted(HEAD.vox2world, [ASIDE_MM, 0, 0])
    for name, values, vox2world in (
        ("near", HEAD.mask.astype(np.uint8), near),
        ("wrong", HEAD.mask.astype(np.uint8), WRONG),
        ("soft", soft, WRONG),
    ):
        nib.save(nib.Nifti1Image(values, vox2world), f"{name}.nii.gz")
    Path("models").mkdir()
    torch.manual_seed(0)
    checkpoint.save_model(Path("models/singlestrip.safetensors"), Cascade(tiny_cascade(6.0)), {})
    config = AutoencoderConfig(size=16, voxel_size_mm=12.0, layers=((4, 2, 4), (4, 2, 4), (4, 2, 4), (4, 2, 8)))
    checkpoint.save_model(Path("models/quality.safetensors"), Autoencoder(config), {})
    return tmp_path


def run(line):
    return main(line.split())


def stored(name):
    return np.asarray(nib.load(name).dataobj)


def test_the_geometry_of_a_pair_is_that_of_the_image(files):
    for name in ("near", "wrong"):
        image, mask = read_pair(Path("image.nii.gz"), Path(f"{name}.nii.gz"), TRUST)
        np.testing.assert_array_equal(image.vox2world, HEAD.vox2world)
        np.testing.assert_array_equal(mask, HEAD.mask)


FIT = "fit-gmm -i image.nii.gz -o out.nii.gz --inside 3 --outside 3"
TRAIN = "train -i image.nii.gz -o m.safetensors --init singlestrip --steps 1 --no-quality --device cpu"
COMMANDS = {
    "fit-gmm": f"{FIT} -m {{}}.nii.gz",
    "train": f"{TRAIN} -m {{}}.nii.gz",
    "val": f"{TRAIN} -m mask.nii.gz --val image.nii.gz {{}}.nii.gz",
    "qc": "qc -i image.nii.gz -m {}.nii.gz --device cpu",
    "reference": "qc -i image.nii.gz -m mask.nii.gz --reference {}.nii.gz --device cpu",
    "self-train": "self-train -i image.nii.gz -m {}.nii.gz --list scans.txt -o run --rounds 1 --keep 1 "
    "--steps 1 --model singlestrip --qc-model quality --threshold 0.0001 --device cpu",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_a_wrong_header_and_name_the_option(files, capsys, command):
    Path("scans.txt").write_text("image.nii.gz\n")
    before = sorted(files.rglob("*"))
    assert run(COMMANDS[command].format("wrong")) == 1
    text = capsys.readouterr().err
    assert "wrong.nii.gz: not on the grid of image.nii.gz: of the same shape, but up to " in text
    assert text.endswith("if only its header is wrong (--trust-voxels)\n") and text.count("--trust") == 1
    assert sorted(files.rglob("*")) == before


@pytest.mark.parametrize("command", ["fit-gmm", "train", "val", "qc", "reference"])
def test_commands_trust_voxels_and_say_so_once(files, capsys, command):
    assert run(f"{COMMANDS[command].format('soft')} --trust-voxels") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "soft.nii.gz" in line]
    assert len(lines) == 2
    assert "taken as a soft mask, brain from 50 on" in lines[0]
    assert "its header puts it up to" in lines[1] and "beside image.nii.gz; its voxels are taken" in lines[1]


@pytest.mark.parametrize("command", ["fit-gmm", "train", "val", "qc", "reference"])
def test_commands_accept_a_mask_slightly_aside_and_say_so_once(files, capsys, command):
    assert run(COMMANDS[command].format("near")) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "near.nii.gz" in line]
    assert line.endswith("near.nii.gz: lies up to 0.3 mm (0.05 voxels) beside image.nii.gz, whose geometry counts")


def test_a_label_map_of_trusted_voxels_is_that_of_the_right_header(files):
    for name in ("mask", "wrong"):
        assert run(f"{FIT.replace('out.', f'{name}-labels.')} -m {name}.nii.gz --trust-voxels -q") == 0
    right, trusted = nib.load("mask-labels.nii.gz"), nib.load("wrong-labels.nii.gz")
    np.testing.assert_array_equal(trusted.affine, right.affine)
    np.testing.assert_array_equal(trusted.dataobj, right.dataobj)


def test_networks_for_trusted_voxels_have_the_size_of_the_brain_in_the_image(files, monkeypatch):
    """By the header of the mask the brain would be a sixth as long."""

    def stop(outlines, *others):
        np.testing.assert_array_equal(outlines[0].vox2world, HEAD.vox2world)
        np.testing.assert_array_equal(outlines[0].labels > 100, HEAD.mask)
        raise InputError("seen")

    monkeypatch.setattr(fitting, "check_memory", stop)
    with pytest.raises(InputError, match="seen"):
        run(f"{COMMANDS['train'].format('wrong')} --trust-voxels --debug")


def test_scores_of_trusted_voxels_are_those_of_the_right_header(files):
    """The volume and the surface distance are in mm of the image."""
    for name in ("mask", "wrong"):
        line = f"qc -i image.nii.gz -m {name}.nii.gz --reference mask.nii.gz -o {name}.json --device cpu"
        assert run(f"{line} --trust-voxels -q") == 0
    right, trusted = (json.loads(Path(f"{name}.json").read_text()) for name in ("mask", "wrong"))
    assert trusted | {"mask": None} == right | {"mask": None}
    assert right["volume_ml"] == pytest.approx(HEAD.mask.sum() * 0.216, rel=1e-3)


def test_the_note_of_a_table_advises_too(files, capsys):
    assert run("qc -i image.nii.gz -m wrong.nii.gz -o q.json --device cpu -q") == 1
    note = json.loads(Path("q.json").read_text())["note"]
    assert note.endswith("(--trust-voxels)") and note in capsys.readouterr().err
