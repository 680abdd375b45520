"""Structures within the brain that the labelled scan does not show, such as ventricles or deep grey matter.

If the labelled scan has little contrast within the brain, its classes are noise. In another contrast the brain
looks unlike all that the networks have seen, and a bright ventricle like the fluid around the brain. Some images
therefore have structures of random shape in the brain: bodies, thin sheets, and shells along its surface.
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
    structure; is_shell: whether the field is a depth in mm, which is taken from that of each voxel."""

    field: torch.Tensor
    between: tuple[float, float]
    intensity: float
    is_shell: bool = False


def sample_structures(
    config: SynthConfig, extent_mm: Sequence[float], scale: float, streams: RandomStreams
) -> tuple[Structure, ...]:
    """Draw the structures of one image. extent_mm: size of the window."""
    generator = streams("structures")
    if not happens(generator, config.structures_probability):
        return ()
    number = whole_number(generator, *config.structures)
    return tuple(_sample_structure(config, extent_mm, scale, generator) for _ in range(number))


def _sample_structure(
    config: SynthConfig, extent_mm: Sequence[float], scale: float, generator: torch.Generator
) -> Structure:
    """One structure: a shell, a sheet or a body."""
    field = random_field(extent_mm, log_uniform(generator, *config.structures_spacing_mm) * scale, generator)
    intensity = uniform(generator, 0, 1)
    if happens(generator, config.shell_probability):
        uneven_mm = uniform(generator, *config.shell_uneven_mm) * scale
        depth_mm = uniform(generator, *config.shell_depth_mm) * scale + uneven_mm * field
        half_mm = uniform(generator, *config.shell_half_width_mm) * scale
        return Structure(depth_mm, (-half_mm, half_mm), intensity, is_shell=True)
    if happens(generator, config.sheet_probability):
        half = uniform(generator, *config.sheet_half_width)
        return Structure(field, (-half, half), intensity)
    return Structure(field, (uniform(generator, *config.structures_least), math.inf), intensity)


def add_structures(image: torch.Tensor, source: LabelMap, drawn: Sequence[Structure]) -> torch.Tensor:
    """The image [X, Y, Z] of a label map with the structures in its brain; later ones lie over earlier ones."""
    for structure in drawn:
        values = enlarge(structure.field.to(image.device), source.labels.shape)[0, 0]
        if structure.is_shell:
            values = source.depth_mm - values
        low, high = structure.between
        within = (values > low) & (values < high) & (source.brain > 0)
        image = torch.where(within, structure.intensity, image)
    return image
