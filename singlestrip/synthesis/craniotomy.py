"""What an operation leaves above the brain: missing or strange bone, a swollen scalp, or a sunken one.

In a cylinder around a ray from the middle of the brain, all between two distances to it has one intensity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..configuration import SynthConfig
from .blobs import offsets_mm, sample_direction
from .label_map import LabelMap
from .streams import RandomStreams, happens, log_uniform, uniform
from .surroundings import away_mm


@dataclass(frozen=True)
class Craniotomy:
    """direction: [3], of length 1, of the ray; radius_mm: of the cylinder; between_mm: distances to the brain."""

    direction: torch.Tensor
    radius_mm: float
    between_mm: tuple[float, float]
    intensity: float


def sample_craniotomy(config: SynthConfig, scale: float, streams: RandomStreams) -> Craniotomy | None:
    """Draw the craniotomy of one image: none in most."""
    generator = streams("craniotomy")
    if not happens(generator, config.craniotomy_probability):
        return None
    direction = sample_direction(generator)
    radius_mm = uniform(generator, *config.craniotomy_radius_mm) * scale
    low_mm = uniform(generator, *config.craniotomy_above_mm) * scale
    high_mm = low_mm + log_uniform(generator, *config.craniotomy_thickness_mm) * scale
    dark = happens(generator, config.craniotomy_dark_probability)
    intensity = uniform(generator, *(config.dark_intensity if dark else (0, 1)))
    return Craniotomy(direction, radius_mm, (low_mm, high_mm), intensity)


def open_skull(
    image: torch.Tensor, brain: torch.Tensor, source: LabelMap, drawn: Craniotomy | None, at: torch.Tensor
) -> torch.Tensor:
    """An image [1, X, Y, Z] with the craniotomy outside its brain; see `lesions.add_lesions`."""
    if drawn is None:
        return image
    offsets = offsets_mm(source, at, source.brain_mm)
    along = offsets @ drawn.direction.to(image.device)
    aside = (offsets.square().sum(-1) - along.square()).clamp(min=0).sqrt()
    away = away_mm(source, at)
    low_mm, high_mm = drawn.between_mm
    within = (along > 0) & (aside < drawn.radius_mm) & (away >= low_mm) & (away < high_mm)
    return image + within * (1 - brain) * (drawn.intensity - image)
