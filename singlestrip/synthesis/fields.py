"""Smooth random fields on coarse grids, and linear maps along the axes of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def random_field(
    extent_mm: Sequence[float], spacing_mm: float, generator: torch.Generator, channels: int = 1
) -> torch.Tensor:
    """[1, channels, x, y, z] of unit variance at control points about `spacing_mm` apart, two at least along each
    axis. The corners of the grid lie at the corners of `extent_mm`; see `enlarge`."""
    points = [max(2, round(mm / spacing_mm) + 1) for mm in extent_mm]
    return torch.randn(1, channels, *points, generator=generator)


def integrate(velocity: torch.Tensor, extent_mm: Sequence[float], steps: int = 5) -> torch.Tensor:
    """Displacement [B, 3, x, y, z] in mm of a stationary velocity field in mm by scaling and squaring
    (Arsigny et al. 2006): a diffeomorphism. The corners of the grid lie at the corners of `extent_mm`."""
    displacement = velocity / 2**steps
    identity = _unit_grid(velocity.shape[2:], velocity.device)
    half = torch.tensor(extent_mm, device=velocity.device) / 2
    for _ in range(steps):
        at = identity + (displacement.permute(0, 2, 3, 4, 1) / half).flip(-1)
        moved = F.grid_sample(displacement, at, padding_mode="border", align_corners=True)
        displacement = displacement + moved
    return displacement


def _unit_grid(shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """Identity [1, X, Y, Z, 3] for grid_sample (last axis first), corners at ±1."""
    axes = [torch.linspace(-1, 1, n, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)[None]


def enlarge(field: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """[B, C, x, y, z] linearly interpolated to `shape`, corners on corners."""
    matrices = []
    for few, many in zip(field.shape[2:], shape, strict=True):
        at = torch.linspace(0, few - 1, many, device=field.device)
        offset = (at[:, None] - torch.arange(few, device=field.device)).abs()
        matrices.append((1 - offset).clamp(min=0)[None])
    return along_axes(field.flatten(0, 1), matrices).unflatten(0, field.shape[:2])


def profile_matrices(n: int, voxel_mm: float, blur_mm: torch.Tensor, box_mm: torch.Tensor) -> torch.Tensor:
    """[B, n, n] that blur along one axis: a Gaussian of standard deviation `blur_mm` [B] after a box as wide as
    `box_mm` [B]; 0 for none.

    Blurring by a dense matrix per axis costs less than a convolution and lets each sample of a
    batch have its own width.
    """
    offset = (torch.arange(n)[:, None] - torch.arange(n)[None]).abs() * voxel_mm
    sigma = blur_mm.clamp(min=voxel_mm * 0.05).view(-1, 1, 1)
    gaussian = torch.exp(-0.5 * (offset / sigma).square())
    half = box_mm.view(-1, 1, 1) / 2
    box = (half - offset + voxel_mm / 2).clamp(0, voxel_mm)
    box = torch.where(half > 0, box, torch.eye(n))
    gaussian = gaussian / gaussian.sum(2, keepdim=True)
    return gaussian @ (box / box.sum(2, keepdim=True))


def along_axes(x: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Apply a matrix [B, m, n], or [1, m, n] for all, along each axis of x [B, X, Y, Z]."""
    x = (matrices[0] @ x.flatten(2)).unflatten(2, x.shape[2:])
    x = matrices[1][:, None] @ x
    return x @ matrices[2][:, None].transpose(2, 3)


def shifted(values: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
    """values [B, X, Y, Z, C] as they are so many voxels [B, 3, X, Y, Z] further on, linear between voxels; those
    of the faces go on beyond them."""
    shape = values.shape[1:4]
    per_voxel = torch.tensor([2 / max(n - 1, 1) for n in shape], device=values.device)
    at = _unit_grid(shape, values.device) + (voxels.permute(0, 2, 3, 4, 1) * per_voxel).flip(-1)
    moved = F.grid_sample(values.movedim(-1, 1), at, padding_mode="border", align_corners=True)
    return moved.movedim(1, -1)
