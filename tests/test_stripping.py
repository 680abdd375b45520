"""Image to mask: a bright ball is its own brain, so the truth is known on every grid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from phantoms import PhantomCascade, make_head, threshold_cascade, tiny_cascade
from scipy import ndimage
from scipy.spatial.transform import Rotation

from singlestrip.configuration import StrippingConfig, TargetClass
from singlestrip.errors import InputError, NoBrainError
from singlestrip.networks import torch_engine
from singlestrip.networks.cascade import Cascade
from singlestrip.space import resample
from singlestrip.space.grid import Grid
from singlestrip.space.metrics import dice, volume_ml
from singlestrip.space.morphology import (
    clean,
    fill_holes,
    large_components,
    largest_component,
    largest_components,
    thin_axes,
)
from singlestrip.space.scan import Scan
from singlestrip.stripping import stripper as stripping
from singlestrip.stripping.brain_field import FAR_LOGIT, BrainField
from singlestrip.stripping.brightness import Bright, find_bright
from singlestrip.stripping.stripper import promised_dice

RADIUS = 30.0
TURN = Rotation.from_euler("xyz", (20, -30, 40), degrees=True).as_matrix()
SHEAR = np.array([[1, 0.2, 0], [0, 1, 0.15], [0, 0, 1]])
PERMUTED = np.array([[0, 0, -1], [1, 0, 0], [0, 1, 0]])
GRIDS = {  # matrix, shape, middle of the ball from the middle of the grid in mm
    "0.5 mm": (np.eye(3) * 0.5, (150, 150, 150), (0, 0, 0)),
    "1 mm": (np.eye(3), (90, 80, 85), (4, -3, 2)),
    "2 mm": (np.eye(3) * 2, (50, 48, 52), (0, 5, 3)),
    "3.3 mm": (np.eye(3) * 3.3, (30, 30, 30), (2, 1, 3)),
    "10 mm": (np.eye(3) * 10, (12, 12, 12), (3, 1, -2)),
    "thick slices": (np.diag([1, 1, 8]), (90, 90, 13), (3, 2, 1)),
    "thick sagittal": (TURN @ np.diag([7, 1.5, 1.5]), (14, 60, 60), (3, 2, 1)),
    "oblique": (TURN @ np.diag([1.5, 2, 2.5]), (60, 50, 40), (2, 0, 5)),
    "sheared": (TURN @ SHEAR @ np.diag([2, 2, 3]), (60, 50, 40), (2, 0, 5)),
    "left-handed": (np.diag([-2, 2, 2]), (50, 48, 52), (0, 5, 3)),
    "permuted": (PERMUTED @ np.diag([2, 1.5, 3]), (50, 60, 40), (0, 5, 3)),
    "far off centre": (np.eye(3) * 3, (90, 60, 50), (80, -45, 30)),
    "single slice": (np.diag([1, 1, 10]), (90, 90, 1), (3, 2, 1)),
    "single oblique slice": (TURN @ np.diag([6, 1.5, 1.5]), (1, 60, 60), (3, 2, 1)),
    "two slices": (np.diag([1, 1, 10]), (90, 90, 2), (3, 2, 1)),
    "cut": (np.eye(3) * 2, (50, 50, 50), (0, 0, 42)),
}


def world(shape, vox2world) -> np.ndarray:
    return np.moveaxis(np.indices(shape), 0, -1) @ vox2world[:3, :3].T + vox2world[:3, 3]


def ball(matrix, shape, offset=(0, 0, 0)):
    """Image, vox2world and distance to the surface of a ball with an edge as soft as voxels are thick."""
    vox2world = np.eye(4)
    vox2world[:3, :3] = matrix
    vox2world[:3, 3] = np.array([5, -17, 40]) - matrix @ (np.array(shape) - 1) / 2
    away = np.linalg.norm(world(shape, vox2world) - np.array([5, -17, 40]) - offset, axis=-1) - RADIUS
    width = max(4.0, *np.linalg.norm(matrix, axis=0))
    return np.clip(0.5 - away / width, 0, 1).astype(np.float32), vox2world, away


@pytest.mark.parametrize("name", GRIDS)
def test_ball_is_recovered(phantom_stripper, name):
    image, vox2world, away = ball(*GRIDS[name])
    result = phantom_stripper.strip(image, vox2world)
    assert result.mask.dtype == bool and result.mask.shape == image.shape and result.sdt is None
    assert dice(result.mask, away < 0) > 0.97


@pytest.mark.parametrize("axes", [(1, 2, 0), (2, 1, 0), (0, 2, 1)])
@pytest.mark.parametrize("flip", [(0,), (1, 2)])
def test_order_of_the_array_does_not_matter(phantom_stripper, axes, flip):
    image, vox2world, _ = ball(*GRIDS["oblique"])
    rearrange = np.eye(4)[:, [*axes, 3]]
    for axis in flip:
        rearrange[:, 3] += (image.shape[axes[axis]] - 1) * rearrange[:, axis]
        rearrange[:, axis] *= -1
    mask = phantom_stripper.strip(image, vox2world).mask
    turned = np.flip(image.transpose(axes), flip)
    expected = np.flip(mask.transpose(axes), flip)
    assert dice(phantom_stripper.strip(turned, vox2world @ rearrange).mask, expected) > 0.9999


def test_a_move_in_the_world_does_not_matter(phantom_stripper):
    image, vox2world, _ = ball(*GRIDS["oblique"])
    moved = vox2world.copy()
    moved[:3, 3] += (500, -300, 77)
    masks = [phantom_stripper.strip(image, v).mask for v in (vox2world, moved)]
    assert dice(*masks) > 0.9999


@pytest.mark.parametrize("slope, intercept", [(0.01, 0), (2.5, -1000), (1, 1e4)])
def test_scaling_does_not_matter(phantom_stripper, slope, intercept):
    image, vox2world, _ = ball(*GRIDS["2 mm"])
    stored = (image * 1000).astype(np.int16)
    expected = phantom_stripper.strip(stored, vox2world).mask
    np.testing.assert_array_equal(
        phantom_stripper.strip(stored, vox2world, slope=slope, intercept=intercept).mask, expected
    )
    scaled = stored.astype(np.float64) * slope + intercept
    assert dice(phantom_stripper.strip(scaled, vox2world).mask, expected) > 0.999


@pytest.mark.parametrize("dtype", ["u1", ">i2", "u2", ">f4", "f8", "f2"])
def test_every_type(phantom_stripper, dtype):
    image, vox2world, away = ball(*GRIDS["2 mm"])
    assert dice(phantom_stripper.strip((image * 200).astype(dtype), vox2world).mask, away < 0) > 0.97


@pytest.mark.parametrize("slope, intercept", [(1, 0), (2, -1000), (-2, 1000)])
def test_voxels_that_are_not_finite_are_background(phantom_stripper, slope, intercept):
    image, vox2world, away = ball(*GRIDS["1 mm"])
    image[:25], image[50, 40, 45:] = (
        np.nan,
        np.inf,
    )  # a part of the ball, and a shaft thinner than the conformed grid
    bad = ~np.isfinite(image)
    stored = (image - intercept) / slope
    mask = phantom_stripper.strip(stored, vox2world, slope=slope, intercept=intercept).mask
    assert (bad & (away < 0)).sum() > 1000 and not mask[bad].any()
    assert dice(mask[~bad], (away < 0)[~bad]) > 0.97
    dark = phantom_stripper.strip(np.where(bad, 0, image), vox2world).mask
    assert dice(mask, dark & ~bad) > 0.999


def test_a_window_beside_the_brain_is_laid_anew(phantom_stripper, monkeypatch):
    image, vox2world, away = ball(*GRIDS["2 mm"])
    aside = np.array([5 + 45, -17 + 5, 40 + 3])  # the window ends 48 mm from here, the ball 75 mm
    monkeypatch.setattr(phantom_stripper, "_locate", lambda fine, coarse: aside)
    assert dice(phantom_stripper.strip(image, vox2world).mask, away < 0) > 0.97


def two_balls(distance_mm):
    """A ball of brightness 1 and beside it a larger one of 0.7, in a field of view of 400 mm at 4 mm."""
    vox2world = np.diag([4.0, 4.0, 4.0, 1.0])
    at = world((100, 60, 60), vox2world)
    small = np.linalg.norm(at - [60, 120, 120], axis=-1) < RADIUS
    large = np.linalg.norm(at - [60 + distance_mm, 120, 120], axis=-1) < RADIUS * 1.3
    return (small + 0.7 * large).astype(np.float32), vox2world, small, large


@pytest.mark.parametrize("doublings", [0, 1, 2])
def test_in_a_wide_field_the_part_on_which_both_networks_agree_is_the_brain(phantom_stripper, doublings):
    """The locator takes both balls for brain; of the larger one the segmenter sees its bright core alone."""
    image, vox2world, small, _ = two_balls(240.0)
    core = np.linalg.norm(world(image.shape, vox2world) - [300, 120, 120], axis=-1) < 16
    image[core] = 1
    stripper = phantom_stripper
    stripper.engine.model.segmenter.level.data.fill_(0.85)
    stripper.config = replace(stripper.config, locator_doublings=doublings)
    mask = stripper.strip(image, vox2world).mask
    if doublings:
        assert dice(mask, small) > 0.85
    else:  # in the largest part
        assert dice(mask, core) > 0.8


def test_in_a_field_as_wide_as_the_window_the_locator_looks_once(phantom_stripper, monkeypatch):
    image, vox2world, away = ball(*GRIDS["2 mm"])
    stripper = phantom_stripper
    stripper.config = replace(stripper.config, locator_doublings=2)
    looks = []
    see = type(stripper)._see
    monkeypatch.setattr(
        type(stripper), "_see", lambda self, scan, grid: looks.append(grid) or see(self, scan, grid)
    )
    assert dice(stripper.strip(image, vox2world).mask, away < 0) > 0.97
    assert len(looks) == 1


def test_a_field_too_wide_for_the_locators_voxels_is_seen_at_larger_ones(phantom_stripper, monkeypatch):
    _, vox2world, _, large = two_balls(40.0)
    image = large.astype(np.float32)
    monkeypatch.setattr(stripping, "MAX_LOCATOR_VOXELS", 60_000)  # 100 × 60 × 60 are more
    stripper = phantom_stripper
    with pytest.raises(InputError, match="too large for a model"):
        stripper.strip(image, vox2world)
    stripper.config = replace(stripper.config, locator_doublings=1)
    assert dice(stripper.strip(image, vox2world).mask, large) > 0.9


def test_promised_dice_by_hand():
    logit = np.log(np.array([9.0, 3.0, 1.0, 1 / 3, 1 / 9]))  # probabilities 0.9, 0.75, 0.5, 0.25, 0.1
    mask = np.array([True, True, True, False, False])
    assert promised_dice(logit, mask) == pytest.approx(2 * 2.15 / (2.5 + 3))
    assert promised_dice(np.array([FAR_LOGIT, -FAR_LOGIT]), np.array([False, True])) == pytest.approx(1)
    assert promised_dice(logit, np.zeros(5, dtype=bool)) == 0


def test_the_probability_of_logits_far_from_zero():
    """No overflow, of which NumPy would warn."""
    logit = np.array([-200, 0, 200], dtype=np.float32).reshape(3, 1, 1)
    box = (slice(1, 4), slice(0, 1), slice(0, 1))
    with np.errstate(all="raise", under="ignore"):
        probability = stripping._probability(logit, box, np.zeros((5, 1, 1), dtype=bool))
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability.ravel(), [0, 0, 0.5, 1, 0], atol=1e-30)


@pytest.mark.parametrize("fat", [0.5, 1.5, 100.0])
def test_a_second_look_is_by_the_range_of_the_brain_if_that_was_dim_in_the_first(
    phantom_stripper, monkeypatch, fat
):
    image, vox2world, away = ball(*GRIDS["2 mm"])
    image[away < 0] *= 0.9 + 0.1 * np.random.default_rng(0).random((away < 0).sum())
    image[(away > 8) & (away < 12)] = fat
    seen = []

    class Recorder(torch.nn.Module):
        """Knows where the brain is, and keeps what it was shown."""

        def forward(self, shown):
            seen.append(shown[0, 0].numpy())
            return torch.where(torch.from_numpy(inside), 10.0, -10.0)[None, None]

    centre = (vox2world @ [*(np.array(image.shape) / 2), 1])[:3]
    inside = resample.conform(Scan(away < 0, vox2world), Grid.conformed(centre, (48,) * 3, 2.0)) > 0.5
    monkeypatch.setattr(phantom_stripper, "_locate", lambda fine, coarse: centre)
    phantom_stripper.engine.model.segmenter = Recorder()
    phantom_stripper.strip(image, vox2world)
    if fat < 1:
        assert len(seen) == 1
        return
    # So dark a brain as beside the brightest fat is looked for once more around what is bright.
    assert len(seen) == (4 if fat > 10 else 2)
    first, second = (float(np.quantile(look[inside], 0.995)) for look in seen[-2:])
    assert first < 1 / fat
    assert second == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(seen[-1], (seen[-2] / first).clip(max=1), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "fill, sentence", [(0, "constant"), (np.nan, "no finite voxel"), (np.inf, "no finite voxel"), (-3, "constant")]
)
def test_nothing_to_see(phantom_stripper, fill, sentence):
    with pytest.raises(InputError, match=sentence):
        phantom_stripper.strip(np.full((9, 9, 9), fill, np.float32), np.eye(4))


@pytest.mark.parametrize("name", ["1 mm", "thick slices", "oblique", "left-handed", "far off centre"])
def test_the_window_is_put_at_a_given_centre_and_follows_the_brain(phantom_stripper, monkeypatch, name):
    """The locator is not asked; up to 30 mm aside the second look sees the whole ball."""
    image, vox2world, away = ball(*GRIDS[name])
    expected = phantom_stripper.strip(image, vox2world).mask
    monkeypatch.setattr(stripping.Stripper, "_locate", lambda *arguments: pytest.fail("asked"))
    middle = np.array([5, -17, 40]) + GRIDS[name][2]
    for aside in ((0, 0, 0), (0, -30, 0), (20, 0, 15)):
        found = phantom_stripper.strip(image, vox2world, centre_mm=middle + aside)
        assert dice(found.mask, away < 0) > 0.97 and dice(found.mask, expected) > 0.98
        field = phantom_stripper.field(image, vox2world, centre_mm=tuple(middle + aside))
        seen = field.grid.bounds_mm()
        assert np.abs((seen[0] + seen[1]) / 2 - middle).max() < (8 if any(aside) else 2)


def test_a_given_centre_is_taken_in_the_image_as_it_is(phantom_stripper, monkeypatch):
    """What is small in a wide black field is not magnified."""
    image, vox2world, truth = in_black_field(34, 160)
    sizes = []
    segment = stripping.Stripper._segment

    def spy(self, scan, *rest):
        sizes.append(scan.grid.voxel_sizes_mm[0])
        return segment(self, scan, *rest)

    monkeypatch.setattr(stripping.Stripper, "_segment", spy)
    assert dice(phantom_stripper.strip(image, vox2world, centre_mm=(21, 21, 21)).mask, truth) > 0.97
    assert sizes == [2.0]


@pytest.mark.parametrize("name", ["1 mm", "oblique", "single slice"])
def test_a_centre_outside_the_voxels_is_refused(phantom_stripper, name):
    """On an oblique grid also within its bounds along the axes of the world."""
    image, vox2world, _ = ball(*GRIDS[name])
    shape = np.array(image.shape)
    low, high = Grid(image.shape, vox2world).bounds_mm()
    for index, inside in ((shape - 0.6, True), (shape - 0.4, False), (np.full(3, -0.6), False)):
        centre = vox2world[:3, :3] @ index + vox2world[:3, 3]
        if inside:
            phantom_stripper.field(image, vox2world, centre_mm=centre)
            continue
        with pytest.raises(InputError, match="lies outside the field of view, which has x from ") as error:
            phantom_stripper.field(image, vox2world, centre_mm=centre)
        assert f"z from {low[2]:.4g} to {high[2]:.4g} mm" in str(error.value)


@pytest.mark.parametrize("centre", [(1, 2), (1, 2, np.nan), (1, 2, 3, 4), 5])
def test_a_centre_is_three_numbers(phantom_stripper, centre):
    image, vox2world, _ = ball(*GRIDS["2 mm"])
    with pytest.raises(InputError, match="three finite numbers"):
        phantom_stripper.strip(image, vox2world, centre_mm=centre)


def test_no_brain(phantom_stripper):
    phantom_stripper.engine.model.segmenter.level.data += 1  # so that nothing is bright enough
    image, vox2world, _ = ball(*GRIDS["2 mm"])
    with pytest.raises(NoBrainError, match="no brain found"):
        phantom_stripper.strip(image, vox2world)
    with pytest.raises(InputError, match=r"no brain found around \(5, -17, 40.5 mm\)") as error:
        phantom_stripper.strip(image, vox2world, centre_mm=(5, -17, 40.5))
    assert not isinstance(error.value, NoBrainError)  # which advises to give a centre


def in_black_field(diameter_mm, field_mm, noise=0.0, spacing_mm=2.0):
    """A bright ball at a corner of a wide field: image, vox2world and the ball."""
    shape = (round(field_mm / spacing_mm),) * 3
    vox2world = np.diag([spacing_mm] * 3 + [1.0])
    middle = np.full(3, diameter_mm / 2 + 4)
    away = np.linalg.norm(world(shape, vox2world) - middle, axis=-1) - diameter_mm / 2
    image = np.clip(0.5 - away / 4, 0, 1).astype(np.float32)
    return image + noise * np.abs(np.random.default_rng(0).normal(size=shape)), vox2world, away < 0


class BlankFirst(torch.nn.Module):
    """Finds its brain in the dark as long as the whole field is shown, as networks do that are lost."""

    def __init__(self, largest):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.largest = largest  # share of the window that is bright where the networks are at a loss

    def forward(self, shown):
        bright = shown > 0.5
        return torch.where(bright if bright.float().mean() > self.largest else ~bright, 10.0, -10.0)


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("diameter, field", [(20, 120), (34, 160), (62, 180)])
def test_a_small_brain_in_a_wide_field(phantom_stripper, diameter, field, noise):
    image, vox2world, truth = in_black_field(diameter, field, noise)
    assert dice(phantom_stripper.strip(image, vox2world).mask, truth) > 0.97


def test_what_is_small_is_magnified_and_what_fills_its_field_is_not(phantom_stripper, monkeypatch):
    seen = []
    segment = stripping.Stripper._segment

    def spy(self, scan, *rest):
        seen.append(scan.grid.voxel_sizes_mm[0] * scan.shape[0])
        return segment(self, scan, *rest)

    monkeypatch.setattr(stripping.Stripper, "_segment", spy)
    image, vox2world, _ = in_black_field(34, 160)
    phantom_stripper.strip(image, vox2world)
    assert len(seen) == 1
    assert 0.9 * 96 < seen[0] < 1.4 * 96  # the window is 96 mm
    part = tuple(slice(0, 22) for _ in range(3))
    phantom_stripper.strip(image[part], vox2world)
    assert seen[1:] == [44.0]


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_networks_that_find_their_brain_in_black_space_look_again_at_what_is_bright(phantom_stripper, noise):
    image, vox2world, truth = in_black_field(70, 180, noise)
    phantom_stripper.engine.model.locator = phantom_stripper.engine.model.segmenter = BlankFirst(0.05)
    assert dice(phantom_stripper.strip(image, vox2world).mask, truth) > 0.97


def test_a_mask_of_black_space_is_no_brain(phantom_stripper):
    image, vox2world, _ = in_black_field(70, 200)
    phantom_stripper.engine.model.locator = phantom_stripper.engine.model.segmenter = BlankFirst(1.0)
    with pytest.raises(InputError, match="no brain found"):
        phantom_stripper.strip(image, vox2world)


def test_a_mask_whose_voxels_are_mostly_black_is_no_brain(phantom_stripper):
    """Bright dots that blocks of voxels smear out: what the networks see of them is not in the image."""
    image = np.zeros((80, 80, 80), dtype=np.int16)
    image[6:74:2, 6:74:2, 6:74:2] = 100
    with pytest.raises(InputError, match="no brain found"):
        phantom_stripper.strip(image, np.eye(4))


def test_a_brain_that_fills_its_image_has_no_surface(phantom_stripper):
    rng = np.random.default_rng(0)
    image, vox2world = rng.uniform(0.9, 1, (12, 12, 12)), np.diag([2.0, 2, 2, 1])
    phantom_stripper.engine.model.locator.level.data -= 1
    phantom_stripper.engine.model.segmenter.level.data -= 1
    assert phantom_stripper.strip(image, vox2world).mask.all()
    with pytest.raises(InputError, match="fills the image"):
        phantom_stripper.strip(image, vox2world, sdt=True)


def brightest_part(stripper, image, vox2world) -> Bright:
    return find_bright(stripper._coarsened(Scan(image, vox2world), np.float32)[1])


@pytest.mark.parametrize("count", [30, 100, 600])
@pytest.mark.parametrize("value", [30, 1e6])
def test_hot_voxels_are_not_what_is_bright(phantom_stripper, count, value):
    image, vox2world, away = ball(*GRIDS["1 mm"])
    air = np.flatnonzero(away.ravel() > 6)
    image.ravel()[np.random.default_rng(0).choice(air, count, replace=False)] = value
    found = brightest_part(phantom_stripper, image, vox2world)
    assert found.darkest == 0 and 0.5 < found.brightest < 5
    np.testing.assert_allclose((found.low_mm + found.high_mm) / 2, np.array([5 + 4, -17 - 3, 40 + 2]), atol=8)
    assert 48 < found.length_mm < 80 and found.share > 0.7


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.2])
def test_what_is_bright_stands_out_of_noise(noise):
    image, vox2world, truth = in_black_field(60, 240, noise)
    found = find_bright(resample.coarsened(Scan(image, vox2world), 4.0))
    where = np.argwhere(truth) * 2.0
    np.testing.assert_allclose([found.low_mm, found.high_mm], [where.min(0), where.max(0)], atol=10)


def test_a_mask_beside_all_that_is_bright_is_looked_at_again(phantom_stripper):
    image, vox2world, truth = in_black_field(70, 180, noise=0.2)
    aside, margin = Grid.conformed(np.full(3, 140.0), (5,) * 3, 2.0), StrippingConfig().brightness.margin
    bright = brightest_part(phantom_stripper, image, vox2world)
    assert bright.share_of(truth, Grid(truth.shape, vox2world), margin) == 1
    assert bright.share_of(np.ones((5, 5, 5), dtype=bool), aside, margin) == 0
    phantom_stripper.engine.model.locator = phantom_stripper.engine.model.segmenter = BlankFirst(0.1)
    assert dice(phantom_stripper.strip(image, vox2world).mask, truth) > 0.95


def test_a_small_part_of_what_is_bright_is_not_magnified(phantom_stripper):
    image, vox2world, _ = in_black_field(30, 240)
    other = image[::-1, ::-1, ::-1]
    grid = Grid(image.shape, vox2world)
    two, one = (brightest_part(phantom_stripper, field, vox2world) for field in (np.maximum(image, other), image))
    assert not phantom_stripper._is_small(two, grid)
    assert phantom_stripper._is_small(one, grid)


@pytest.mark.parametrize("value", [-1e6, 1e6, 1e300, -1e300])
def test_a_damaged_voxel_changes_nothing_elsewhere(phantom_stripper, value):
    image, vox2world, _ = ball(*GRIDS["1 mm"])
    expected = phantom_stripper.strip(image, vox2world).mask
    damaged = image.astype(np.float64)
    damaged[5, 6, 7] = value
    assert np.count_nonzero(phantom_stripper.strip(damaged, vox2world).mask != expected) < 30


@pytest.mark.parametrize("padding", [-2000, -3024, -32768])
def test_padding_changes_nothing(phantom_stripper, padding):
    image, vox2world, away = ball(*GRIDS["1 mm"])
    rng = np.random.default_rng(0)
    ct = np.round(image * 1500 - 1000 + rng.normal(0, 10, image.shape)).astype(np.int16)
    expected = phantom_stripper.strip(ct, vox2world).mask
    ct[away > 35] = padding
    assert dice(phantom_stripper.strip(ct, vox2world).mask, expected) > 0.99


@pytest.mark.parametrize("slope, intercept", [(1e38, 0), (1e-45, 0), (1e-20, 0), (1, 1e9), (1e300, 0)])
def test_extreme_scaling_does_not_matter(phantom_stripper, slope, intercept):
    image, vox2world, _ = ball(*GRIDS["2 mm"])
    stored = (image * 1000).astype(np.int16)
    mask = phantom_stripper.strip(stored, vox2world, slope=slope, intercept=intercept).mask
    assert dice(mask, phantom_stripper.strip(stored, vox2world).mask) > 0.999


@pytest.mark.parametrize("spacing", [0.05, 0.3])
def test_a_view_smaller_than_a_voxel_of_the_networks_holds_no_brain_or_some(phantom_stripper, spacing):
    """A turned grid may lie between the centres of the networks' voxels: one sentence, whatever is found."""
    image = np.random.default_rng(0).random((6, 6, 6))
    for turn in Rotation.random(10, np.random.default_rng(1)).as_matrix():
        vox2world = np.eye(4)
        vox2world[:3, :3] = turn * spacing
        try:
            assert phantom_stripper.strip(image, vox2world).mask.shape == image.shape
        except InputError as error:
            assert "no brain found" in str(error)


