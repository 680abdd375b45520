"""Which voxels of a mask file are brain: soft masks, label maps, images of the brain, and what is no mask."""

import numpy as np
import pytest
from scipy.ndimage import affine_transform, gaussian_filter

from singlestrip.errors import InputError
from singlestrip.io.images.masks import brain_voxels
from singlestrip.space.metrics import dice

SHAPE = (32, 28, 24)
INDEX = np.moveaxis(np.indices(SHAPE), 0, -1)


def depth():
    """How deep in a ball of a quarter of the volume voxels lie, negative outside."""
    return 10.6 - np.linalg.norm(INDEX - np.array([15.5, 13.5, 11.5]), axis=-1)


BALL = depth() > 0
SOFT = gaussian_filter(BALL.astype(np.float32), 2)


@pytest.mark.parametrize("value", [1, 2.5, 255, 1e-3, 65535])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_value_is_a_mask_as_it_is(value, dtype):
    brain, said = brain_voxels((BALL * value).astype(dtype))
    np.testing.assert_array_equal(brain, BALL)
    assert brain.dtype == bool and said == ""


@pytest.mark.parametrize("full", [True, False])
def test_masks_without_a_border(full):
    brain, said = brain_voxels(np.full(SHAPE, full, dtype=np.float32))
    assert (brain == full).all() and said == ""


@pytest.mark.parametrize(
    ("scale", "whole"), [(1, False), (100, True), (100, False), (255, True), (0.37, False), (32767, True)]
)
@pytest.mark.parametrize("sigma", [0.7, 1.5, 3])
def test_soft_masks_are_cut_at_half_their_maximum(scale, whole, sigma):
    values = gaussian_filter(BALL.astype(np.float32), sigma) * scale
    values = np.round(values) if whole else values
    brain, said = brain_voxels(values)
    np.testing.assert_array_equal(brain, values >= values.max() / 2)
    if sigma < 3:  # beyond, a half of the maximum is none of the surface
        assert abs(brain.sum() / BALL.sum() - 1) < 0.08 < (values > 0).sum() / BALL.sum() - 1
    count = len(np.unique(values[values > 0]))
    assert said == f"{count} values between 0 and {values.max():g}: taken as a soft mask, " + (
        f"brain from {values.max() / 2:g} on"
    )


def test_whole_percents_that_are_low_but_not_0_in_the_background():
    """A network's probabilities never are 0: the background has the same low value everywhere."""
    values = np.round(100 / (1 + np.exp(-8 * (SOFT - 0.5))))
    assert values.min() == 2 and len(np.unique(values)) > 70
    brain, said = brain_voxels(values.astype(np.float32))
    np.testing.assert_array_equal(brain, values >= values.max() / 2)
    assert said.endswith(f"taken as a soft mask, brain from {values.max() / 2:g} on")


def test_a_mask_resampled_with_overshoot_is_soft():
    """Splines go below 0 and above the level at a border, which is at half the level."""
    values = affine_transform(BALL.astype(np.float32), np.diag([0.93, 1.07, 0.98]), [0.3, 0.4, 0.6], order=3)
    assert values.min() < -0.25 and values.max() > 1.25
    brain, said = brain_voxels(values * 200)
    np.testing.assert_array_equal(brain, values >= 0.5)
    assert said.endswith("taken as a soft mask, brain from 100 on")


def test_zero_that_is_rounded_is_not_brain():
    """Scaling in the header gives 6e-8 where 0 was meant."""
    brain, said = brain_voxels(np.where(BALL, 1, 6e-8).astype(np.float32))
    np.testing.assert_array_equal(brain, BALL)
    assert "2 values" in said


def test_frames_are_one_mask():
    values = np.stack([SOFT, SOFT / 2], -1)
    brain, said = brain_voxels(values)
    np.testing.assert_array_equal(brain, values >= SOFT.max() / 2)
    assert said.count("soft mask") == 1


