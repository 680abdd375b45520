"""Intensities scaled to [0, 1], by the range of the scan or of the brain alone, and bent by an exponent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..configuration import SynthConfig
from ..networks.normalisation import BRIGHT_PERCENT, least_range
from .streams import RandomStreams, happens, uniform

MAX_SAMPLES = 30_000  # values of which a percentile is taken


@dataclass(frozen=True)
class IntensityScale:
    """by_brain: whether the brain alone sets the range that becomes [0, 1]; gamma: the exponent."""

    by_brain: bool
    gamma: float


def sample_intensity_scale(config: SynthConfig, streams: RandomStreams) -> IntensityScale:
    """Draw the intensity scale of one image."""
    by_brain = happens(streams("brain range"), config.brain_range_probability)
    return IntensityScale(by_brain, math.exp(uniform(streams("gamma"), -config.gamma, config.gamma)))


def scale_intensities(
    image: torch.Tensor, brain: torch.Tensor, covered: torch.Tensor, drawn: Sequence[IntensityScale]
) -> torch.Tensor:
    """Images [B, X, Y, Z] in [0, 1], 0 where they are not covered.

    brain: share of each voxel that is brain; covered: boolean, where there are data.
    """
    by_brain = torch.tensor([each.by_brain for each in drawn], device=image.device).view(-1, 1, 1, 1)
    gamma = torch.tensor([each.gamma for each in drawn], device=image.device).view(-1, 1, 1, 1)
    return normalise(image, covered, (brain > 0.5) & by_brain).pow(gamma)


def normalise(image: torch.Tensor, covered: torch.Tensor, brain: torch.Tensor | None = None) -> torch.Tensor:
    """What `networks.normalisation.normalise` does to an image, of a batch [B, X, Y, Z] on any device."""
    normalised = torch.empty_like(image)
    for index, (values, where) in enumerate(zip(image, covered, strict=True)):
        covered_values = values[where]
        if covered_values.numel() == 0:
            normalised[index] = 0
            continue
        low = _subsampled(covered_values).min()
        brain_values = covered_values if brain is None else values[where & brain[index]]
        bright = brain_values if brain_values.numel() else covered_values
        high = torch.quantile(_subsampled(bright), BRIGHT_PERCENT / 100)
        scaled = (values - low) / (high - low).clamp(min=least_range(float(high)))
        normalised[index] = torch.where(where, scaled.clamp(0, 1), torch.zeros((), device=image.device))
    return normalised


def _subsampled(values: torch.Tensor) -> torch.Tensor:
    """Every n-th of values [N], about MAX_SAMPLES of them."""
    return values[:: 1 + values.numel() // MAX_SAMPLES]