def test_networks_that_say_nothing_finite_find_no_brain(phantom_stripper):
    image, vox2world, _ = ball(*GRIDS["2 mm"])
    for network in (phantom_stripper.engine.model.locator, phantom_stripper.engine.model.segmenter):
        network.level.data += np.nan
    with pytest.raises(InputError, match="no brain found"):
        phantom_stripper.strip(image, vox2world)


@pytest.mark.parametrize(
    "image, vox2world",
    [(np.ones((4, 4)), np.eye(4)), (np.ones((4, 4, 4, 1)), np.eye(4)), (np.ones((4, 4, 4)), np.eye(3))],
)
def test_wrong_shapes(phantom_stripper, image, vox2world):
    with pytest.raises(InputError, match="need an image"):
        phantom_stripper.strip(image, vox2world)


def test_field_of_view_too_large(phantom_stripper, monkeypatch):
    monkeypatch.setattr(stripping, "MAX_LOCATOR_VOXELS", 40**3)
    image, vox2world, _ = ball(np.eye(3) * 4, (40, 40, 60))
    with pytest.raises(InputError, match=r"160 × 160 × 240 mm, is too large .* 2 mm voxels; crop"):
        phantom_stripper.strip(image, vox2world)


@pytest.mark.parametrize("border", [-8, -2, 1, 3, 8])
@pytest.mark.parametrize("name", ["2 mm", "oblique"])
def test_border_moves_the_surface(phantom_stripper, border, name):
    image, vox2world, away = ball(*GRIDS[name])
    mask = phantom_stripper.strip(image, vox2world, border_mm=border).mask
    assert dice(mask, away < border) > 0.97
    radius = (volume_ml(mask, vox2world) * 1000 * 3 / 4 / np.pi) ** (1 / 3)
    assert radius == pytest.approx(RADIUS + border, abs=0.4)


