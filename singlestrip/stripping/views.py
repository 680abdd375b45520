"""Other views of a window: the same head mirrored, or in another contrast.

Where exactly a network puts the brain's border depends on the contrast, and only part of its error is the same in
all contrasts. Stripping therefore shows the segmenter several views of a window and takes the mean logit. This is
test-time augmentation (Wang et al., Neurocomputing 2019) with the contrasts of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..configuration import StrippingConfig


def peaked(intensity: np.ndarray, peak: float = StrippingConfig.peak) -> np.ndarray:
    """Intensities in [0, 1] that rise to 1 at the peak and fall to 0 at 1: the brightest tissue turns dark."""
    return np.minimum(intensity / peak, (1 - intensity) / (1 - peak))


@dataclass(frozen=True)
class View:
    """An image of the same head: intensities on `curve`, which keeps 0 and [0, 1], and mirrored or not."""

    curve: Callable[[np.ndarray], np.ndarray]
    mirrored: bool

    def mirror(self, volume: np.ndarray) -> np.ndarray:
        """[..., X, Y, Z] with left and right exchanged if this view is mirrored; its own inverse."""
        return volume[..., ::-1, :, :] if self.mirrored else volume

    def restore(self, logits: np.ndarray, mirrored_channels: Sequence[int]) -> np.ndarray:
        """Logits [C, X, Y, Z] of this view as the head lies. mirrored_channels: see `logits_of_views`."""
        exchange = self.mirrored and len(mirrored_channels) > 1
        return self.mirror(logits[list(mirrored_channels)] if exchange else logits)

    def of(self, image: np.ndarray) -> np.ndarray:
        """This view of a normalised image [X, Y, Z], whose first axis is left to right."""
        return self.mirror(self.curve(image))


def usual_views(peak: float = StrippingConfig.peak) -> tuple[View, ...]:
    """The views beside the window as it is.

    Each takes as long as the first look; more bring little (docs/tried.md). peak: see `peaked`.
    """
    return View(np.sqrt, mirrored=True), View(partial(peaked, peak=peak), mirrored=False)


VIEWS = usual_views()


def logits_of_views(
    logits: np.ndarray,
    image: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
    views: Sequence[View],
    mirrored_channels: Sequence[int] = (0,),
) -> Iterator[np.ndarray]:
    """Logits [C, X, Y, Z] of a normalised image [X, Y, Z] as it is, and then in each other view, as the head lies.

    predict: from an image to its logits; logits: those of the image as it is. mirrored_channels: for each channel,
    the one that it is in a mirrored head.
    """
    yield logits
    del logits  # those of many classes are large: none has a name here while the next are computed
    for view in views:
        yield view.restore(predict(view.of(image)), mirrored_channels)
