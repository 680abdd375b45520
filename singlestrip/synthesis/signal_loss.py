"""Places without signal: above the sinuses and ear canals in echo-planar images, and around metal such as clips.

Signal that is lost in a place may pile up around it. The brain that cannot be seen there stays brain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..configuration import SynthConfig
from .blobs import Blob, Place, centre_of, distance_in_radii, offsets_mm, sample_blob, sample_direction
from .label_map import LabelMap
from .streams import RandomStreams, happens, log_uniform, uniform, whole_number


@dataclass(frozen=True)
class Void:
    """loss: share of the signal that is lost inside; edge: radii over which it comes back; pile_up: share that is
    gained just outside."""

    blob: Blob
    loss: float
    edge: float
    pile_up: float


def sample_voids(config: SynthConfig, scale: float, streams: RandomStreams) -> tuple[Void, ...]:
    """Draw where one image loses signal: nowhere in most."""
    generator = streams("voids")
    if not happens(generator, config.void_probability):
        return ()
    return tuple(_sample_void(config, scale, generator) for _ in range(whole_number(generator, *config.voids)))


def _sample_void(config: SynthConfig, scale: float, generator: torch.Generator) -> Void:
    direction = sample_direction(generator)
    if happens(generator, config.void_base_probability):
        direction[2] = -direction[2].abs()
    inset_mm = uniform(generator, *config.void_inset_mm) * scale
    radius_mm = log_uniform(generator, *config.void_radius_mm) * scale
    blob = sample_blob(
        Place(direction, 1.0, inset_mm), radius_mm, config.void_stretch, config.void_uneven, None, generator
    )
    loss = uniform(generator, *config.void_loss)
    return Void(blob, loss, uniform(generator, *config.void_edge), uniform(generator, *config.void_pile_up))


def lose_signal(image: torch.Tensor, source: LabelMap, drawn: Sequence[Void], at: torch.Tensor) -> torch.Tensor:
    """An image [1, X, Y, Z] without the signal of its voids; see `lesions.add_lesions`."""
    for void in drawn:
        distance = distance_in_radii(void.blob, offsets_mm(source, at, centre_of(void.blob.place, source)))
        inside = torch.sigmoid((1 - distance) / (void.edge / 4))
        around = torch.exp(-((distance - 1 - void.edge) / void.edge).square())
        image = image * (1 - void.loss * inside) * (1 + void.pile_up * around * (1 - inside))
    return image
