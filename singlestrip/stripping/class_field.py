"""The networks' continuous output for classes: how probable each is, on the segmenter's window."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

BACKGROUND = 0  # channel; those of the classes follow


@dataclass(frozen=True, eq=False)
class ClassField:
    """How probable classes are.

    probability: float32 [C, X, Y, Z] of the background and each class; the sum over channels is 1. views: uint8
    [V, X, Y, Z], the most probable channel in each view of the window.
    """

    probability: np.ndarray
    views: np.ndarray

    @staticmethod
    def of_views(logits: Iterable[np.ndarray], covered: np.ndarray) -> ClassField:
        """From the logits [C, X, Y, Z] of each view, as the head lies in the window.

        The probability is that of the mean logit. Voxels beyond the scan are background. covered: boolean
        [X, Y, Z], where the scan has voxels. The logits of one view at a time are held beside their sum.
        """
        total: np.ndarray | None = None
        channels = []
        for logit in logits:
            channels.append(np.where(covered, most_probable(logit), np.uint8(BACKGROUND)))
            total = logit.astype(np.float32) if total is None else np.add(total, logit, out=total)
        assert total is not None, "a window has at least one view: itself"
        total /= len(channels)
        probability = _softmax(total)
        probability[:, ~covered] = 0
        probability[BACKGROUND, ~covered] = 1
        return ClassField(probability, np.stack(channels))

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