def test_border_that_leaves_nothing(phantom_stripper):
    image, vox2world, _ = ball(*GRIDS["2 mm"])
    with pytest.raises(InputError, match="border of -40 mm leaves no brain"):
        phantom_stripper.strip(image, vox2world, border_mm=-40)


@pytest.mark.parametrize("name", ["1 mm", "2 mm", "oblique", "sheared"])
def test_sdt(phantom_stripper, name):
    image, vox2world, away = ball(*GRIDS[name])
    result = phantom_stripper.strip(image, vox2world, sdt=True)
    assert result.sdt.dtype == np.float32
    error = np.abs(result.sdt - away)
    near = np.abs(away) < 5
    assert error[near].mean() < 0.25 and error[near].max() < 1
    assert error.max() < 2
    np.testing.assert_array_equal(result.sdt < 0, result.mask)
    with_border = phantom_stripper.strip(image, vox2world, border_mm=4, sdt=True)
    np.testing.assert_array_equal(with_border.sdt, result.sdt)  # before the border moved the surface
    np.testing.assert_array_equal(with_border.mask, result.sdt < 4)


def on_grid(field, shape, vox2world):
    box, logit = field.around_brain(Grid(shape, vox2world))
    out = np.full(shape, -np.inf)
    out[box] = logit
    return out


