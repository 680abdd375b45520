"""Views of a window: curves by hand, everything back in its place, and what stripping shows the segmenter."""

import numpy as np
import pytest
import torch

from singlestrip.configuration import StrippingConfig
from singlestrip.stripping.stripper import Stripper
from singlestrip.stripping.views import VIEWS, View, logits_of_views, peaked


def random_image(*shape: int) -> np.ndarray:
    """Intensities in [0, 1], float32."""
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def test_peaked_curve_by_hand():
    np.testing.assert_allclose(peaked(np.array([0, 0.35, 0.7, 0.85, 1])), [0, 0.5, 1, 0.5, 0])


def test_the_peak_of_the_configuration_is_that_of_the_view(phantom_stripper):
    stripper = Stripper(phantom_stripper.engine, stripping=StrippingConfig(peak=0.5))
    np.testing.assert_allclose(stripper.views[1].curve(np.array([0.25, 0.5, 0.75])), [0.5, 1, 0.5])


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_normalised_images_whose_background_stays(view):
    image = random_image(5, 4, 3)
    image[1, 2] = 0
    shown = view.of(image)
    assert shown.shape == image.shape and shown.min() >= 0 and shown.max() <= 1
    assert (view.mirror(shown)[1, 2] == 0).all() and not np.allclose(view.mirror(shown), image)


def test_logits_of_views_by_hand():
    """A network that says of each voxel ten times what it is shown, wherever that lies."""
    image = random_image(4, 3, 2)
    logits = logits_of_views(10 * image, image, lambda shown: 10 * shown, VIEWS)
    np.testing.assert_allclose(logits, 10 * np.stack([image, np.sqrt(image), peaked(image)]), rtol=1e-6)


def test_mirrored_view_comes_back_mirrored():
    """A network that sees the brain on the left alone sees it, by way of the mirror, on the right."""
    left = np.zeros((4, 3, 2), dtype=np.float32)
    left[:2] = 1
    logits = logits_of_views(left, random_image(4, 3, 2), lambda shown: left, [View(np.sqrt, mirrored=True)])
    np.testing.assert_array_equal(logits, [left, 1 - left])


class Watched(torch.nn.Module):
    """A network, and what it was shown."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.shown = []

    def forward(self, image):
        self.shown.append(image[0, 0].numpy())
        return self.network(image)


@pytest.mark.parametrize(("fat", "looks"), [(1.0, 1), (4.0, 2)])
def test_segmenter_is_shown_each_view_of_the_last_look(phantom_stripper, fat, looks):
    """A head whose fat is four times as bright as the brain takes a second look, and the views are of that."""
    x, y, z = np.indices((60, 60, 60)) - 30
    away = np.sqrt(x**2 + y**2 + z**2)
    image = (away < 20) + fat * ((away > 24) & (away < 26))
    model = phantom_stripper.engine.model
    for network in (model.locator, model.segmenter):
        network.level.data.fill_(0.1)
    watched = model.segmenter = Watched(model.segmenter)
    field = Stripper(model, VIEWS).field(image, np.eye(4))
    assert len(watched.shown) == looks + len(VIEWS)
    first, last = watched.shown[0], watched.shown[looks - 1]
    assert (last is first) == (looks == 1)
    for view, shown in zip(VIEWS, watched.shown[looks:], strict=True):
        np.testing.assert_allclose(shown, view.of(last), atol=1e-6)
    said = np.stack([10 * (last - 0.1)] + [10 * (view.mirror(view.of(last)) - 0.1) for view in VIEWS])
    np.testing.assert_allclose(field.views, said, atol=1e-5)
    np.testing.assert_allclose(field.logit, said.mean(0), atol=1e-5)
