"""Fat that lies some voxels aside: its protons precess more slowly, which a scanner takes for another place."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..configuration import INSIDE_BASE, SynthConfig
from .class_intensities import CLASSES
from .label_map import LabelMap
from .streams import RandomStreams, happens, uniform, whole_number


@dataclass(frozen=True)
class FatShift:
    """is_fat: boolean [256], the classes that are fat; axis: of the label map; shift_mm: along it."""

    is_fat: torch.Tensor
    axis: int
    shift_mm: float


def sample_fat_shift(config: SynthConfig, scale: float, streams: RandomStreams) -> FatShift | None:
    """Draw how far the fat of one image lies aside, if it does. Fat is some of the outside classes."""
    generator = streams("fat shift")
    if not happens(generator, config.fat_shift_probability):
        return None
    is_fat = torch.rand(CLASSES, generator=generator) < uniform(generator, *config.fat_share)
    is_fat[0] = False
    is_fat[INSIDE_BASE + 1 :] = False
    direction = 1 if happens(generator, 0.5) else -1
    shift_mm = direction * uniform(generator, *config.fat_shift_mm) * scale
    return FatShift(is_fat, whole_number(generator, 0, 2), shift_mm)


def shift_fat(image: torch.Tensor, source: LabelMap, drawn: FatShift | None) -> torch.Tensor:
    """The image [X, Y, Z] of a label map with its fat moved by whole voxels, over what lies there."""
    voxels = 0 if drawn is None else round(drawn.shift_mm / source.spacing_mm)
    if drawn is None or voxels == 0:
        return image
    fat = image * drawn.is_fat.to(image.device).index_select(0, source.labels.flatten()).view_as(image)
    n = max(image.shape[drawn.axis] - abs(voxels), 0)
    here, there = (0, voxels) if voxels > 0 else (-voxels, 0)
    image = image - fat
    image.narrow(drawn.axis, min(there, image.shape[drawn.axis]), n).add_(
        fat.narrow(drawn.axis, min(here, image.shape[drawn.axis]), n)
    )
    return image