def test_field_on_another_grid():
    field = BrainField(torch.full((4, 4, 4), 3.0), np.diag([2.0, 2, 2, 1]))  # reaches from -1 to 7 mm
    grid = np.eye(4)
    grid[:3, 3] = -3
    out = on_grid(field, (12, 12, 12), grid)
    inside = np.zeros((12, 12, 12), dtype=bool)
    inside[2:11, 2:11, 2:11] = True
    np.testing.assert_allclose(out[inside], 3, atol=1e-5)
    assert set(np.unique(out[~inside])) <= {FAR_LOGIT, -np.inf}
    for away in (100, -100):
        grid[:3, 3] = away
        box, logit = field.around_brain(Grid((3, 4, 5), grid))
        assert logit.size == 0
        assert np.empty((3, 4, 5))[box].shape == logit.shape
    turned = np.eye(4)
    turned[:3, :3], turned[:3, 3] = TURN, (-1.03, 0.02, -0.51)
    whole = on_grid(field, (9, 9, 9), turned) > 0
    points = world((9, 9, 9), turned)
    np.testing.assert_array_equal(whole, ((points > -1) & (points < 7)).all(-1))


@pytest.mark.parametrize("seed", range(4))
def test_a_field_around_the_brain_is_the_plain_interpolation(seed):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(24, 24, 24)), 1.0)
    logit = np.full((24, 24, 24), -3.0) + 0.01 * rng.normal(size=(24, 24, 24))
    logit[6:15, 8:14, 9:20] = 20 * noise[6:15, 8:14, 9:20]
    field = BrainField(logit.astype(np.float32), np.diag([2.0, 2, 2, 1]))
    vox2world = np.eye(4)
    vox2world[:3, :3] = (TURN if seed % 2 else np.eye(3)) * rng.uniform(0.6, 5, 3)
    vox2world[:3, 3] = rng.uniform(-4, 4, 3)
    shape = (40, 30, 35)
    found = on_grid(field, shape, vox2world)
    to_field = np.linalg.inv(field.vox2world) @ vox2world
    plain = resample.sample(field.logit, to_field, shape, FAR_LOGIT)
    positive = plain > 0
    assert positive.any()
    np.testing.assert_array_equal(found > 0, positive)
    near = ndimage.binary_dilation(positive, np.ones((3, 3, 3)), iterations=2)
    np.testing.assert_allclose(found[near], plain[near], atol=1e-3)
    assert (np.isinf(found) & (plain != FAR_LOGIT)).any()  # not the whole window


