"""Faults planted in a mask: what skull-stripping gets wrong, for the quality network to mend.

A mask is its signed distance in mm, negative inside, so that every fault is a sum, a minimum
(union) or a maximum (intersection).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..configuration import FaultConfig
from ..synthesis.fields import along_axes, enlarge, profile_matrices, random_field
from ..synthesis.streams import RandomStreams, happens, log_uniform, uniform, whole_number

Axes = list[torch.Tensor]  # mm from the middle along each


def _sample_direction(generator: torch.Generator) -> torch.Tensor:
    """A unit vector [3], any as likely."""
    vector = torch.randn(3, generator=generator)
    return vector / vector.norm()


def _sample_plane(axes_mm: Axes, offset_mm: float, generator: torch.Generator) -> torch.Tensor:
    """Signed distance [X, Y, Z] to a plane in a random direction, `offset_mm` from the middle."""
    direction = _sample_direction(generator).tolist()
    x, y, z = (part * along for part, along in zip(direction, axes_mm, strict=True))
    return (x[:, None, None] - offset_mm) + y[:, None] + z


def _sample_ellipsoid(
    axes_mm: Axes, config: FaultConfig, scale: float, generator: torch.Generator
) -> tuple[tuple[slice, ...], torch.Tensor]:
    """A random ellipsoid: the box it lies in, as slices, and about the signed distance to it there."""
    radii = [log_uniform(generator, *config.radius_mm) * scale for _ in range(3)]
    reach = config.reach_mm * scale * uniform(generator, 0, 1) ** (1 / 3)  # as often in each part of a ball
    centre = (_sample_direction(generator) * reach).tolist()
    box, squares = [], []
    for along, middle, radius in zip(axes_mm, centre, radii, strict=True):
        near = ((along - middle).abs() <= radius).nonzero().flatten()
        box.append(slice(int(near[0]), int(near[-1]) + 1) if len(near) else slice(0, 0))
        squares.append(((along[box[-1]] - middle) / radius).square())
    x, y, z = squares
    inside = (x[:, None, None] + y[:, None] + z).sqrt()
    return tuple(box), (inside - 1) * min(radii)


def _blurred(distance: torch.Tensor, axes_mm: Axes, sigma_mm: float) -> torch.Tensor:
    """A distance [X, Y, Z] blurred by a Gaussian."""
    blur = [
        profile_matrices(len(along), float(along[1] - along[0]), torch.tensor([sigma_mm]), torch.zeros(1))
        for along in axes_mm
    ]
    return along_axes(distance[None], [matrix.to(distance.device) for matrix in blur])[0]


def _plant(
    distance: torch.Tensor, axes_mm: Axes, config: FaultConfig, scale: float, streams: RandomStreams
) -> torch.Tensor:
    """Random faults in the signed distance [X, Y, Z] of one mask."""
    result = distance.clone()
    generator = streams("smooth")
    if happens(generator, config.smooth_probability):
        result = _blurred(result, axes_mm, uniform(generator, 0, config.smooth_mm * scale))
    result = _moved_unevenly(result, axes_mm, config, scale, streams("uneven"))
    generator = streams("offset")
    if happens(generator, config.offset_probability):
        result += uniform(generator, -config.offset_mm, config.offset_mm) * scale
    result = _with_shell(result, distance, axes_mm, config, scale, streams("shell"))
    for name, most, sign in (("added", config.added, 1), ("removed", config.removed, -1)):
        generator = streams(name)
        for _ in range(whole_number(generator, 0, most)):
            box, inside = _sample_ellipsoid(axes_mm, config, scale, generator)
            join = torch.minimum if sign > 0 else torch.maximum
            result[box] = join(result[box], sign * inside)
    generator = streams("cut")
    if happens(generator, config.cut_probability):
        offset_mm = uniform(generator, *config.cut_mm) * scale
        result = torch.maximum(result, _sample_plane(axes_mm, offset_mm, generator))
    return result


def _moved_unevenly(
    distance: torch.Tensor, axes_mm: Axes, config: FaultConfig, scale: float, generator: torch.Generator
) -> torch.Tensor:
    """A distance plus a smooth random field, in some masks."""
    if not happens(generator, config.uneven_probability):
        return distance
    spacing_mm = log_uniform(generator, *config.uneven_spacing_mm) * scale
    deviation_mm = uniform(generator, 0, config.uneven_mm * scale)
    field = random_field([float(along[-1] - along[0]) for along in axes_mm], spacing_mm, generator)
    return distance + deviation_mm * enlarge(field.to(distance.device), distance.shape)[0, 0]


def _with_shell(
    faulty: torch.Tensor,
    distance: torch.Tensor,
    axes_mm: Axes,
    config: FaultConfig,
    scale: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """A faulty mask, in some cases with part of a layer around the brain. distance: of the mask without faults."""
    if not happens(generator, config.shell_probability):
        return faulty
    middle_mm = uniform(generator, *config.shell_distance_mm) * scale
    half_mm = uniform(generator, *config.shell_half_width_mm) * scale
    offset_mm = uniform(generator, -config.shell_plane_mm, config.shell_plane_mm) * scale
    part = _sample_plane(axes_mm, offset_mm, generator)
    return torch.minimum(faulty, torch.maximum((distance - middle_mm).abs() - half_mm, part))


def plant_faults(
    distance: torch.Tensor,
    voxel_size_mm: float | Sequence[float],
    config: FaultConfig,
    scale: float,
    streams: Sequence[RandomStreams],
) -> torch.Tensor:
    """Random faults in signed distances [B, X, Y, Z] mm; the same streams plant the same.

    voxel_size_mm: along all axes or along each. scale: size of the anatomy over that of an adult human head.
    streams: of each sample. Samples that
    happen to stay clean, or would lose all of their mask, come back as they were.
    """
    sizes = (voxel_size_mm,) * 3 if isinstance(voxel_size_mm, float) else voxel_size_mm
    axes_mm = [
        (torch.arange(n, device=distance.device) - (n - 1) / 2) * size
        for n, size in zip(distance.shape[1:], sizes, strict=True)
    ]
    result = []
    for clean, sample in zip(distance, streams, strict=True):
        if happens(sample("clean"), config.clean_probability):
            result.append(clean)
            continue
        faulty = _plant(clean, axes_mm, config, scale, sample)
        result.append(faulty if bool((faulty < 0).any()) else clean)
    return torch.stack(result)
