"""The networks' continuous output for classes: how probable each is, on the segmenter's window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..configuration import CascadeConfig
from ..errors import ModelError
from ..networks.evidence import Evidence

BACKGROUND = 0  # channel; those of the classes follow


def brain_channels(config: CascadeConfig, fluid: bool = True, or_all: bool = False) -> tuple[int, ...]:
    """The channels of a segmenter that are brain; none if it knows no classes.

    fluid: whether fluid around the brain belongs to it. or_all: take all classes if none is brain. Raises
    ModelError if no class is brain otherwise, or if fluid is to be left out and no class is fluid.
    """
    if not fluid and not any(each.fluid for each in config.classes):
        raise ModelError("does not tell the fluid around the brain from the brain; name a model that does")
    brain = config.brain_channels or (tuple(range(1, config.segmenter_outputs)) if or_all else ())
    if config.classes and not brain:
        raise ModelError("none of the classes that the model tells apart is brain; it cannot strip")
    return tuple(channel for channel in brain if fluid or not config.classes[channel - 1].fluid)


def brain_logit(logits: np.ndarray, channels: Sequence[int]) -> np.ndarray:
    """The brain's logit [X, Y, Z] of a segmenter's logits [C, X, Y, Z].

    channels: of classes that are brain, whose probabilities are summed; none if the only logit is the brain's.
    """
    if not channels:
        return logits[0]
    others = [channel for channel in range(len(logits)) if channel not in channels]
    return _log_sum(logits, channels) - _log_sum(logits, others)


def _log_sum(logits: np.ndarray, channels: Sequence[int]) -> np.ndarray:
    """Logarithm of the sum of exponentials of some of logits [C, X, Y, Z]."""
    highest = logits[channels[0]].copy()
    for channel in channels[1:]:
        np.maximum(highest, logits[channel], out=highest)
    total = np.zeros_like(highest)
    for channel in channels:
        total += np.exp(logits[channel] - highest)
    return np.log(total, out=total) + highest


@dataclass(frozen=True, eq=False)
class Shown:
    """A window as the segmenter sees it.

    image: [X, Y, Z] in [0, 1]. evidence: how classes look in it, and says: their log likelihood [C, X, Y, Z]; None
    if the image is not asked. low, width: the range of intensities that became [0, 1].
    """

    image: np.ndarray
    evidence: Evidence | None = None
    says: np.ndarray | None = None
    low: float = 0.0
    width: float = 1.0


@dataclass(frozen=True, eq=False)
class Told:
    """What the image itself says of classes, apart from what was to be expected.

    evidence: how the classes look in the window. image: [X, Y, Z] in [0, 1], the window. expected: as
    `ClassField.probability`, but without the evidence. low, width: intensities from `low` on, over `width`, are
    those of the window.
    """

    evidence: Evidence
    image: np.ndarray
    expected: np.ndarray
    low: float
    width: float


@dataclass(frozen=True, eq=False)
class ClassField:
    """How probable classes are.

    probability: float32 [C, X, Y, Z] of the background and each class; the sum over channels is 1. views: uint8
    [V, X, Y, Z], the most probable channel in each view of the window. told: what the image itself says of
    classes, None if it is not asked.
    """

    probability: np.ndarray
    views: np.ndarray
    told: Told | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis of the window."""
        return self.probability.shape[1:]

    def agreement(self) -> np.ndarray:
        """For each channel, the mean Dice of its voxels in a view with those in the mean of all views, float [C].

        NaN for a channel that is the most probable one nowhere in any view.
        """
        count = len(self.probability)
        mean = most_probable(self.probability).ravel()
        sizes = np.bincount(mean, minlength=count)
        dices = []
        for view in self.views.reshape(len(self.views), -1):
            both = np.bincount(mean[mean == view], minlength=count)
            total = sizes + np.bincount(view, minlength=count)
            dices.append(np.divide(2 * both, total, out=np.ones(count), where=total > 0))
        absent = (sizes == 0) & ~np.isin(np.arange(count), self.views)
        return np.where(absent, np.nan, np.mean(dices, axis=0))


class ClassViews:
    """Gathers the logits of views of a window into a `ClassField`, holding their sum and one view at a time.

    covered: boolean [X, Y, Z], where the scan has voxels. The rest of the window is background.
    """

    def __init__(self, covered: np.ndarray) -> None:
        self._covered = covered
        self._total: np.ndarray | None = None
        self._channels: list[np.ndarray] = []

    def add(self, logits: np.ndarray) -> None:
        """Add the logits [C, X, Y, Z] of a view, as the head lies."""
        self._channels.append(np.where(self._covered, most_probable(logits), np.uint8(BACKGROUND)))
        if self._total is None:
            self._total = logits.astype(np.float32)
        else:
            self._total += logits

    def field(self, shown: Shown | None = None) -> ClassField:
        """The classes by the mean logit of the views, at least one. shown: the window as it is, if it is asked."""
        assert self._total is not None, "a view has been added"
        mean = np.divide(self._total, len(self._channels), out=self._total)
        told = None
        if shown is not None and shown.evidence is not None and shown.says is not None:
            expected = self._probability(mean - shown.says)
            told = Told(shown.evidence, shown.image, expected, shown.low, shown.width)
        return ClassField(self._probability(mean), np.stack(self._channels), told)

    def _probability(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities [C, X, Y, Z] of logits, in their place."""
        probability = _softmax(logits)
        probability[:, ~self._covered] = 0
        probability[BACKGROUND, ~self._covered] = 1
        return probability


def most_probable(values: np.ndarray) -> np.ndarray:
    """The channel of the highest of values [C, X, Y, Z], uint8 [X, Y, Z]; of equal ones the first."""
    highest = values[0].copy()
    channels = np.zeros(highest.shape, dtype=np.uint8)
    for channel, value in enumerate(values[1:], start=1):
        channels[value > highest] = channel
        np.maximum(highest, value, out=highest)
    return channels


def _softmax(logit: np.ndarray) -> np.ndarray:
    """Probabilities of logits [C, X, Y, Z], in their place."""
    logit -= logit.max(0)
    np.exp(logit, out=logit)
    logit /= logit.sum(0)
    return logit