def test_a_field_without_brain_has_no_part():
    field = BrainField(np.full((8, 8, 8), -0.1, dtype=np.float32), np.diag([2.0, 2, 2, 1]))
    box, logit = field.around_brain(Grid((9, 9, 9), np.eye(4)))
    assert logit.shape == (0, 0, 0)
    assert np.zeros((9, 9, 9))[box].shape == (0, 0, 0)


def picture(*rows):
    """[X, Y, 1] from rows of text, # for True."""
    return np.array([[c == "#" for c in row] for row in rows])[..., None]


def test_largest_component():
    mask = picture("##..#", "##...", "..###", "#....")  # touching corners do not join
    np.testing.assert_array_equal(largest_component(mask), picture("##...", "##...", ".....", "....."))
    assert not largest_component(np.zeros((3, 3, 3), bool)).any()


@pytest.mark.parametrize("slices", [1, 2, 3, 7])
def test_holes_in_slices(slices):
    """A hole through all of few slices is filled; through many it is open at both ends."""
    ring = np.repeat(picture("......", ".####.", ".#..#.", ".####.", "......"), slices, axis=2)
    filled = np.repeat(picture("......", ".####.", ".####.", ".####.", "......"), slices, axis=2)
    np.testing.assert_array_equal(fill_holes(ring, thin_axes(ring.shape)), filled if slices <= 3 else ring)
    np.testing.assert_array_equal(clean(ring), filled if slices <= 3 else ring)


