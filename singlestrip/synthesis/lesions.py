"""Lesions that the labelled scan does not have: tumours, oedema, bleeding, infarcts, and cavities left by surgery.

They lie anywhere in the brain or at its border, across furrows. A lesion pushes the tissue around it aside. A
cavity holds fluid and may be open to the fluid around the brain. All of it stays brain for the networks. Tumours
made by hand for training: Hu et al., CVPR 2023, arXiv 2303.14869. With a bank of lesions found in scans, some have
the shape and the texture of one of these, as in the second stage of that work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..configuration import SynthConfig
from .blobs import (
    Blob,
    Place,
    box_near,
    centre_of,
    distance_in_radii,
    field_at,
    half_sides_mm,
    offsets_mm,
    reach_mm,
    sample_blob,
    sample_direction,
    sample_rotation,
)
from .found_lesions import FoundLesion, LesionBank
from .label_map import LabelMap
from .streams import RandomStreams, happens, log_uniform, uniform, whole_number
from .surroundings import away_mm

PUSH_REACH = 4.0  # of `Lesion.push_mm`: what lies further is not pushed


@dataclass(frozen=True)
class Zone:
    """All of a lesion from so many radii inward. opacity: share of its intensity; the rest is what lies below."""

    radii: float
    intensity: float
    opacity: float


@dataclass(frozen=True)
class Lesion:
    """zones: from the outermost inward, each over those before; none to push the tissue aside alone.

    texture: [1, 1, z, y, x], a field of the blob that is added to their intensity, None if nothing is. push: share
    by which the tissue in the middle is drawn apart; push_mm: how far from the centre that reaches. open_mm: the
    fluid of a cavity lies so far above the brain too; 0 if it does not.
    """

    blob: Blob
    zones: tuple[Zone, ...]
    texture: torch.Tensor | None
    push: float
    push_mm: float
    open_mm: float


def sample_lesions(
    config: SynthConfig, scale: float, streams: RandomStreams, bank: LesionBank | None = None
) -> tuple[Lesion, ...]:
    """Draw the lesions of one image: none in most. bank: lesions found in scans, which take the place of some."""
    generator = streams("lesions")
    if not happens(generator, config.lesion_probability):
        return ()
    drawn = [_sample_lesion(config, scale, generator) for _ in range(whole_number(generator, *config.lesions))]
    if bank is not None:
        generator = streams("found lesions")
        for number in range(len(drawn)):
            if happens(generator, config.found_lesion_probability):
                drawn[number] = _sample_lesion(config, scale, generator, bank.draw(generator))
    return tuple(drawn)


def _sample_lesion(
    config: SynthConfig, scale: float, generator: torch.Generator, found: FoundLesion | None = None
) -> Lesion:
    """A lesion with the shape and texture of one found in a scan, None to make both by hand."""
    blob, radius_mm = (
        _sample_made_blob(config, scale, generator)
        if found is None
        else _sample_found_blob(config, found, generator)
    )
    push = uniform(generator, *config.lesion_push)
    push_mm = radius_mm * uniform(generator, *config.lesion_push_reach)
    if happens(generator, config.cavity_probability):
        fluid = Zone(1.0, uniform(generator, *config.lesion_intensity), 1.0)
        open_mm = uniform(generator, *config.cavity_open_mm) * scale
        return Lesion(blob, (fluid,), None, 0.0, push_mm, open_mm)
    zones = _sample_zones(config, generator)
    texture = (
        _sample_made_texture(config, generator)
        if found is None
        else _sample_gain(config, generator) * found.texture
    )
    return Lesion(blob, zones, texture, push, push_mm, 0.0)


def _sample_made_blob(config: SynthConfig, scale: float, generator: torch.Generator) -> tuple[Blob, float]:
    """A blob made by hand, and the radius in mm of a ball of about its volume."""
    radius_mm = log_uniform(generator, *config.lesion_radius_mm) * scale
    faces = config.lesion_faces if happens(generator, config.lesion_faces_probability) else None
    place = _sample_place(config, radius_mm, generator)
    blob = sample_blob(place, radius_mm, config.lesion_stretch, config.lesion_uneven, faces, generator)
    return blob, radius_mm


def _sample_found_blob(config: SynthConfig, found: FoundLesion, generator: torch.Generator) -> tuple[Blob, float]:
    """The blob of a found lesion, turned and perhaps mirrored, and the radius in mm of a ball of its volume."""
    radius_mm = found.radius_mm * log_uniform(generator, *config.found_lesion_size)
    place = _sample_place(config, radius_mm, generator)
    turn = sample_rotation(generator)
    if happens(generator, 0.5):
        turn = turn * torch.tensor([-1.0, 1.0, 1.0])
    return found.blob(place, turn / radius_mm), radius_mm


def _sample_made_texture(config: SynthConfig, generator: torch.Generator) -> torch.Tensor:
    """A texture made by hand, [1, 1, z, y, x]."""
    points = whole_number(generator, *config.lesion_texture_points)
    texture = torch.randn(1, 1, points, points, points, generator=generator)
    return uniform(generator, *config.lesion_texture) * texture


def _sample_gain(config: SynthConfig, generator: torch.Generator) -> float:
    """What the texture of a found lesion is multiplied by: dark and bright change places half of the time."""
    gain = uniform(generator, *config.found_lesion_gain)
    return gain if happens(generator, 0.5) else -gain


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
        centre_mm = centre_of(lesion.blob.place, source)
        box = box_near(source, at, centre_mm, PUSH_REACH * lesion.push_mm) if lesion.push else None
        if box is not None:
            part = at[0][box][None]
            offsets = offsets_mm(source, part, centre_mm)
            nearness = torch.exp(-offsets.square().sum(-1, keepdim=True) / lesion.push_mm**2)
            at = at.clone()
            at[0][box] = part[0] - (lesion.push * nearness * offsets).flip(-1)[None] / half_sides_mm(
                source, at.device
            )
    return at


def add_lesions(
    image: torch.Tensor, brain: torch.Tensor, source: LabelMap, drawn: Sequence[Lesion], at: torch.Tensor
) -> torch.Tensor:
    """An image [1, X, Y, Z] with lesions in its brain.

    brain: [1, X, Y, Z], share of each voxel that is brain. at: [1, X, Y, Z, 3], where the voxels lie in the label
    map, in the coordinates of grid_sample.
    """
    for lesion in drawn:
        if not lesion.zones:
            continue
        centre_mm = centre_of(lesion.blob.place, source)
        box = box_near(source, at, centre_mm, reach_mm(lesion.blob, max(zone.radii for zone in lesion.zones)))
        if box is not None:
            image = image.clone()
            image[0][box] = _painted(image[0][box], brain[0][box], source, lesion, at[0][box][None], centre_mm)
    return image


def _painted(
    image: torch.Tensor,
    brain: torch.Tensor,
    source: LabelMap,
    lesion: Lesion,
    at: torch.Tensor,
    centre_mm: torch.Tensor,
) -> torch.Tensor:
    """Part of an image [x, y, z] with a lesion. at: [1, x, y, z, 3], see `add_lesions`; centre_mm: its middle."""
    offsets = offsets_mm(source, at, centre_mm)
    distance = distance_in_radii(lesion.blob, offsets)
    if lesion.open_mm:
        brain = torch.where(away_mm(source, at)[0] < lesion.open_mm, 1.0, brain)
    texture = torch.zeros((), device=image.device)
    if lesion.texture is not None:
        texture = field_at(lesion.blob, lesion.texture, offsets @ lesion.blob.to_unit.to(image.device))
    for zone in lesion.zones:
        share = zone.opacity * (distance < zone.radii) * brain
        image = image + share * (zone.intensity + texture - image)
    return image
