"""Smooth fields on coarse grids, and linear maps along the axes of an image: the arithmetic of the synthesis."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def integrate(velocity: torch.Tensor, extent_mm: list[float], steps: int = 5) -> torch.Tensor:
    """Displacement [B, 3, x, y, z] in mm of a stationary velocity field in mm by scaling and squaring
    (Arsigny et al. 2006): a diffeomorphism. Grid corners lie at the edges of `extent_mm`."""
    displacement = velocity / 2**steps
    identity = _unit_grid(velocity.shape[2:], velocity.device)
    half = torch.tensor(extent_mm, device=velocity.device) / 2
    for _ in range(steps):
        at = identity + (displacement.permute(0, 2, 3, 4, 1) / half).flip(-1)
        moved = F.grid_sample(displacement, at, padding_mode="border", align_corners=True)
        displacement = displacement + moved
    return displacement


def _unit_grid(shape, device) -> torch.Tensor:
    """Identity [1, X, Y, Z, 3] for grid_sample (last axis first), corners at ±1."""
    axes = [torch.linspace(-1, 1, n, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)[None]


def enlarge(field: torch.Tensor, shape) -> torch.Tensor:
    """[B, C, x, y, z] linearly interpolated to `shape`, corners on corners."""
    matrices = []
    for few, many in zip(field.shape[2:], shape, strict=True):
        at = torch.linspace(0, few - 1, many, device=field.device)
        offset = (at[:, None] - torch.arange(few, device=field.device)).abs()
        matrices.append((1 - offset).clamp(min=0)[None])
    return along_axes(field.flatten(0, 1), matrices).unflatten(0, field.shape[:2])


def profile_matrices(n: int, voxel_mm: float, blur_mm: torch.Tensor, box_mm: torch.Tensor) -> torch.Tensor:
    """[B, n, n] that blur along one axis: a Gaussian of `blur_mm` [B] or a box of `box_mm` [B] where wider.

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


def slice_matrix(n: int, voxel_mm: float, spacing_mm: float, offset: float) -> torch.Tensor:
    """[n, n] that takes every `spacing_mm` from the axis and interpolates linearly between."""
    spacing = max(spacing_mm / voxel_mm, 1.0)
    start = offset * spacing
    slices = int((n - 1 - start) / spacing) + 1
    at = ((torch.arange(n) - start) / spacing).clamp(0, max(slices - 1, 0))
    below = at.floor().long().clamp(max=max(slices - 2, 0))
    part = at - below
    matrix = torch.zeros(n, n)
    for index, weight in ((below, 1 - part), (below + 1, part)):
        voxel = (start + index * spacing).clamp(max=n - 1)
        low = voxel.floor().long().clamp(max=n - 2)
        fraction = voxel - low
        matrix.scatter_add_(1, low[:, None], (weight * (1 - fraction))[:, None])
        matrix.scatter_add_(1, low[:, None] + 1, (weight * fraction)[:, None])
    return matrix


def along_axes(x: torch.Tensor, matrices: list[torch.Tensor]) -> torch.Tensor:
    """Apply a matrix [B, m, n], or [1, m, n] for all, along each axis of x [B, X, Y, Z]."""
    x = (matrices[0] @ x.flatten(2)).unflatten(2, x.shape[2:])
    x = matrices[1][:, None] @ x
    return x @ matrices[2][:, None].transpose(2, 3)