def test_cavities():
    shell = np.zeros((9, 9, 9), dtype=bool)
    shell[1:8, 1:8, 1:8] = True
    full = shell.copy()
    shell[3:6, 3:6, 3:6] = False
    np.testing.assert_array_equal(fill_holes(shell, thin_axes(shell.shape)), full)
    shell[4, 4, :4] = False  # a channel to the outside
    np.testing.assert_array_equal(fill_holes(shell, thin_axes(shell.shape)), shell)
    cut = full[:, :, 4:].copy()  # a cavity that the border of the image opens
    cut[3:6, 3:6, :2] = False
    np.testing.assert_array_equal(fill_holes(cut, thin_axes(cut.shape)), cut)


@pytest.mark.parametrize("axis", range(3))
def test_a_thin_mask_in_a_thick_image_is_no_thin_image(axis):
    """A ring of three slices stays open; a shell of 3 × 3 × 3 voxels is filled."""
    mask = np.zeros((12, 12, 12), dtype=bool)
    mask[2:8, 2:8, 5:8] = True
    mask[4:6, 4:6, 5:8] = False
    ring = np.moveaxis(mask, 2, axis)
    np.testing.assert_array_equal(clean(ring), ring)
    part = ring[ring.any((1, 2))][:, ring.any((0, 2))][:, :, ring.any((0, 1))]
    np.testing.assert_array_equal(fill_holes(part, [False] * 3), part)
    assert fill_holes(part, [k == axis for k in range(3)]).all()
    full = np.zeros_like(mask)
    full[4:7, 4:7, 4:7] = True
    shell = full.copy()
    shell[5, 5, 5] = False
    np.testing.assert_array_equal(clean(shell), full)


