"""Labels of an image's voxels follow the interpolated probabilities of the window."""

import numpy as np
import pytest
from scipy import ndimage

from singlestrip.configuration import EvidenceConfig
from singlestrip.networks.evidence import Evidence
from singlestrip.space.grid import Grid
from singlestrip.space.resample import sample
from singlestrip.stripping import class_labels
from singlestrip.stripping.class_field import ClassField, Told
from singlestrip.stripping.class_labels import label_grid

RNG = np.random.default_rng(0)


def field_of(probability):
    """A field of probabilities [C, X, Y, Z]."""
    probability = np.asarray(probability, dtype=np.float32)
    return ClassField(probability, probability.argmax(0).astype(np.uint8)[None])


def line(*channels):
    """A field along the first axis: the background is what is left."""
    classes = np.array(channels)[:, :, None, None]
    return field_of(np.concatenate([1 - classes.sum(0, keepdims=True), classes]))


def grid(shape, voxel_mm=1.0, start_mm=(0, 0, 0)):
    vox2world = np.diag([voxel_mm] * 3 + [1.0])
    vox2world[:3, 3] = start_mm
    return Grid(shape, vox2world)


def test_labels_by_hand():
    """Between a voxel of one class and one of another, a third that is second in both wins."""
    classes = line([0.55, 0.0], [0.0, 0.55], [0.45, 0.45])
    labels = label_grid(classes, grid((2, 1, 1), 4.0), grid((5, 1, 1)))
    assert classes.views.ravel().tolist() == [1, 2]
    assert labels.channels.ravel().tolist() == [1, 3, 3, 3, 2]


def test_soft_volumes_by_hand():
    classes = line([1.0, 0.0], [0.0, 0.4])
    labels = label_grid(classes, grid((2, 1, 1), 4.0), grid((5, 1, 1)))
    wanted = [1 + 0.75 + 0.5 + 0.25, 0.1 + 0.2 + 0.3 + 0.4]
    np.testing.assert_allclose(labels.voxels()[1:], wanted, atol=5 * 0.5 / 255)
    steps = [255 + 191 + 128 + 64, 26 + 51 + 76 + 102]  # 0.5 · 255 is rounded to even, 0.3 · 255 = 76.5 too
    assert labels.steps[1:].tolist() == steps


def dense(classes, window, target, finite=None):
    """Probabilities [C, X, Y, Z] on a grid, class by class."""
    values = np.stack(
        [sample(each, window.index_of(target), target.shape, np.nan) for each in classes.probability]
    )
    values[:, np.isnan(values).any(0)] = 0
    if finite is not None:
        values[:, ~finite] = 0
    return values


@pytest.mark.parametrize("oblique", [False, True])
def test_blocks_are_like_the_whole(oblique, monkeypatch):
    """A grid of many blocks that reaches beyond the window, where most classes are probable in few blocks."""
    monkeypatch.setattr(class_labels, "BLOCK", 8)
    window = grid((20, 18, 16), 2.0)
    noise = np.stack([ndimage.gaussian_filter(RNG.standard_normal(window.shape), 2) for _ in range(6)])
    logits = 400 * noise
    logits[0] += 3
    classes = field_of(np.exp(logits - logits.max(0)) / np.exp(logits - logits.max(0)).sum(0))
    vox2world = np.diag([0.9, -0.9, 1.0, 1.0])
    if oblique:
        vox2world[:2] = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]) @ vox2world[:2]
    vox2world[:2, 3] = -4, 34
    target = Grid((50, 40, 37), vox2world)
    finite = RNG.random(target.shape) > 0.1
    labels = label_grid(classes, window, target, finite=finite, keep_posteriors=True)
    values = dense(classes, window, target, finite)
    wanted = values.argmax(0)
    clear = np.sort(values, axis=0)[-1] - np.sort(values, axis=0)[-2] > 1e-4  # rounding decides the others
    nothing = values.sum(0) == 0
    np.testing.assert_array_equal(labels.channels[clear], wanted[clear])
    assert (labels.channels[nothing] == 0).all() and len(np.unique(labels.channels)) == 6
    for channel in range(1, 6):
        posterior = labels.posterior(channel)
        assert np.abs(posterior - 255 * values[channel]).max() < 0.51
        assert posterior.sum(dtype=int) == labels.steps[channel]
        np.testing.assert_allclose(labels.voxels()[channel], values[channel].sum(), rtol=0.01)
    assert len(labels.parts) > 50 and np.mean([len(active) for _, active, _ in labels.parts]) < 5.5


def test_without_posteriors_none_are_held():
    classes = line([1.0, 0.0])
    labels = label_grid(classes, grid((2, 1, 1)), grid((2, 1, 1)))
    assert not labels.parts and not labels.posterior(1).any()


def test_a_grid_beside_the_window_is_background():
    labels = label_grid(line([1.0, 1.0]), grid((2, 1, 1)), grid((4, 4, 4), start_mm=(50, 0, 0)))
    assert not labels.channels.any() and not labels.steps.any()


def blobs(*boxes, shape=(12, 8, 8)):
    """A field of one class with boxes of probability 0.8; another has 0.15 everywhere."""
    first = np.zeros(shape)
    for box in boxes:
        first[box] = 0.8
    second = np.full(shape, 0.15)
    return field_of(np.stack([1 - first - second, first, second]))


LARGE, SMALL = np.s_[1:5, 2:6, 2:6], np.s_[8:10, 3:5, 3:5]


