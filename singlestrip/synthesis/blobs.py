"""Uneven bodies of random place and size near the brain's surface or below: shapes of lesions and signal voids."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation

from .label_map import LabelMap
from .streams import uniform, whole_number

REACH = 2.0  # radii from the centre up to which the fields of a blob are known; they go on as they are there
FIELD_POINTS = (5, 11)  # control points of a blob's field along each axis


@dataclass(frozen=True)
class Place:
    """Where a blob lies, on a ray from the middle of the brain.

    direction: [3], of length 1. share: of the way to the surface; inset_mm: so much less than that.
    """

    direction: torch.Tensor
    share: float
    inset_mm: float


@dataclass(frozen=True)
class Blob:
    """A body with an uneven surface.

    to_unit: [3, 3], mm to radii along its axes; normals: [3, N] of its faces, None if it is round; uneven: how far
    its surface moves, in radii, for each standard deviation of the field [1, 1, x, y, z].
    """

    place: Place
    to_unit: torch.Tensor
    normals: torch.Tensor | None
    uneven: float
    field: torch.Tensor


def sample_direction(generator: torch.Generator) -> torch.Tensor:
    """[3], of length 1, any direction as likely as any other."""
    direction = torch.randn(3, generator=generator)
    return direction / direction.norm()


def sample_blob(
    place: Place,
    radius_mm: float,
    stretch: float,
    uneven: tuple[float, float],
    faces: tuple[int, int] | None,
    generator: torch.Generator,
) -> Blob:
    """Draw the shape of a blob.

    radius_mm: of a ball of about its volume. stretch: ± of the logarithm of each half axis. uneven: range of
    `Blob.uneven`. faces: range of their number; None for a round blob.
    """
    axes = torch.tensor([math.exp(uniform(generator, -stretch, stretch)) for _ in range(3)])
    angles = [uniform(generator, -math.pi, math.pi) for _ in range(3)]
    rotation = torch.from_numpy(Rotation.from_euler("xyz", angles).as_matrix()).float()
    normals = None
    if faces is not None:
        normals = torch.randn(3, whole_number(generator, *faces), generator=generator)
        normals = normals / normals.norm(dim=0)
    points = whole_number(generator, *FIELD_POINTS)
    field = torch.randn(1, 1, points, points, points, generator=generator)
    return Blob(place, rotation / (radius_mm * axes), normals, uniform(generator, *uneven), field)


def surface_mm(source: LabelMap, direction: torch.Tensor) -> float:
    """How far from the middle of the brain a ray last leaves the brain of a label map."""
    size = torch.tensor(source.labels.shape)
    steps_mm = torch.arange(int(size.max())) * source.spacing_mm
    at = source.brain_mm + steps_mm[:, None] * direction
    index = (at / source.spacing_mm + (size - 1) / 2).round().long()
    within = ((index >= 0) & (index < size)).all(1)
    brain = source.brain[tuple(index[within].T.to(source.brain.device))] > 0
    return float((steps_mm[within] * brain.cpu()).max())


def centre_of(place: Place, source: LabelMap) -> torch.Tensor:
    """[3] mm from the middle of a label map."""
    from_middle_mm = place.share * surface_mm(source, place.direction) - place.inset_mm
    return source.brain_mm + max(from_middle_mm, 0.0) * place.direction


def half_sides_mm(source: LabelMap, device: torch.device) -> torch.Tensor:
    """[3], last axis first: what turns the coordinates of grid_sample into mm from the middle of the map."""
    return torch.tensor(source.labels.shape[::-1], device=device) * source.spacing_mm / 2


def offsets_mm(source: LabelMap, at: torch.Tensor, centre_mm: torch.Tensor) -> torch.Tensor:
    """[X, Y, Z, 3] from a centre [3] to points [1, X, Y, Z, 3] in the coordinates of grid_sample."""
    return (at[0] * half_sides_mm(source, at.device)).flip(-1) - centre_mm.to(at.device)


def distance_in_radii(blob: Blob, offsets: torch.Tensor) -> torch.Tensor:
    """[X, Y, Z], 0 at the centre of a blob and 1 at its surface. offsets: [X, Y, Z, 3] mm from its centre."""
    unit = offsets @ blob.to_unit.to(offsets.device)
    if blob.normals is None:
        distance = unit.norm(dim=-1)
    else:
        distance = (unit @ blob.normals.to(offsets.device)).max(dim=-1).values
    return distance + blob.uneven * field_at(blob.field, unit)


def field_at(field: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """[X, Y, Z]: a blob's field [1, 1, x, y, z] at points [X, Y, Z, 3] in radii from its centre."""
    at = unit[None] / REACH
    return F.grid_sample(field.to(unit.device), at, padding_mode="border", align_corners=True)[0, 0]
