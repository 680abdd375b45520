"""Classes on the segmenter's window: probabilities, views, and the brain that they make."""

import numpy as np
import pytest

from singlestrip.configuration import CascadeConfig, TargetClass
from singlestrip.errors import ModelError
from singlestrip.stripping.class_field import ClassField, ClassViews, brain_channels, brain_logit, most_probable
from singlestrip.stripping.views import View, logits_of_views

SHAPE = (3, 2, 1)
CLASSES = (
    TargetClass(3, "Tissue", brain=True),
    TargetClass(24, "Fluid", brain=True, fluid=True),
    TargetClass(515, "Skull"),
)


def config(*classes):
    return CascadeConfig(classes=classes)


def constant(*values):
    """Channels [C, X, Y, Z], each of one value."""
    return np.stack([np.full(SHAPE, value, dtype=np.float32) for value in values])


def test_the_brain_is_the_sum_of_its_classes():
    probability = np.array([0.1, 0.3, 0.2, 0.4])
    logit = brain_logit(constant(*(np.log(probability) + 7)), (1, 2))
    np.testing.assert_allclose(logit, np.log(0.5 / 0.5), atol=1e-5)
    tight = brain_logit(constant(*np.log(probability)), (1,))
    np.testing.assert_allclose(tight, np.log(0.3 / 0.7), atol=1e-5)
    np.testing.assert_array_equal(brain_logit(constant(5.0), ()), 5)


def test_large_logits_do_not_overflow():
    np.testing.assert_allclose(brain_logit(constant(0, 500, 400, -300), (1, 2)), 500)


def test_channels_of_the_brain():
    assert brain_channels(config(*CLASSES)) == (1, 2)
    assert brain_channels(config(*CLASSES), fluid=False) == (1,)
    assert brain_channels(config()) == ()
    with pytest.raises(ModelError, match="fluid"):
        brain_channels(config(), fluid=False)
    with pytest.raises(ModelError, match="fluid"):
        brain_channels(config(CLASSES[0], CLASSES[2]), fluid=False)
    with pytest.raises(ModelError, match="none of the classes"):
        brain_channels(config(CLASSES[2]))
    assert brain_channels(config(CLASSES[2]), or_all=True) == (1,)


def test_the_probability_is_that_of_the_mean_logit():
    covered = np.ones(SHAPE, dtype=bool)
    covered[0, 0, 0] = False
    views = ClassViews(covered)
    views.add(constant(0, 2, 0))
    views.add(constant(0, 0, 4))
    field = views.field()
    total = 1 + np.exp(1) + np.exp(2)
    np.testing.assert_allclose(field.probability[:, 1, 0, 0], [1 / total, np.exp(1) / total, np.exp(2) / total])
    np.testing.assert_array_equal(field.probability[:, 0, 0, 0], [1, 0, 0])  # beyond the scan
    assert field.views.shape == (2, *SHAPE) and field.views.dtype == np.uint8
    assert [view[1, 0, 0] for view in field.views] == [1, 2]
    assert [view[0, 0, 0] for view in field.views] == [0, 0]


def test_logits_that_were_added_stay_as_they_were():
    logits = constant(0, 2)
    views = ClassViews(np.ones(SHAPE, dtype=bool))
    views.add(logits)
    views.field()
    np.testing.assert_array_equal(logits, constant(0, 2))


def test_the_most_probable_channel_is_the_first_of_equal_ones():
    assert most_probable(constant(1, 3, 3, 2)).tolist() == np.ones(SHAPE).tolist()
    assert (most_probable(constant(1, 1)) == 0).all()


def test_agreement_by_hand():
    """Of six voxels the mean gives channel 1 four, the views four and two of these."""
    mean = np.zeros((4, *SHAPE), dtype=np.float32)
    mean[1].flat[:4] = 1
    mean[0].flat[4:] = 1
    views = np.zeros((2, *SHAPE), dtype=np.uint8)
    views[0].flat[:4] = 1
    views[1].flat[:2] = 1
    views[1].flat[2] = 2
    agreement = ClassField(mean, views).agreement()
    background = [1, 2 * 2 / (2 + 3)]
    tissue = [1, 2 * 2 / (4 + 2)]
    np.testing.assert_allclose(agreement, [np.mean(background), np.mean(tissue), np.mean([1, 0]), np.nan])


def test_a_mirrored_view_exchanges_the_sides():
    """A network that sees the left structure on the left of a mirrored head has seen the right one."""
    seen = np.zeros((3, 2, 1, 1), dtype=np.float32)
    seen[1, 0], seen[2, 1] = 5, 7  # left structure on the left, right structure on the right
    image = np.zeros((2, 1, 1), dtype=np.float32)
    views = logits_of_views(seen, image, lambda shown: 2 * seen, [View(np.sqrt, mirrored=True)], (0, 2, 1))
    first, mirrored = views
    np.testing.assert_array_equal(first, seen)
    wanted = np.zeros_like(seen)
    wanted[2, 1], wanted[1, 0] = 10, 14
    np.testing.assert_array_equal(mirrored, wanted)