def test_only_the_largest_component_is_kept():
    classes, same = blobs(LARGE, SMALL), grid((12, 8, 8))
    both = label_grid(classes, same, same, keep_posteriors=True)
    one = label_grid(classes, same, same, largest=[1], keep_posteriors=True)
    assert ndimage.label(both.channels == 1)[1] == 2 and ndimage.label(one.channels == 1)[1] == 1
    assert (one.channels[LARGE] == 1).all() and (one.channels[SMALL] == 0).all()
    assert both.posterior(1)[SMALL].all() and not one.posterior(1)[SMALL].any()
    assert both.steps[1] - one.steps[1] == 8 * 204  # eight voxels of 0.8
    assert one.steps[2] == both.steps[2]
    for channel in (1, 2):
        assert one.posterior(channel).sum(dtype=int) == one.steps[channel]


def test_voxels_apart_take_what_lies_beside_them():
    """Not the second in their own place, which is nowhere near, but the most probable beside them."""
    shape = (12, 8, 8)
    probability = np.zeros((4, *shape))
    probability[2] = 1.0
    probability[(slice(None), *LARGE)] = np.array([0, 1.0, 0, 0])[:, None, None, None]
    probability[(slice(None), *SMALL)] = np.array([0, 0.5, 0.1, 0.4])[:, None, None, None]
    labels = label_grid(field_of(probability), grid(shape), grid(shape), largest=[1, 2, 3])
    assert (labels.channels[SMALL] == 2).all()
    assert all(ndimage.label(labels.channels == channel)[1] == 1 for channel in (1, 2))
    assert 3 not in labels.channels


def test_many_classes_in_crumbs_become_one_piece_each():
    shape = (24, 20, 16)
    noise = np.stack([ndimage.gaussian_filter(RNG.standard_normal(shape), 1.2) for _ in range(5)])
    classes = field_of(np.exp(20 * noise) / np.exp(20 * noise).sum(0))
    labels = label_grid(classes, grid(shape), grid(shape), largest=range(1, 5))
    before = classes.probability.argmax(0)
    for channel in range(1, 5):
        assert ndimage.label(before == channel)[1] > 3 and ndimage.label(labels.channels == channel)[1] == 1


def striped(width: int) -> tuple[np.ndarray, ClassField, Grid, Grid]:
    """Stripes of two classes, 24³ voxels of 1 mm; the field, which has seen their means over 2 mm and expects
    either class anywhere, its grid, and that of the stripes."""
    classes = np.broadcast_to(1 + np.arange(24)[:, None, None] // width % 2, (24, 24, 24)).astype(np.uint8)
    classes = np.where(np.arange(24)[None, :, None] < 4, 3, classes)  # and a third that lies by itself
    image = np.array([0, 0.3, 0.7, 1.0], dtype=np.float32)[classes]
    averages = image.reshape(12, 2, 12, 2, 12, 2).mean((1, 3, 5))
    expected = np.zeros((4, 12, 12, 12), dtype=np.float32)
    expected[1:3] = 0.5
    expected[:, :, :2] = np.array([0, 0, 0, 1], dtype=np.float32)[:, None, None, None]
    channels = classes[::2, ::2, ::2]
    means = np.array([[0], [0.3], [0.7], [1]], dtype=np.float32)
    flat = np.zeros((12, 12, 12), dtype=np.float32)
    evidence = Evidence(means, np.full_like(means, 0.1**2), flat, np.eye(4), EvidenceConfig(stride=1))
    told = Told(evidence, averages, expected, 0.0, 1.0)
    field = ClassField(np.full((4, 12, 12, 12), 0.25, dtype=np.float32), channels[None], told)
    return image, field, grid((12, 12, 12), 2.0, (0.5, 0.5, 0.5)), grid((24, 24, 24))


def test_labels_are_as_fine_as_the_image():
    """Stripes of three voxels: the window averages some of both classes, and the voxels' own intensities tell."""
    image, field, window, target = striped(width=3)
    stripes = 1 + np.arange(24)[:, None, None] // 3 % 2
    fine = label_grid(field, window, target, intensities=lambda where: image[where]).channels
    assert (fine[:, 6:] == stripes).all() and (fine[:, :3] == 3).all()
    averages = field.told.image.repeat(2, 0)[:, 3:4, :1]
    assert (np.where(averages < 0.5, 1, 2) == stripes).mean() < 0.9


def test_noise_of_single_voxels_does_not_count():
    image, field, window, target = striped(width=6)
    noisy = image + RNG.normal(0, 0.15, image.shape).astype(np.float32)
    right = (1 + np.arange(24)[:, None, None] // 6 % 2) == np.ones((1, 18, 24), dtype=int)
    labels = label_grid(field, window, target, intensities=lambda where: noisy[where]).channels[:, 6:]
    alone = np.abs(noisy[:, 6:, :] - 0.3) < np.abs(noisy[:, 6:, :] - 0.7)  # each voxel by itself
    assert ((labels == 1) == right).mean() > max(0.95, (alone == right).mean() + 0.02)


def test_pieces_that_are_dropped_count_as_they_were_counted():
    image, field, window, target = striped(width=4)
    labels = label_grid(field, window, target, largest=[1, 2], intensities=lambda where: image[where])
    kept = label_grid(field, window, target, largest=[1, 2], keep_posteriors=True, intensities=lambda w: image[w])
    for channel in (1, 2, 3):
        assert abs(int(labels.steps[channel]) - int(kept.posterior(channel).sum(dtype=int))) <= 24**3 // 100
