"""Structures within the brain that the labelled scan does not show, such as ventricles or deep grey matter.

Where the labelled scan has little contrast within the brain, its classes are noise. In another contrast the brain
then looks unlike all that the networks have seen. Structures of random shape in the brain of some images help.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..configuration import SynthConfig
from .fields import enlarge, random_field
from .label_map import LabelMap
from .streams import RandomStreams, happens, log_uniform, uniform, whole_number


@dataclass(frozen=True)
class Structure:
    """field: [1, 1, x, y, z] over what is seen of the map; between: its values in the structure; intensity: of the
    structure."""

    field: torch.Tensor
    between: tuple[float, float]
    intensity: float


def sample_structures(
    config: SynthConfig, extent_mm: Sequence[float], scale: float, streams: RandomStreams
) -> tuple[Structure, ...]:
    """Draw the structures of one image. extent_mm: size of the window."""
    generator = streams("structures")
    if not happens(generator, config.structures_probability):
        return ()
    structures = []
    for _ in range(whole_number(generator, *config.structures)):
        spacing_mm = log_uniform(generator, *config.structures_spacing_mm) * scale
        between = uniform(generator, *config.structures_least), math.inf
        if happens(generator, config.sheet_probability):
            half = uniform(generator, *config.sheet_half_width)
            between = -half, half
        field = random_field(extent_mm, spacing_mm, generator)
        structures.append(Structure(field, between, uniform(generator, 0, 1)))
    return tuple(structures)


def add_structures(image: torch.Tensor, source: LabelMap, drawn: Sequence[Structure]) -> torch.Tensor:
    """The image [X, Y, Z] of a label map with the structures in its brain; later ones lie over earlier ones."""
    for structure in drawn:
        field = enlarge(structure.field.to(image.device), source.labels.shape)[0, 0]
        low, high = structure.between
        image = torch.where((field > low) & (field < high) & (source.brain > 0), structure.intensity, image)
    return image