def test_thin_axes():
    assert thin_axes((3, 4, 1)) == [True, False, True]


def test_clean():
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[2:10, 2:10, 2:10] = True
    expected = mask.copy()
    mask[5, 5, 5] = False
    mask[15:18, 15:18, 15:18] = True
    np.testing.assert_array_equal(clean(mask), expected)
    assert not clean(np.zeros_like(mask)).any()


@pytest.mark.parametrize("thickness", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("slices", [1, 2])
def test_slabs_thinner_than_a_network_voxel(phantom_stripper, thickness, slices):
    vox2world = np.diag([1.5, 1.5, thickness, 1.0])
    index = np.stack(np.indices((60, 60, slices)), -1)
    disc = np.linalg.norm((index[..., :2] - 29.5) * 1.5, axis=-1) < 25
    mask = phantom_stripper.strip(disc * 100.0, vox2world).mask
    assert dice(mask, disc) > 0.93


def test_a_border_brings_back_no_voxel_that_is_not_finite(phantom_stripper):
    vox2world = np.diag([2.0, 2.0, 2.0, 1.0])
    distance = np.linalg.norm((np.indices((40, 40, 40)) - 19.5) * 2.0, axis=0) - 25
    image = np.clip(50 - 12 * distance, 0, 100)
    image[30:] = np.nan
    for border in (0.0, 6.0):
        mask = phantom_stripper.strip(image, vox2world, border_mm=border).mask
        assert mask[29].any()
        assert not mask[30:].any()


@pytest.mark.parametrize("vox2world", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.eye(3)])
def test_unusable_geometry(phantom_stripper, vox2world):
    with pytest.raises(InputError):
        phantom_stripper.strip(np.random.default_rng(0).random((8, 8, 8)), vox2world)


