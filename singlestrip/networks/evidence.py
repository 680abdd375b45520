"""What an image itself says of its classes, beside what a network expects where.

A network that learns from images of any contrast soon knows where structures lie. To follow their borders it
learns much later, since each image has other intensities. Those of the classes are therefore estimated in the
image, by expectation and maximisation with the network's probabilities as the prior (Van Leemput et al., IEEE
TMI 18:897, 1999; Ashburner & Friston, NeuroImage 26:839, 2005), together with a bias field (Wells et al., IEEE TMI
15:429, 1996). The logarithm of the likelihood of each voxel's intensity is then added to the network's logits.

Training needs this of tensors, and stripping of arrays without torch: these functions take both.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from ..configuration import EvidenceConfig

Array = Any  # of NumPy or torch
PART_VOXELS = 4096  # are in hand at once: their values stay in a processor's cache


@dataclass(frozen=True, eq=False)
class _Looks:
    """How the classes look in an image: mean and variance of the intensity of each, [C, 1].

    bias: [x, y, z] on every so manieth voxel; intensities are 1 + bias times as large as without the bias field.
    """

    mean: Array
    variance: Array
    bias: Array


def add_evidence(image: Array, logits: Array, mirrored_channels: Sequence[int], config: EvidenceConfig) -> Array:
    """The logits of an image with its evidence. Arrays or tensors; the evidence counts as given in a gradient.

    image: [X, Y, Z] in [0, 1]. logits: [C, X, Y, Z] of the background and of classes. mirrored_channels: for each
    channel, the one that it is in a mirrored head; both sides of a structure look alike.
    """
    known = logits if isinstance(logits, np.ndarray) else logits.detach()
    looks = _estimate(image, known, _sides_joined(mirrored_channels, known), config)
    bias = looks.bias
    for axis, length in enumerate(image.shape):
        bias = _along(_linear(length, bias.shape[axis], config.stride), bias, axis)
    intensity = (image / (1 + bias)).reshape(1, -1)
    library = _library(known)
    evidence = library.empty_like(known)
    rows = evidence.reshape(len(known), -1)
    for first in range(0, rows.shape[1], PART_VOXELS):
        part = slice(first, first + PART_VOXELS)
        rows[:, part] = _log_likelihood(intensity[:, part], looks.mean, looks.variance, config)
    return logits + evidence


def _estimate(image: Array, logits: Array, joined: Array, config: EvidenceConfig) -> _Looks:
    """How the classes look. joined: [C, C], the mean over the sides of a structure."""
    few = slice(None, None, config.stride)
    image, logits = image[few, few, few], logits[:, few, few, few]
    library, shape = _library(logits), image.shape
    near = [_gaussian(n, config.bias_width * n) for n in shape]
    logits, image = logits.reshape(len(logits), -1), image.reshape(1, -1)
    bias = library.zeros_like(image)
    probability = _softmax(logits)
    for _ in range(config.iterations):
        intensity = image / (1 + bias)
        shares = joined @ probability
        voxels = shares.sum(1, keepdims=True) + config.pseudo_voxels
        mean = (shares @ intensity.T + config.pseudo_voxels * intensity.mean()) / voxels
        square = shares @ (intensity * intensity).T - 2 * mean * (shares @ intensity.T)
        square = square + mean * mean * shares.sum(1, keepdims=True)
        variance = (square + config.pseudo_voxels * config.pseudo_spread**2) / voxels
        variance = variance + config.least_spread**2
        weight = mean / variance
        excess = image * (weight.T @ probability) - (weight * mean).T @ probability
        certain = (weight * mean).T @ probability
        excess, certain = excess.reshape(shape), certain.reshape(shape)
        for axis, matrix in enumerate(near):
            excess, certain = _along(matrix, excess, axis), _along(matrix, certain, axis)
        bias = (excess / (certain + config.bias_doubt)).reshape(1, -1)
        bias = library.clip(bias, -config.largest_bias, config.largest_bias)
        evidence = _log_likelihood(image / (1 + bias), mean, variance, config)
        probability = _softmax(logits + evidence)
    return _Looks(mean, variance, bias.reshape(shape))


def _log_likelihood(intensity: Array, mean: Array, variance: Array, config: EvidenceConfig) -> Array:
    """[C, N] of intensities [1, N] of classes [C, 1]: of Gaussians, whose tails do not fall below a level."""
    library = _library(mean)
    away = (intensity - mean) ** 2 / (-2 * variance)
    return library.clip(away, config.lowest, None) - library.log(variance) / 2


def _softmax(logits: Array) -> Array:
    """Probabilities of logits [C, N]."""
    library = _library(logits)
    probability = library.exp(logits - library.amax(logits, 0, keepdims=True))
    return probability / probability.sum(0, keepdims=True)


def _sides_joined(mirrored_channels: Sequence[int], like: Array) -> Array:
    """[C, C]: what means values of channels with those of their mirror images."""
    count = len(like)
    mirrored = np.zeros((count, count), dtype=np.float32)
    mirrored[np.arange(count), list(mirrored_channels)] = 1
    return _as(like, (np.eye(count, dtype=np.float32) + mirrored) / 2)


def _gaussian(length: int, width: float) -> np.ndarray:
    """[length, length], a Gaussian around each voxel of an axis, its standard deviation in voxels."""
    at = np.arange(length, dtype=np.float32)
    return np.exp(-0.5 * ((at[:, None] - at) / width) ** 2).astype(np.float32)


def _linear(length: int, few: int, stride: int) -> np.ndarray:
    """[length, few], linear interpolation between every `stride`-th voxel of an axis; constant beyond the last."""
    at = np.minimum(np.arange(length, dtype=np.float32) / stride, few - 1)
    return np.clip(1 - np.abs(at[:, None] - np.arange(few, dtype=np.float32)), 0, None).astype(np.float32)


def _along(matrix: np.ndarray, field: Array, axis: int) -> Array:
    """A field [X, Y, Z] with a matrix applied along one of its axes."""
    library = _library(field)
    return library.moveaxis(library.tensordot(_as(field, matrix), field, ([1], [axis])), 0, axis)


def _library(array: Array) -> ModuleType:
    """NumPy, or torch for its tensors."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def _as(like: Array, values: np.ndarray) -> Array:
    """Values as an array or tensor like another, beside it."""
    return values if isinstance(like, np.ndarray) else _library(like).as_tensor(values, device=like.device)
