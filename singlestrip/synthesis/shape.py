"""Shape and pose of a subject: a random affine and a smooth deformation that does not fold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from ..configuration import ShapeConfig, Window
from .fields import enlarge, integrate, random_field
from .shape_bank import Deformation, ShapeBank
from .streams import RandomStreams, happens, log_uniform, uniform, whole_number


@dataclass(frozen=True)
class Shape:
    """Where a window lies in the anatomy.

    affine: [4, 4] window mm to the anatomy's mm, both from the middle of the brain; velocity: for each spacing of
    control points a field [1, 3, x, y, z] in mm over the window, whose sum is integrated; person: from the anatomy
    of another person, drawn from a bank of shapes, to that of the label map, None for the label map's own.
    """

    affine: torch.Tensor
    velocity: tuple[torch.Tensor, ...]
    person: Deformation | None = None

    @property
    def is_mirrored(self) -> bool:
        """Whether left and right change places."""
        return bool(torch.linalg.det(self.affine[:3, :3]) < 0)

    @property
    def brain_mm(self) -> torch.Tensor:
        """[3] where the middle of the brain lies in the window, but for the smooth deformation."""
        return -torch.linalg.solve(self.affine[:3, :3], self.affine[:3, 3])


def sample_shape(
    config: ShapeConfig, window: Window, scale: float, streams: RandomStreams, bank: ShapeBank | None = None
) -> Shape:
    """Draw the shape of one subject.

    scale: size of the anatomy over that of an adult human head; bank: shapes of other people, if there are any.
    """
    velocity = []
    for number, (spacing, most) in enumerate(zip(config.warp_spacing_mm, config.warp_mm, strict=True)):
        generator = streams(f"warp {number}")
        amplitude = uniform(generator, 0, most * scale)
        velocity.append(amplitude * random_field(window.extent_mm, spacing * scale, generator, channels=3))
    person = None if bank is None else bank.draw(streams("person"))
    return Shape(_sample_affine(config, window, streams), tuple(velocity), person)


def _sample_affine(config: ShapeConfig, window: Window, streams: RandomStreams) -> torch.Tensor:
    """[4, 4] window mm to the anatomy's mm."""
    matrix = (
        _sample_rotation(config, streams)
        @ _sample_shear(config.shear, streams("shear"))
        @ np.diag(_sample_flip(config.flip_probability, streams("flip")) / _sample_size(config, streams))
    )
    generator = streams("jitter")
    jitter = [uniform(generator, -window.jitter_mm, window.jitter_mm) for _ in range(3)]
    affine = torch.eye(4)
    affine[:3, :3] = torch.from_numpy(matrix)
    affine[:3, 3] = torch.from_numpy(matrix @ jitter)
    return affine


def _sample_rotation(config: ShapeConfig, streams: RandomStreams) -> np.ndarray:
    """[3, 3]: about x, then y, then z, each by a small angle; for some heads then about one by any angle, and
    for some by right angles."""
    generator = streams("rotation")
    angles = [uniform(generator, -config.rotation_deg, config.rotation_deg) for _ in range(3)]
    rotation = Rotation.from_euler("xyz", angles, degrees=True)
    generator = streams("turn")
    if happens(generator, config.turn_probability):
        axis = "xyz"[whole_number(generator, 0, 2)]
        rotation = Rotation.from_euler(axis, uniform(generator, -math.pi, math.pi)) * rotation
    generator = streams("quarter turn")
    if happens(generator, config.quarter_turn_probability):
        right_angles = Rotation.create_group("O")
        rotation = right_angles[whole_number(generator, 0, len(right_angles) - 1)] * rotation
    return rotation.as_matrix()


def _sample_shear(most: float, generator: torch.Generator) -> np.ndarray:
    """[3, 3], the identity but for a share of `most` in each plane."""
    matrix = np.eye(3)
    for plane in ((0, 1), (0, 2), (1, 2)):
        matrix[plane] = uniform(generator, -most, most)
    return matrix


def _sample_flip(probability: float, generator: torch.Generator) -> np.ndarray:
    """[3] factors of the axes, of which the first is -1 where left and right change places."""
    return np.array([-1.0 if happens(generator, probability) else 1.0, 1.0, 1.0])


def _sample_size(config: ShapeConfig, streams: RandomStreams) -> np.ndarray:
    """[3] factors of size along the axes."""
    common, generator = log_uniform(streams("scaling"), *config.scaling), streams("anisotropy")
    return common * np.array([1 + uniform(generator, -config.anisotropy, config.anisotropy) for _ in range(3)])


def window_coordinates(
    window: Window,
    shapes: Sequence[Shape],
    device: torch.device | str,
    grid_from_mm: torch.Tensor | None = None,
) -> torch.Tensor:
    """Where each voxel of a window lies in the anatomy: [B, X, Y, Z, 3] mm from the middle of the brain.

    With grid_from_mm [B, 4, 4], in the coordinates of grid_sample in each anatomy's grid, last axis first.
    """
    # The field is integrated at 1/4 resolution: its finest control points are further apart still.
    coarse = [max(4, n // 4) for n in window.shape]
    scales = zip(*(shape.velocity for shape in shapes), strict=True)
    fields = (enlarge(torch.cat(field).to(device), coarse) for field in scales)
    velocity = sum(fields, start=torch.zeros(()))
    moved = enlarge(integrate(velocity, window.extent_mm), window.shape)
    for axis, n in enumerate(window.shape):
        along = (torch.arange(n, device=device) - (n - 1) / 2) * window.voxel_size_mm
        moved[:, axis] += along.view([-1 if k == axis else 1 for k in range(3)])
    affine = torch.stack([shape.affine for shape in shapes])
    at = moved.flatten(2)
    if any(shape.person for shape in shapes):
        # People differ in the anatomy's own space, before the grid's coordinates.
        at = _apply(affine, at)
        each = zip(shapes, at.split(1), strict=True)
        at = torch.cat([points if shape.person is None else shape.person.move(points) for shape, points in each])
        affine = torch.eye(4).expand_as(affine)
    if grid_from_mm is not None:
        affine = (grid_from_mm @ affine)[:, [2, 1, 0, 3]]
    return _apply(affine, at).unflatten(2, window.shape).permute(0, 2, 3, 4, 1)


def _apply(affine: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Points [B, 3, N] where affine maps [B, 4, 4] take them, on the device of the points."""
    affine = affine.to(points.device)
    return torch.baddbmm(affine[:, :3, 3:], affine[:, :3, :3], points)