def test_an_array_needs_to_know_where_it_lies(phantom_stripper):
    image, *_ = ball(*GRIDS["2 mm"])
    for call in (phantom_stripper.strip, phantom_stripper.field):
        with pytest.raises(InputError, match="an array needs its vox2world"):
            call(image)


@pytest.mark.parametrize("name", ["2 mm", "oblique"])
def test_a_scan_is_stripped_as_its_array(phantom_stripper, name):
    """Its scaling counts too: a negative slope turns what is bright in the array to dark."""
    image, vox2world, away = ball(*GRIDS[name])
    stored = (-1000 * image).astype(np.int16)
    scan = Scan(stored, vox2world, slope=-0.5, intercept=-100.0)
    by_scan = phantom_stripper.strip(scan, border_mm=1, sdt=True)
    by_array = phantom_stripper.strip(stored, vox2world, 1, True, -0.5, -100.0)
    np.testing.assert_array_equal(by_scan.mask, by_array.mask)
    np.testing.assert_array_equal(by_scan.sdt, by_array.sdt)
    assert dice(by_scan.mask, away < 1) > 0.97
    fields = [phantom_stripper.field(scan), phantom_stripper.field(stored, vox2world, -0.5, -100.0)]
    np.testing.assert_array_equal(*(field.logit for field in fields))
    np.testing.assert_array_equal(*(field.vox2world for field in fields))


@pytest.mark.parametrize(
    "scan",
    [
        Scan(np.ones((4, 4)), np.eye(4)),
        Scan(np.ones((4, 4, 4)), np.eye(3)),
        Scan(np.ones((4, 4, 4), np.complex64), np.eye(4)),
        Scan(np.random.default_rng(0).random((8, 8, 8)), np.zeros((4, 4))),
    ],
)
def test_unusable_scans(phantom_stripper, scan):
    for call in (phantom_stripper.strip, phantom_stripper.field):
        with pytest.raises(InputError):
            call(scan)


def test_complex_numbers_are_refused(phantom_stripper):
    with pytest.raises(InputError, match="complex64 are not real"):
        phantom_stripper.strip(np.ones((8, 8, 8), np.complex64), np.eye(4))


@pytest.mark.parametrize("fast", [True, False])
def test_the_segmenter_runs_in_bfloat16_where_that_is_fast(monkeypatch, fast):
    """What it says comes in 32 bits all the same, and the same but for rounding to eight of them."""
    head, cascade, seen = make_head(), threshold_cascade(), set()
    for name in ("locator", "segmenter"):
        convolution = getattr(cascade, name).encoder[0][0].conv
        convolution.register_forward_hook(lambda _, __, out, name=name: seen.add((name, out.dtype)))
    monkeypatch.setattr(torch_engine, "fast_in_bfloat16", lambda device: fast)
    stripper = stripping.Stripper(cascade, views=())
    field = stripper.field(head.image, head.vox2world)
    assert seen == {("locator", torch.float32), ("segmenter", torch.bfloat16 if fast else torch.float32)}
    assert field.logit.dtype == np.float32
    said = stripping.Stripper(PhantomCascade(), views=()).field(head.image, head.vox2world)
    np.testing.assert_allclose(field.logit, said.logit, rtol=0, atol=10 * 2**-7 if fast else 1e-5)
    assert dice(stripper.strip(head.image, head.vox2world).mask, head.mask) > 0.95


def test_largest_components_come_by_size():
    mask = np.zeros((9, 3, 3), dtype=bool)
    mask[0, :2], mask[2], mask[4, 0, 0] = True, True, True  # of 6, 9 and 1 voxels
    parts = largest_components(mask, 2)
    assert [int(part.sum()) for part in parts] == [9, 6]
    np.testing.assert_array_equal(parts[0], largest_component(mask))
    assert len(largest_components(mask, 5)) == 3 and largest_components(np.zeros((3, 3, 3), dtype=bool), 2) == []


def test_large_components_are_of_a_share_of_the_largest():
    mask = np.zeros((9, 3, 3), dtype=bool)
    mask[0, :2], mask[2], mask[4, 0, 0] = True, True, True  # of 6, 9 and 1 voxels
    assert [int(large_components(mask, share).sum()) for share in (0.1, 6 / 9, 0.7, 1)] == [16, 15, 9, 9]
    assert not large_components(np.zeros((3, 3, 3), dtype=bool), 0.1).any()


def test_organs_are_sought_in_all_large_pieces_and_a_brain_in_one():
    """Classes without a brain among them are organs."""
    mask = np.zeros((20, 3, 3), dtype=bool)
    mask[0:5], mask[8:11], mask[15, 1, 1] = True, True, True  # of 45, 27 and 1 voxels
    for is_brain, voxels in ((True, 45), (False, 72)):
        classes = (TargetClass(1, "first", brain=is_brain), TargetClass(2, "second"))
        config = replace(tiny_cascade(), classes=classes)
        stripper = stripping.Stripper(Cascade(config), keeps_classes=True)
        assert stripper._sought(mask).sum() == voxels
