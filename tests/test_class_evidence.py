"""What an image says of its classes: intensities estimated by EM with the network's probabilities as the prior."""

import dataclasses

import numpy as np
import pytest
import torch

from singlestrip.configuration import EvidenceConfig
from singlestrip.networks.evidence import add_evidence

SIDE = 24
CONFIG = EvidenceConfig(stride=2)
ALONE = (0, 1, 2)  # the channels of a mirrored head: none has another side


def folded() -> np.ndarray:
    """Classes 1 and 2 in a head, uint8 [X, Y, Z]: stripes of two voxels inside a frame of background."""
    classes = np.zeros((SIDE,) * 3, dtype=np.uint8)
    classes[4:-4, 4:-4, 4:-4] = 1 + np.arange(4, SIDE - 4)[:, None, None] // 2 % 2
    return classes


def smooth_prior(classes: np.ndarray, count: int, sure: float = 0.6) -> np.ndarray:
    """Logits [C, X, Y, Z] that know where the head is, and of each half of it which class is the more probable."""
    prior = np.zeros((count, *classes.shape), dtype=np.float32)
    prior[0][classes == 0] = 4
    prior[0][classes > 0] = -4
    low = np.arange(SIDE)[None, None, :] < SIDE // 2
    prior[1] += np.where(low, sure, 0)
    prior[2] += np.where(low, 0, sure)
    return prior


def halves() -> np.ndarray:
    """`folded`, with a few more voxels of class 1 in the lower half and of class 2 in the upper."""
    classes = folded()
    inside = classes > 0
    classes[:, :9][inside[:, :9] & (np.arange(SIDE) < SIDE // 2)] = 1
    classes[:, :9][inside[:, :9] & (np.arange(SIDE) >= SIDE // 2)] = 2
    return classes


def image_of(classes: np.ndarray, *means: float, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    image = np.array(means, dtype=np.float32)[classes]
    image += noise * np.random.default_rng(seed).standard_normal(classes.shape, dtype=np.float32)
    return image.clip(0, 1)


@pytest.mark.parametrize("means", [(0.0, 0.8, 0.4), (0.0, 0.3, 0.7), (0.5, 0.2, 0.9)])
def test_classes_follow_the_image_whatever_its_contrast(means):
    classes = halves()
    prior = smooth_prior(classes, 3)
    assert (prior.argmax(0) == classes)[classes > 0].mean() < 0.7  # the network alone sees no stripes
    told = add_evidence(image_of(classes, *means), prior, ALONE, CONFIG)
    assert (told.argmax(0) == classes).mean() > 0.99


def test_an_image_without_contrast_says_nothing():
    classes = halves()
    prior = smooth_prior(classes, 3)
    told = add_evidence(image_of(classes, 0.1, 0.5, 0.5), prior, ALONE, CONFIG)
    assert (told.argmax(0) == prior.argmax(0)).mean() > 0.97


def test_a_bias_field_does_not_mislead():
    classes = halves()
    gain = 1 + 0.25 * np.linspace(-1, 1, SIDE, dtype=np.float32)  # the darker class here beats the brighter there
    image = image_of(classes, 0.0, 0.6, 0.45, noise=0.01) * gain[:, None]
    right = {}
    for largest in (0.5, 0.0):
        config = dataclasses.replace(CONFIG, bias_width=0.15, largest_bias=largest, iterations=30, bias_doubt=10.0)
        told = add_evidence(image, smooth_prior(classes, 3), ALONE, config)
        right[largest] = (told.argmax(0) == classes)[classes > 0].mean()
    assert right[0.5] > 0.98 and right[0.0] < 0.95


def test_both_sides_of_a_structure_look_alike():
    """The prior of one side is blind; what the other side looks like tells it."""
    classes = np.zeros((SIDE,) * 3, dtype=np.uint8)
    classes[2:10, 6:18, 6:18], classes[14:22, 6:18, 6:18] = 1, 2
    prior = np.zeros((3, *classes.shape), dtype=np.float32)
    prior[1][:12], prior[2][:12] = -8, -8
    prior[1][classes == 1] = 3
    prior[1][12:] = -8
    prior[0][12:] = 1  # on this side the structure is thought rare everywhere
    image = image_of(classes, 0.2, 0.7, 0.7)
    once = dataclasses.replace(CONFIG, iterations=1)
    joined, apart = (add_evidence(image, prior, mirrored, once).argmax(0) for mirrored in ((0, 2, 1), ALONE))
    assert (joined == classes).all() and (apart != classes).any()


def test_arrays_and_tensors_alike():
    classes = halves()
    image, prior = image_of(classes, 0.1, 0.8, 0.4, noise=0.1), smooth_prior(classes, 3)
    told = add_evidence(image, prior, ALONE, CONFIG)
    tensors = add_evidence(torch.from_numpy(image), torch.from_numpy(prior), ALONE, CONFIG)
    np.testing.assert_allclose(told, tensors.numpy(), atol=1e-3)
    beside = torch.from_numpy(prior).movedim(0, -1).contiguous().movedim(-1, 0)  # in memory, as of a network
    np.testing.assert_allclose(
        told, add_evidence(torch.from_numpy(image), beside, ALONE, CONFIG).numpy(), atol=1e-3
    )


def test_the_likelihood_is_that_of_the_gaussians():
    """Two known classes: the evidence is the difference of their log densities, by hand."""
    classes = halves()
    image = image_of(classes, 0.0, 0.6, 0.4, noise=0.0)
    config = dataclasses.replace(CONFIG, pseudo_voxels=1e-6, largest_bias=0.0, least_spread=0.05)
    sure = np.stack([np.where(classes == each, 20, -20) for each in range(3)]).astype(np.float32)
    told = add_evidence(image, sure, ALONE, config) - sure
    at = tuple(np.argwhere(classes == 1)[0])
    # Both have the least variance, 0.05²; the mean of class 2 lies four standard deviations away.
    assert told[1][at] - told[2][at] == pytest.approx(min(0.5 * (0.2 / 0.05) ** 2, 6.0), abs=0.01)


def test_gradients_take_the_evidence_as_given():
    classes = halves()
    prior = torch.from_numpy(smooth_prior(classes, 3)).requires_grad_()
    add_evidence(torch.from_numpy(image_of(classes, 0.1, 0.8, 0.4)), prior, ALONE, CONFIG).sum().backward()
    assert torch.equal(prior.grad, torch.ones_like(prior))
