"""Banks of shapes: the registration of masks, and the deformations that synthesis draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from phantoms import make_head, tiny_cascade
from test_synth import jacobian

from singlestrip.configuration import ShapeBankConfig, ShapeConfig, SynthConfig, TrainConfig, Window
from singlestrip.errors import InputError
from singlestrip.self_training.shapes import make_shape_bank, register_shape
from singlestrip.space.scan import Scan
from singlestrip.synthesis.fields import random_field
from singlestrip.synthesis.image import sample_parameters
from singlestrip.synthesis.shape import window_coordinates
from singlestrip.synthesis.shape_bank import Deformation, ShapeBank
from singlestrip.synthesis.streams import RandomStreams
from singlestrip.training.maps import conform_map, fingerprint, image_sources

SPACING_MM = 5.0
HEAD = make_head(44, SPACING_MM)
LABELLED = Scan(HEAD.mask, HEAD.vox2world)
EXTENT_MM = 192.0
STILL = SynthConfig(
    shape=ShapeConfig(
        rotation_deg=0,
        turn_probability=0,
        scaling=(1, 1),
        anisotropy=0,
        shear=0,
        warp_mm=(0, 0, 0),
        flip_probability=0,
    )
)
WINDOW = Window((48, 48, 48), 4.0, 0.0)


def random_deformation(seed: int, most_mm: float = 6.0) -> Deformation:
    """A smooth deformation, of so many mm of standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    return Deformation(most_mm * random_field((EXTENT_MM,) * 3, 64.0, generator, channels=3), EXTENT_MM)


def deformed_mask(deformation: Deformation) -> Scan:
    """The phantom's mask as a deformation draws it."""
    voxels = np.argwhere(np.ones(HEAD.mask.shape))
    at = torch.from_numpy((voxels @ HEAD.vox2world[:3, :3].T + HEAD.vox2world[:3, 3]).astype(np.float32)).T[None]
    source = deformation.move(at)[0].T.numpy()
    index = np.rint((source - HEAD.vox2world[:3, 3]) / SPACING_MM).astype(int).clip(0, HEAD.mask.shape[0] - 1)
    return Scan(HEAD.mask[tuple(index.T)].reshape(HEAD.mask.shape), HEAD.vox2world)


def random_bank() -> ShapeBank:
    """A bank of five people."""
    return ShapeBank.of(torch.cat([random_deformation(seed).velocity for seed in range(5)]), EXTENT_MM)


@pytest.mark.parametrize("seed", range(2))
def test_registration_recovers_a_smooth_deformation(seed):
    other = deformed_mask(random_deformation(seed))
    before = 2 * (other.array & HEAD.mask).sum() / (other.array.sum() + HEAD.mask.sum())
    registered = register_shape(LABELLED, other)
    assert before < 0.95
    assert registered.dice >= 0.97


def test_registration_finds_the_size():
    """A brain 1.15 times as large: its surface is taken to that of the labelled one."""
    larger = replace(LABELLED, vox2world=np.diag([1.15, 1.15, 1.15, 1.0]) @ LABELLED.vox2world)
    registered = register_shape(LABELLED, larger)
    surface = torch.tensor(np.vstack([np.eye(3), -np.eye(3)]).T * 60, dtype=torch.float32)[None]
    moved = registered.deformation.move(surface)
    torch.testing.assert_close(moved, surface / 1.15, atol=3.0, rtol=0)


def test_a_pose_is_no_part_of_a_shape():
    turned = replace(LABELLED, vox2world=turned_by(0.15) @ LABELLED.vox2world)
    shape = register_shape(LABELLED, turned).deformation.velocity
    assert shape.abs().mean() < 1.5  # a quarter of a voxel; the turn moves the surface by 10 mm


def turned_by(radians: float) -> np.ndarray:
    """A turn about z and a shift, 4×4."""
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]]
    turn[:3, 3] = [30, -20, 10]
    return turn


def test_empty_masks_have_no_shape():
    with pytest.raises(InputError, match="empty"):
        register_shape(LABELLED, Scan(np.zeros((4, 4, 4), dtype=bool), np.eye(4)))
    with pytest.raises(InputError, match="at least one"):
        make_shape_bank(LABELLED, [])


def test_a_bank_holds_the_mean_and_the_variance_of_its_people():
    velocities = torch.cat([random_deformation(seed).velocity for seed in range(5)])
    bank = ShapeBank.of(velocities, EXTENT_MM, ShapeBankConfig(variance=1.0))
    torch.testing.assert_close(bank.mean[0], velocities.sum(0) / 6)  # the labelled brain is one of them
    people = torch.cat([torch.zeros_like(velocities[:1]), velocities])
    torch.testing.assert_close(bank.components.square().sum(0), people.var(0), rtol=1e-3, atol=1e-3)


def test_a_bank_of_the_labelled_shape_alone_changes_nothing():
    bank = ShapeBank.of(torch.zeros(2, 3, 9, 9, 9), EXTENT_MM)
    assert len(bank.components) == 0
    points = torch.rand(1, 3, 50) * 100 - 50
    torch.testing.assert_close(bank.draw(torch.Generator()).move(points), points)


def test_the_same_seed_draws_the_same_shape():
    bank = random_bank()
    first, again, other = (bank.draw(RandomStreams((seed,))("person")).velocity for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("seed", range(5))
def test_drawn_shapes_do_not_fold(seed):
    parameters = sample_parameters(STILL, WINDOW, 1.0, RandomStreams((seed,)), bank=random_bank())
    at_mm = window_coordinates(WINDOW, [parameters.shape], "cpu")[0].permute(3, 0, 1, 2).numpy()
    moved = at_mm - (np.indices(WINDOW.shape) * 4.0 - 94.0)
    assert np.abs(moved).max() > 2
    assert jacobian(at_mm, 4.0).min() > 0


def test_a_bank_deforms_the_anatomy_in_the_grid_as_in_mm():
    source = conform_map(HEAD.native, 4.0, torch.device("cpu"))
    parameters = sample_parameters(STILL, WINDOW, 1.0, RandomStreams((1,)), bank=random_bank())
    to_grid = source.grid_from_mm()
    at_mm = window_coordinates(WINDOW, [parameters.shape], "cpu")[0]
    expected = (at_mm @ to_grid[:3, :3].T + to_grid[:3, 3]).flip(-1)
    in_grid = window_coordinates(WINDOW, [parameters.shape], "cpu", to_grid[None])[0]
    torch.testing.assert_close(in_grid, expected, atol=1e-5, rtol=1e-5)


def test_a_bank_moves_no_other_stream():
    of = RandomStreams((1,))
    with_bank, without = (sample_parameters(STILL, WINDOW, 1.0, of, bank=bank) for bank in (random_bank(), None))
    assert with_bank.shape.person is not None
    assert torch.equal(with_bank.shape.affine, without.shape.affine)
    assert torch.equal(with_bank.bias.log_gain, without.bias.log_gain)


def test_training_draws_the_shapes_of_a_map_and_knows_them_apart():
    plain, banked = HEAD.native, replace(HEAD.native, bank=random_bank())
    assert fingerprint([plain]) != fingerprint([banked])

    def brains(native):
        sources = image_sources([native], tiny_cascade(12.0), TrainConfig(synth=STILL), torch.device("cpu"))
        return sources["segmenter"].draw([0], 0)[1]

    assert torch.equal(brains(banked), brains(banked))
    assert not torch.equal(brains(banked), brains(plain))
