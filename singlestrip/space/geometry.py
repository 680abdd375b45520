"""Grids: shapes, voxel sizes, and where in the world they lie. Needs no torch.

A grid is a shape and a vox2world, the 4×4 map from voxel index (centre of the voxel) to RAS mm.
Conformed grids have isotropic voxels and their axes along the world's right, anterior, superior.
"""

from __future__ import annotations

from itertools import product

import numpy as np


def voxel_sizes(vox2world: np.ndarray) -> np.ndarray:
    """Edge lengths in mm, [3]: the norms of the columns."""
    return np.linalg.norm(vox2world[:3, :3], axis=0)


def geometry_fault(vox2world: np.ndarray) -> str | None:
    """What makes a 4×4 vox2world unusable for a head scan, as a clause; None if nothing does."""
    if not np.isfinite(vox2world).all():
        return "its geometry, the map from voxels to the world, is not finite; repair its header"
    with np.errstate(over="ignore", invalid="ignore"):
        size = voxel_sizes(vox2world)
        singular = not abs(np.linalg.det(vox2world[:3, :3])) > 1e-6 * size.prod()
    if singular:
        return "its geometry, the map from voxels to the world, is singular; repair its header"
    if size.min() < 0.01 or size.max() > 100:
        return f"voxels of {' × '.join(f'{s:g}' for s in size)} mm are not of a head scan"
    return None


def thicken(shape: tuple[int, ...], vox2world: np.ndarray, thickness_mm: float) -> np.ndarray:
    """vox2world of a grid of `shape` that counts as `thickness_mm` thick along axes where it is thinner.

    A thin slab, centred where it is, then covers the middle of at least one voxel of that size.
    """
    extent = voxel_sizes(vox2world) * shape
    factor = np.maximum(1, 1.001 * thickness_mm / extent)
    stretch = np.diag([*factor, 1.0])
    stretch[:3, 3] = (np.array(shape) - 1) / 2 * (1 - factor)
    return vox2world @ stretch


def conformed_vox2world(centre_mm: np.ndarray, shape: tuple[int, ...], voxel_size_mm: float) -> np.ndarray:
    """vox2world of the conformed grid of `shape` whose middle lies at `centre_mm` (RAS)."""
    vox2world = np.diag([voxel_size_mm] * 3 + [1.0])
    vox2world[:3, 3] = np.asarray(centre_mm) - voxel_size_mm * (np.asarray(shape) - 1) / 2
    return vox2world


def part_of(vox2world: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    """vox2world of the part of a grid within a box of slices [3]."""
    part = vox2world.copy()
    part[:3, 3] += vox2world[:3, :3] @ [s.start for s in box]
    return part


def crop(
    shape: tuple[int, ...], vox2world: np.ndarray, low_mm: np.ndarray, high_mm: np.ndarray, margin: float
) -> tuple[tuple[slice, ...], np.ndarray]:
    """The part of a grid within bounds in RAS mm, [3] each, with a margin that is a share of their longest side.

    Returns slices [3], of one voxel at least along each axis, and the part's vox2world.
    """
    beyond = margin * (high_mm - low_mm).max()
    corners = np.array(list(product(*zip(low_mm - beyond, high_mm + beyond, strict=True))))
    world2vox = np.linalg.inv(vox2world)
    index = corners @ world2vox[:3, :3].T + world2vox[:3, 3]
    start = np.clip(np.floor(index.min(0)), 0, np.array(shape) - 1).astype(int)
    stop = np.clip(np.ceil(index.max(0)) + 1, start + 1, shape).astype(int)
    box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    return box, part_of(vox2world, box)


def world_bounds(shape: tuple[int, ...], vox2world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest RAS mm, [3] each, that any part of a voxel of the grid reaches."""
    corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in shape], indexing="ij"), -1).reshape(-1, 3)
    world = corners @ vox2world[:3, :3].T + vox2world[:3, 3]
    return world.min(0), world.max(0)


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Slices around the True voxels; None if there are none."""
    found = []
    for axis in range(mask.ndim):
        where = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if where.size == 0:
            return None
        found.append(slice(int(where[0]), int(where[-1]) + 1))
    return tuple(found)
