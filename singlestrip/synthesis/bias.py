"""The bias field of a receive coil: a smooth gain over the window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..configuration import SynthConfig, Window
from .fields import enlarge, random_field
from .streams import RandomStreams, uniform


@dataclass(frozen=True)
class BiasField:
    """log_gain: natural logarithm of the gain, a field [1, 1, x, y, z] over the window."""

    log_gain: torch.Tensor


def sample_bias(config: SynthConfig, window: Window, scale: float, streams: RandomStreams) -> BiasField:
    """Draw the bias field of one image."""
    generator = streams("bias")
    deviation = uniform(generator, *config.bias)
    spacing_mm = uniform(generator, *config.bias_spacing_mm) * scale
    return BiasField(deviation * random_field(window.extent_mm, spacing_mm, generator))


def apply_bias(image: torch.Tensor, drawn: Sequence[BiasField]) -> torch.Tensor:
    """Images [B, X, Y, Z] times their gain."""
    shape = image.shape[1:]
    log_gain = torch.cat([enlarge(each.log_gain.to(image.device), shape) for each in drawn])
    return image * torch.exp(log_gain[:, 0])