PATCHES = (INDEX // 4 * [1, 8, 56]).sum(-1) + 1  # 336 regions of 4³ voxels


@pytest.mark.parametrize(
    "labels",
    [
        np.digitize(depth(), [0, 4]),  # 1 and 2
        np.digitize(depth(), [0, 3, 6]),  # three tissues
        np.digitize(depth(), [0, 3, 6]) * 100,
        np.where(BALL, PATCHES, 0),
        np.where(BALL, 1000 * (1 + INDEX[..., 0] // 16) + PATCHES % 36, 0),  # as aparc: lh 1000s, rh 2000s
        np.where(BALL, PATCHES % 255 + 1, 0),
        np.where(depth() > 8, 1000, np.where(BALL, PATCHES % 14 + 1, 0)),  # all but one below a tenth of it
        np.where(BALL, 101, 1 + INDEX[..., 2] // 8),  # no background, and labels outside the brain
    ],
)
def test_label_maps_are_refused(labels):
    count, high = len(np.unique(labels[labels > 0])), labels.max()
    with pytest.raises(
        InputError, match=f"^{count} different whole numbers up to {high}: a label map; make a mask"
    ):
        brain_voxels(labels.astype(np.float32))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("contrast", [[60, 90, 130], [140, 90, 50]])
def test_an_image_of_the_brain_alone(whole, contrast):
    """Some tissues, noise and bright vessels."""
    noise = np.random.default_rng(0).normal(0, 8, SHAPE)
    image = np.interp(depth(), [0, 3, 6], contrast) + noise
    image[14:16, 10:12, 11] = 260
    image = np.where(BALL, np.maximum(image, 1), 0)
    brain, said = brain_voxels((np.round(image) if whole else image).astype(np.float32))
    np.testing.assert_array_equal(brain, BALL)
    assert "taken as an image of the brain alone, brain wherever above 0" in said


def test_an_image_is_no_mask():
    image = 100 * BALL + np.random.default_rng(0).normal(30, 4, SHAPE)
    image[0, 0, 0] = 300
    with pytest.raises(InputError, match=r"from .* on in 100 % of the voxels: an image rather than a mask"):
        brain_voxels(image)


@pytest.mark.parametrize("outside", [0.5, 0.2])
def test_a_mask_without_background_tells_no_border(outside):
    values = np.where(np.random.default_rng(0).random(SHAPE) < 0.7, 1, outside)
    with pytest.raises(InputError, match="in 100 % of the voxels: an image rather than a mask"):
        brain_voxels(values.astype(np.float32))


LARGE_DEPTH = 22 - np.linalg.norm(np.moveaxis(np.indices((60, 60, 60)), 0, -1) - 29.5, axis=-1)
LARGE = LARGE_DEPTH > 0


def softened(sigma):
    return gaussian_filter(LARGE.astype(np.float32), sigma)


def confidence(kind):
    """Factors from 0 to 1: what a network makes of the inside, differing from voxel to voxel."""
    random = np.random.default_rng(0)
    return random.beta(5, 1, LARGE.shape) if kind == "beta" else random.uniform(kind, 1, LARGE.shape)


@pytest.mark.parametrize("scale, whole", [(1, False), (100, True), (255, True)])
@pytest.mark.parametrize("kind", ["beta", 0.7, 0.4])
@pytest.mark.parametrize("sigma", [0.7, 1, 1.5])
def test_soft_masks_of_uneven_values(sigma, kind, scale, whole):
    values = softened(sigma) * confidence(kind) * scale
    brain, said = brain_voxels(np.round(values) if whole else values)
    assert abs(brain.sum() / LARGE.sum() - 1) < 0.1 < (values > 0).sum() / LARGE.sum() - 1
    assert dice(brain, LARGE) > 0.96 and "soft mask" in said


@pytest.mark.parametrize("sigma", [0.5, 1])
@pytest.mark.parametrize("rim", [50, 80, 150])
def test_a_smoothed_image_of_the_brain_keeps_its_rim(sigma, rim):
    random = np.random.default_rng(0)
    folds = gaussian_filter(random.normal(size=LARGE.shape), 2)
    image = np.where(LARGE_DEPTH < 3, rim, 100 + 25 * folds / folds.std()) + random.normal(0, 8, LARGE.shape)
    brain, said = brain_voxels(gaussian_filter(np.where(LARGE, image, 0).astype(np.float32), sigma))
    assert dice(brain, LARGE) > 0.95 and "edge fades out, brain from" in said


@pytest.mark.parametrize("stray", [3, 50, 1e6])
@pytest.mark.parametrize("at", [(30, 30, 30), (0, 0, 0)])
def test_a_stray_voxel_does_not_hide_a_soft_mask(stray, at):
    spline = affine_transform(LARGE.astype(np.float32), np.eye(3), [0.3, 0.4, 0.6], order=3)
    for values in (softened(1), spline):
        expected = values >= 0.5
        values[at], expected[at] = stray, True
        brain, said = brain_voxels(values)
        assert dice(brain, expected) > 0.98 and "a soft mask, brain from" in said


@pytest.mark.parametrize("values", [-depth(), depth(), BALL * -1.0, BALL * 2.0 - 1, np.where(BALL, 40, -1000)])
def test_values_far_below_0_are_refused(values):
    with pytest.raises(
        InputError, match=f"values from {values.min():g} to {max(values.max(), 0):g}; a mask has 0"
    ):
        brain_voxels(values.astype(np.float32).astype(float))


def test_what_is_not_finite_is_background():
    for values in (BALL.astype(np.float32), SOFT.copy()):
        expected = values >= 0.5
        values[15, 13, 9:12] = np.nan, np.inf, -np.inf
        expected[15, 13, 9:12] = False
        brain, said = brain_voxels(values)
        np.testing.assert_array_equal(brain, expected)
        assert said.startswith("3 voxels are not finite and count as background")
