"""Between grids: native to conformed, conformed to native, and label maps to a training grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from .geometry import conformed_vox2world, voxel_sizes, world_bounds

SLAB_VOXELS = 4_000_000  # most voxels whose coordinates are held at once: 12 bytes each


def block_mean(
    data: np.ndarray,
    vox2world: np.ndarray,
    target_mm: float,
    values_of: Callable[[np.ndarray], np.ndarray] = np.float32,
) -> tuple[np.ndarray, np.ndarray]:
    """Average whole blocks of voxels so that none is much smaller than `target_mm`.

    data: any numeric type, [X, Y, Z]. values_of: turns part of the data into finite float32 values. Returns
    float32 data and its vox2world. It is the low-pass filter that linear interpolation to a coarser grid
    needs, and reads the data once, in slabs, so that a large scan is never held as a whole in floating
    point. A last, partial block counts as a whole one, so that its centre lies off by less than half a
    target voxel.
    """
    factors = np.maximum(1, np.round(target_mm / voxel_sizes(vox2world)).astype(int))
    factors = np.minimum(factors, data.shape)
    shape = [-(-n // f) for n, f in zip(data.shape, factors, strict=True)]
    out = np.empty(shape, dtype=np.float32)
    fx, fy, fz = factors
    edges_x, edges_y = np.arange(0, data.shape[0], fx), np.arange(0, data.shape[1], fy)
    count_x = np.minimum(fx, data.shape[0] - edges_x).astype(np.float32)
    count_y = np.minimum(fy, data.shape[1] - edges_y).astype(np.float32)
    for k in range(shape[2]):
        plane = values_of(data[:, :, k * fz : (k + 1) * fz]).mean(axis=2)
        plane = np.add.reduceat(plane, edges_x, axis=0) / count_x[:, None]
        out[:, :, k] = np.add.reduceat(plane, edges_y, axis=1) / count_y
    scale = np.diag([*factors, 1.0]).astype(float)
    scale[:3, 3] = (factors - 1) / 2  # centre of the first block, in old voxels
    return out, vox2world @ scale


def sample(
    data: torch.Tensor, source_from_target: np.ndarray, shape: tuple[int, ...], fill: float = 0.0
) -> torch.Tensor:
    """Linear interpolation of data [X, Y, Z] at the voxels of a target grid of `shape`.

    source_from_target: 4×4, target voxel index to source voxel index. A source voxel reaches half
    a voxel beyond its centre (so that a single slice has its thickness); beyond that is `fill`.
    Returns float32 of `shape`, on the device of `data`. Works in slabs of bounded memory.
    """
    out = torch.empty(shape, dtype=torch.float32, device=data.device)
    rows = max(1, SLAB_VOXELS // max(1, shape[1] * shape[2]))
    for start in range(0, shape[0], rows):
        stop = min(start + rows, shape[0])
        out[start:stop] = _sample_rows(data, source_from_target, (start, stop), shape, fill)
    return out


def _sample_rows(data, source_from_target, rows, shape, fill):
    axes = [torch.arange(*rows, dtype=torch.float32, device=data.device)]
    axes += [torch.arange(n, dtype=torch.float32, device=data.device) for n in shape[1:]]
    matrix = torch.as_tensor(source_from_target, dtype=torch.float32, device=data.device)
    inside = None
    normalised = []
    for row, size in enumerate(data.shape):
        coordinate = (
            (matrix[row, 0] * axes[0] + matrix[row, 3])[:, None, None]
            + (matrix[row, 1] * axes[1])[None, :, None]
            + (matrix[row, 2] * axes[2])[None, None, :]
        )
        within = (coordinate >= -0.5 - 1e-4) & (coordinate <= size - 0.5 + 1e-4)
        inside = within if inside is None else inside.logical_and_(within)
        normalised.append((2 * coordinate + 1) / size - 1)
    grid = torch.stack(normalised[::-1], dim=-1)[None]
    values = F.grid_sample(
        data[None, None].float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return torch.where(inside, values[0, 0], torch.as_tensor(fill, dtype=torch.float32, device=data.device))


def conform(
    data: np.ndarray,
    vox2world: np.ndarray,
    target_shape: tuple[int, ...],
    target_vox2world: np.ndarray,
    device: torch.device | str = "cpu",
    fill: float = 0.0,
) -> torch.Tensor:
    """Data [X, Y, Z] on its grid, linearly interpolated to another grid; float32 tensor."""
    source_from_target = np.linalg.inv(vox2world) @ target_vox2world
    source = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32)).to(device)
    return sample(source, source_from_target, target_shape, fill)


def conform_labels(
    labels: np.ndarray, vox2world: np.ndarray, spacing_mm: float, inside_base: int
) -> tuple[np.ndarray, np.ndarray]:
    """Label map uint8 [X, Y, Z] to the conformed grid that covers it, by a vote of area.

    Each voxel first falls inside or outside the brain by the larger share, then takes the class
    of the largest share on that side. Returns the map, 0 where the scan has no voxel, and its
    vox2world.
    """
    low, high = world_bounds(labels.shape, vox2world)
    shape = tuple(int(n) for n in np.ceil((high - low) / spacing_mm).astype(int))
    target = conformed_vox2world((low + high) / 2, shape, spacing_mm)

    def share(where: np.ndarray) -> torch.Tensor:
        coarse, coarse_vox2world = block_mean(where, vox2world, spacing_mm)
        return conform(coarse, coarse_vox2world, shape, target)

    inside = share(labels > inside_base)
    covered = share(np.ones(labels.shape, dtype=bool))
    best = [torch.full(shape, -1.0), torch.full(shape, -1.0)]
    chosen = [torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape, dtype=torch.uint8)]
    for label in np.unique(labels):
        side = int(label > inside_base)
        votes = share(labels == label)
        better = votes > best[side]
        best[side] = torch.where(better, votes, best[side])
        chosen[side] = torch.where(better, torch.tensor(int(label), dtype=torch.uint8), chosen[side])
    result = torch.where(2 * inside > covered, chosen[1], chosen[0])
    result[covered < 0.5] = 0
    return result.numpy(), target
