"""Faults planted in a mask: what skull-stripping gets wrong, for the quality network to mend.

A mask is its signed distance in mm, negative inside, so that every fault is a sum, a minimum
(union) or a maximum (intersection).
"""

from __future__ import annotations

import math

import torch

from ..configuration import FaultConfig
from ..synthesis.fields import along_axes, enlarge, profile_matrices


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(1, generator=generator))


def _direction(generator: torch.Generator) -> torch.Tensor:
    vector = torch.randn(3, generator=generator)
    return vector / vector.norm()


def _plane(axes_mm: list[torch.Tensor], offset_mm: float, g: torch.Generator) -> torch.Tensor:
    """Signed distance [X, Y, Z] to a plane in a random direction, `offset_mm` from the middle."""
    x, y, z = (part * along for part, along in zip(_direction(g).tolist(), axes_mm, strict=True))
    return (x[:, None, None] - offset_mm) + y[:, None] + z


def _ellipsoid(axes_mm: list[torch.Tensor], config: FaultConfig, scale: float, g: torch.Generator):
    """A random ellipsoid: the box it lies in, as slices, and about the signed distance to it there."""
    low, high = (math.log(r * scale) for r in config.radius_mm)
    radii = torch.exp(low + (high - low) * torch.rand(3, generator=g)).tolist()
    reach = config.reach_mm * scale * _uniform(g, 0, 1) ** (1 / 3)
    centre = (_direction(g) * reach).tolist()
    box, squares = [], []
    for along, middle, radius in zip(axes_mm, centre, radii, strict=True):
        near = ((along - middle).abs() <= radius).nonzero().flatten()
        box.append(slice(int(near[0]), int(near[-1]) + 1) if len(near) else slice(0, 0))
        squares.append(((along[box[-1]] - middle) / radius).square())
    x, y, z = squares
    inside = (x[:, None, None] + y[:, None] + z).sqrt()
    return tuple(box), (inside - 1) * min(radii)


def _one(distance: torch.Tensor, axes_mm, config: FaultConfig, scale: float, g: torch.Generator) -> torch.Tensor:
    def happens(probability: float) -> bool:
        return _uniform(g, 0, 1) < probability

    result = distance.clone()
    if happens(config.smooth_probability):
        sigma_mm = torch.tensor([_uniform(g, 0, config.smooth_mm * scale)])
        sides = [
            profile_matrices(len(along), float(along[1] - along[0]), sigma_mm, torch.zeros(1)) for along in axes_mm
        ]
        result = along_axes(result[None], [side.to(result.device) for side in sides])[0]
    if happens(config.uneven_probability):
        low, high = (math.log(s) for s in config.uneven_spacing_mm)
        spacing = scale * math.exp(_uniform(g, low, high))
        points = [max(2, round(float(along[-1] - along[0]) / spacing) + 1) for along in axes_mm]
        field = torch.randn(1, 1, *points, generator=g).to(distance.device)
        result += _uniform(g, 0, config.uneven_mm * scale) * enlarge(field, distance.shape)[0, 0]
    if happens(config.offset_probability):
        result += _uniform(g, -config.offset_mm, config.offset_mm) * scale
    if happens(config.shell_probability):
        middle = _uniform(g, *config.shell_distance_mm) * scale
        half = _uniform(g, *config.shell_half_width_mm) * scale
        part = _plane(axes_mm, _uniform(g, -60, 60) * scale, g)
        result = torch.minimum(result, torch.maximum((distance - middle).abs() - half, part))
    for most, sign in ((config.added, 1), (config.removed, -1)):
        for _ in range(int(torch.randint(most + 1, (1,), generator=g))):
            box, inside = _ellipsoid(axes_mm, config, scale, g)
            join = torch.minimum if sign > 0 else torch.maximum
            result[box] = join(result[box], sign * inside)
    if happens(config.cut_probability):
        result = torch.maximum(result, _plane(axes_mm, _uniform(g, *config.cut_mm) * scale, g))
    return result


def plant_faults(
    distance: torch.Tensor, voxel_size_mm: float, config: FaultConfig, scale: float, generator: torch.Generator
) -> torch.Tensor:
    """Random faults in signed distances [B, X, Y, Z] mm; the same state of the generator plants the same.

    scale: size of the anatomy over that of an adult human head. Samples that happen to stay clean,
    or would lose all of their mask, come back as they were.
    """
    axes_mm = [(torch.arange(n, device=distance.device) - (n - 1) / 2) * voxel_size_mm for n in distance.shape[1:]]
    result = []
    for each in distance:
        faulty = each
        if _uniform(generator, 0, 1) >= config.clean_probability:
            faulty = _one(each, axes_mm, config, scale, generator)
        result.append(faulty if bool((faulty < 0).any()) else each)
    return torch.stack(result)
