"""Uneven bodies of random place and size near the brain's surface or below: shapes of lesions and signal voids."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation

from ..space.grid import Box
from .label_map import LabelMap
from .streams import uniform, whole_number

REACH = 2.0  # radii from the centre up to which the fields of a blob that is made are known
FIELD_POINTS = (5, 11)  # control points of a blob's field along each axis
FURTHEST = 1.5  # radii to which a body with few faces is bounded: by chance some are open on one side
COARSE = 3  # of so many voxels one is looked at to find what lies near a place


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
    its surface moves, in radii, for each standard deviation of the field [1, 1, z, y, x]. reach: how far from the
    centre the field is known, in radii, along all axes or [3] along each; it goes on as it is there.
    """

    place: Place
    to_unit: torch.Tensor
    normals: torch.Tensor | None
    uneven: float
    field: torch.Tensor
    reach: float | torch.Tensor = REACH


def sample_direction(generator: torch.Generator) -> torch.Tensor:
    """[3], of length 1, any direction as likely as any other."""
    direction = torch.randn(3, generator=generator)
    return direction / direction.norm()


def sample_rotation(generator: torch.Generator) -> torch.Tensor:
    """[3, 3]: a turn about all axes."""
    angles = [uniform(generator, -math.pi, math.pi) for _ in range(3)]
    return torch.from_numpy(Rotation.from_euler("xyz", angles).as_matrix()).float()


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
    rotation = sample_rotation(generator)
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


def box_near(source: LabelMap, at: torch.Tensor, centre_mm: torch.Tensor, reach_mm: float) -> Box | None:
    """A part of points [1, X, Y, Z, 3] that holds all within reach of a centre [3]; None if there are none.

    at: in the coordinates of grid_sample. Some of them are looked at; each point lies within 2/3 of the step from
    one of them to the next along each axis.
    """
    few = offsets_mm(source, at[:, ::COARSE, ::COARSE, ::COARSE], centre_mm)
    step_mm = sum(float(few.diff(dim=axis).norm(dim=-1).amax()) for axis in range(3) if few.shape[axis] > 1)
    near = few.norm(dim=-1) < reach_mm + 2 / 3 * step_mm
    box = []
    for axis in range(3):
        where = torch.nonzero(near.movedim(axis, 0).flatten(1).any(1))
        if len(where) == 0:
            return None
        box.append(slice(max((int(where[0]) - 1) * COARSE + 1, 0), (int(where[-1]) + 1) * COARSE))
    return tuple(box)


def reach_mm(blob: Blob, radii: float) -> float:
    """How far from the centre of a blob its distance may be below so many radii."""
    longest_mm = 1 / float(blob.to_unit.norm(dim=0).min())
    most = radii + blob.uneven * float(blob.field.abs().max())
    return longest_mm * most * (1.0 if blob.normals is None else FURTHEST)


def distance_in_radii(blob: Blob, offsets: torch.Tensor) -> torch.Tensor:
    """[X, Y, Z], 0 at the centre of a blob and 1 at its surface. offsets: [X, Y, Z, 3] mm from its centre."""
    unit = offsets @ blob.to_unit.to(offsets.device)
    distance = unit.norm(dim=-1)
    if blob.normals is not None:
        of_faces = (unit @ blob.normals.to(offsets.device)).amax(dim=-1)
        distance = torch.maximum(of_faces, distance / FURTHEST)
    return distance + blob.uneven * field_at(blob, blob.field, unit)


def field_at(blob: Blob, field: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """[X, Y, Z]: a field [1, 1, z, y, x] of a blob at points [X, Y, Z, 3] in radii from its centre."""
    at = unit[None] / torch.as_tensor(blob.reach, device=unit.device)
    return F.grid_sample(field.to(unit.device), at, padding_mode="border", align_corners=True)[0, 0]
