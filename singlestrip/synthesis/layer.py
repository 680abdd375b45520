"""A layer of one intensity and uneven thickness around the brain, as fluid is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..configuration import SynthConfig
from .fields import enlarge, random_field
from .label_map import LabelMap
from .streams import RandomStreams, happens, uniform


@dataclass(frozen=True)
class Layer:
    """thickness_mm: a field [1, 1, x, y, z] over what is seen of the map."""

    thickness_mm: torch.Tensor
    intensity: float


def sample_layer(
    config: SynthConfig, extent_mm: Sequence[float], scale: float, streams: RandomStreams
) -> Layer | None:
    """Draw the layer of one image, if it has one. extent_mm: size of the window."""
    generator = streams("layer")
    if not happens(generator, config.layer_probability):
        return None
    intensity = uniform(generator, 0, 1)
    mean_mm = uniform(generator, *config.layer_mm) * scale
    uneven_mm = uniform(generator, *config.layer_uneven_mm) * scale
    spacing_mm = uniform(generator, *config.layer_spacing_mm) * scale
    return Layer(mean_mm + uneven_mm * random_field(extent_mm, spacing_mm, generator), intensity)


def add_layer(image: torch.Tensor, source: LabelMap, drawn: Layer | None) -> torch.Tensor:
    """The image [X, Y, Z] of a label map with the layer in it."""
    if drawn is None:
        return image
    thickness = enlarge(drawn.thickness_mm.to(image.device), source.labels.shape)[0, 0]
    within = (source.away_mm > 0) & (source.away_mm < thickness)
    return torch.where(within, drawn.intensity, image)
