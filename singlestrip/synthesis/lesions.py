"""Lesions that the labelled scan does not have: tumours, oedema, bleeding, infarcts, and cavities left by surgery.

They lie anywhere in the brain or at its border, across furrows. A lesion pushes the tissue around it aside. A
cavity holds fluid and may be open to the fluid around the brain. All of it stays brain for the networks. Tumours
made by hand for training: Hu et al., CVPR 2023, arXiv 2303.14869.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..configuration import SynthConfig
from .blobs import (
    Blob,
    Place,
    centre_of,
    distance_in_radii,
    field_at,
    half_sides_mm,
    offsets_mm,
    sample_blob,
    sample_direction,
)
from .label_map import LabelMap
from .streams import RandomStreams, happens, log_uniform, uniform, whole_number
from .surroundings import away_mm


@dataclass(frozen=True)
class Zone:
    """All of a lesion from so many radii inward. opacity: share of its intensity; the rest is what lies below."""

    radii: float
    intensity: float
    opacity: float


@dataclass(frozen=True)
class Lesion:
    """zones: from the outermost inward, each over those before.

    texture: [1, 1, x, y, z], what is added to their intensity, None if nothing is. push: share by which the
    tissue in the middle is drawn apart; push_mm: how far from the centre that reaches. open_mm: the fluid of a
    cavity lies so far above the brain too; 0 if it does not.
    """

    blob: Blob
    zones: tuple[Zone, ...]
    texture: torch.Tensor | None
    push: float
    push_mm: float
    open_mm: float


def sample_lesions(config: SynthConfig, scale: float, streams: RandomStreams) -> tuple[Lesion, ...]:
    """Draw the lesions of one image: none in most."""
    generator = streams("lesions")
    if not happens(generator, config.lesion_probability):
        return ()
    return tuple(_sample_lesion(config, scale, generator) for _ in range(whole_number(generator, *config.lesions)))


def _sample_lesion(config: SynthConfig, scale: float, generator: torch.Generator) -> Lesion:
    radius_mm = log_uniform(generator, *config.lesion_radius_mm) * scale
    faces = config.lesion_faces if happens(generator, config.lesion_faces_probability) else None
    place = _sample_place(config, radius_mm, generator)
    blob = sample_blob(place, radius_mm, config.lesion_stretch, config.lesion_uneven, faces, generator)
    push = uniform(generator, *config.lesion_push)
    push_mm = radius_mm * uniform(generator, *config.lesion_push_reach)
    if happens(generator, config.cavity_probability):
        fluid = Zone(1.0, uniform(generator, *config.lesion_intensity), 1.0)
        open_mm = uniform(generator, *config.cavity_open_mm) * scale
        return Lesion(blob, (fluid,), None, 0.0, push_mm, open_mm)
    zones = _sample_zones(config, generator)
    points = whole_number(generator, *config.lesion_texture_points)
    texture = torch.randn(1, 1, points, points, points, generator=generator)
    return Lesion(blob, zones, uniform(generator, *config.lesion_texture) * texture, push, push_mm, 0.0)


def _sample_place(config: SynthConfig, radius_mm: float, generator: torch.Generator) -> Place:
    """At the border of the brain, or anywhere on the way there."""
    direction = sample_direction(generator)
    if happens(generator, config.lesion_border_probability):
        return Place(direction, 1.0, radius_mm * uniform(generator, *config.lesion_inset))
    return Place(direction, uniform(generator, 0, 1), radius_mm)


def _sample_zones(config: SynthConfig, generator: torch.Generator) -> tuple[Zone, ...]:
    """Oedema around some lesions, then the lesion, then the core of some."""

    def zone(radii: float) -> Zone:
        return Zone(
            radii, uniform(generator, *config.lesion_intensity), uniform(generator, *config.lesion_opacity)
        )

    zones = [zone(1.0)]
    if happens(generator, config.oedema_probability):
        zones.insert(0, zone(uniform(generator, *config.oedema_radii)))
    if happens(generator, config.core_probability):
        zones.append(zone(uniform(generator, *config.core_radii)))
    return tuple(zones)


def push_aside(at: torch.Tensor, source: LabelMap, drawn: Sequence[Lesion]) -> torch.Tensor:
    """Points [1, X, Y, Z, 3] in a label map, in the coordinates of grid_sample, drawn to the centres of lesions.

    What is painted there is larger in the image by that, and what lies around is pushed away from it.
    """
    for lesion in drawn:
        if lesion.push:
            offsets = offsets_mm(source, at, centre_of(lesion.blob.place, source))
            nearness = torch.exp(-offsets.square().sum(-1, keepdim=True) / lesion.push_mm**2)
            at = at - (lesion.push * nearness * offsets).flip(-1)[None] / half_sides_mm(source, at.device)
    return at


def add_lesions(
    image: torch.Tensor, brain: torch.Tensor, source: LabelMap, drawn: Sequence[Lesion], at: torch.Tensor
) -> torch.Tensor:
    """An image [1, X, Y, Z] with lesions in its brain.

    brain: [1, X, Y, Z], share of each voxel that is brain. at: [1, X, Y, Z, 3], where the voxels lie in the label
    map, in the coordinates of grid_sample.
    """
    for lesion in drawn:
        offsets = offsets_mm(source, at, centre_of(lesion.blob.place, source))
        distance = distance_in_radii(lesion.blob, offsets)
        where = brain
        if lesion.open_mm:
            where = torch.where(away_mm(source, at) < lesion.open_mm, 1.0, brain)
        texture = torch.zeros((), device=image.device)
        if lesion.texture is not None:
            texture = field_at(lesion.texture, offsets @ lesion.blob.to_unit.to(image.device))
        for zone in lesion.zones:
            share = zone.opacity * (distance < zone.radii) * where
            image = image + share * (zone.intensity + texture - image)
    return image
