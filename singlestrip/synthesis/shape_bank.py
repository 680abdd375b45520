"""A bank of shapes: how the brains of other people differ from the one of a label map.

The differences are smooth velocity fields. Their mean and principal components make up the bank, and a random
mixture of these deforms the whole label map in synthesis: its border and its classes stay the labelled ones, and
only the anatomy varies as it does between people. `self_training.shapes` makes banks of masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..configuration import ShapeBankConfig
from .fields import enlarge, integrate


@dataclass(frozen=True, eq=False)
class Deformation:
    """A smooth map of space onto itself that does not fold.

    velocity: stationary field [1, 3, x, y, z] in mm, corners on the corners of a cube around the middle of the
    brain; extent_mm: side of that cube. Beyond the cube the displacement is that of the nearest point in it.
    """

    velocity: torch.Tensor
    extent_mm: float

    def move(self, points_mm: torch.Tensor) -> torch.Tensor:
        """Points [1, 3, N], mm from the middle of the brain, where the map takes them; on their device."""
        # Of linear fields between control points, the finer grid keeps the corners when they are integrated.
        finer = [2 * n - 1 for n in self.velocity.shape[2:]]
        velocity = enlarge(self.velocity.to(points_mm.device), finer)
        return points_mm + sample_field(integrate(velocity, (self.extent_mm,) * 3), points_mm, self.extent_mm)


def sample_field(field: torch.Tensor, points_mm: torch.Tensor, extent_mm: float) -> torch.Tensor:
    """The values [1, C, N] of a field [1, C, x, y, z] at points [1, 3, N], mm from its middle; beyond its corners,
    those of the nearest point in it. extent_mm: from corner to corner of the field along each axis."""
    at = (points_mm / (extent_mm / 2)).flip(1).transpose(1, 2)[:, :, None, None]
    return F.grid_sample(field, at, padding_mode="border", align_corners=True)[..., 0, 0]


@dataclass(frozen=True, eq=False)
class ShapeBank:
    """Velocity fields over a cube of `extent_mm` around the middle of a labelled brain, in mm.

    mean: [1, 3, x, y, z]; components: [K, 3, x, y, z], the principal components of people's fields, each as long
    as its standard deviation. Each field moves the points of a person onto the labelled brain.
    """

    mean: torch.Tensor
    components: torch.Tensor
    extent_mm: float

    @staticmethod
    def of(velocities: torch.Tensor, extent_mm: float, config: ShapeBankConfig = ShapeBankConfig()) -> ShapeBank:
        """The bank of the fields [N, 3, x, y, z] of N people. The labelled brain itself counts as one more, whose
        field is 0. Components that explain less than the rest of `config.variance` are left out."""
        fields = torch.cat([torch.zeros_like(velocities[:1]), velocities])
        mean = fields.mean(0, keepdim=True)
        _, lengths, directions = torch.linalg.svd((fields - mean).flatten(1), full_matrices=False)
        variance = lengths.square()
        before = variance.cumsum(0) - variance  # what the larger components explain
        kept = (before < config.variance * variance.sum()) & (lengths > 0)
        components = directions[kept] * (lengths[kept] / len(velocities) ** 0.5)[:, None]
        return ShapeBank(mean, components.unflatten(1, mean.shape[1:]), extent_mm)

    def draw(self, generator: torch.Generator, config: ShapeBankConfig = ShapeBankConfig()) -> Deformation:
        """The shape of one more person. The weights of the components are normal, and bounded so that no shape
        lies far beyond those of the bank."""
        weights = torch.randn(len(self.components), generator=generator)
        weights = weights.clamp(-config.largest_weight, config.largest_weight)
        velocity = self.mean + torch.tensordot(weights, self.components, dims=1)
        return Deformation(velocity, self.extent_mm)
