"""Signed distance to the brain surface (SDT), in mm, negative inside.

The surface is where the logit, interpolated linearly between neighbouring voxels, is zero. Each boundary voxel
gets a plane through the points where its edges cross the surface. The point of that plane nearest to the voxel is
its foot. The distance of any other voxel is that to the nearest foot. All distances are Euclidean in world space,
so that anisotropic and sheared voxels are measured correctly.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .grid import voxel_sizes

SLAB_VOXELS = 2_000_000  # voxels that are measured at once
# Shares of the way to a voxel's projection on the plane of the best foot so far.
SEARCH_STEPS = (1.0, 0.5, 1.0, 0.5, 1.0)
NEAR_VOXELS = 3.0  # nearer to the surface than this it counts as flat between two feet


def _crossings(
    logit: np.ndarray, mask: np.ndarray, boundary: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the edges of boundary voxels cross the surface. boundary: their indices [N, 3].

    Returns the inverse of the signed step, in voxels, to the nearer crossing along each axis [N, 3], 0 without a
    crossing; the axis of the nearest crossing [N]; and whether the logit determines that crossing [N]. Where mask
    and logit disagree, because cleaning moved the surface, the crossing is put in the middle of the edge.
    """
    inverse = np.zeros(boundary.shape)
    trusted = np.zeros(boundary.shape, dtype=bool)
    here_logit, here = logit[tuple(boundary.T)].astype(float), mask[tuple(boundary.T)]
    for axis, size in enumerate(mask.shape):
        for sign in (-1, 1):
            there = boundary.copy()
            there[:, axis] = np.clip(boundary[:, axis] + sign, 0, size - 1)
            there_logit, other = logit[tuple(there.T)].astype(float), mask[tuple(there.T)]
            agree = ((here_logit > 0) == here) & ((there_logit > 0) == other) & (here_logit != there_logit)
            with np.errstate(divide="ignore", invalid="ignore"):
                step = np.where(agree, here_logit / (here_logit - there_logit), 0.5)
            step = np.clip(step, 1e-3, 1)
            nearer = (other != here) & (1 / step > np.abs(inverse[:, axis]))
            inverse[nearer, axis] = sign / step[nearer]
            trusted[nearer, axis] = agree[nearer]
    nearest_axis = np.abs(inverse).argmax(axis=1)
    return inverse, nearest_axis, trusted[np.arange(len(boundary)), nearest_axis]


def _planes(
    logit: np.ndarray, mask: np.ndarray, boundary: np.ndarray, to_world: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The plane that stands for the surface at each boundary voxel [N, 3] (indices).

    Returns its unit normal toward the surface [N, 3] and its distance in mm [N]. The normal is the logit's
    gradient, and the plane goes through the nearest crossing. Where the logit does not determine that crossing,
    the plane goes through all crossings: a plane that cuts the axes at steps s has the covector 1/s, of length
    1/distance.
    """
    inverse, axis, trusted = _crossings(logit, mask, boundary)
    to_index = np.linalg.inv(to_world)
    covector = inverse @ to_index
    length = np.linalg.norm(covector, axis=1)
    gradient = np.zeros(boundary.shape)
    for k, size in enumerate(logit.shape):
        after, before = boundary.copy(), boundary.copy()
        after[:, k] = np.minimum(boundary[:, k] + 1, size - 1)
        before[:, k] = np.maximum(boundary[:, k] - 1, 0)
        span = np.maximum(after[:, k] - before[:, k], 1)
        gradient[:, k] = (logit[tuple(after.T)].astype(float) - logit[tuple(before.T)]) / span
    gradient = gradient @ to_index
    gradient /= np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-12)
    gradient *= np.where(mask[tuple(boundary.T)], -1.0, 1.0)[:, None]
    step = 1 / inverse[np.arange(len(boundary)), axis]
    depth = np.einsum("ij,ij->i", to_world.T[axis], gradient) * step
    trusted &= depth > 0
    normal = np.where(trusted[:, None], gradient, covector / length[:, None])
    return normal, np.where(trusted, depth, 1 / length)


def signed_distance(logit: np.ndarray, mask: np.ndarray, vox2world: np.ndarray) -> np.ndarray:
    """The SDT of a mask whose surface lies between voxels, float32 [X, Y, Z] in mm, negative inside.

    logit: [X, Y, Z], positive in the brain.
    mask: boolean [X, Y, Z], the logit above 0 after cleaning.
    vox2world: 4×4, voxel index to mm.
    The distance to a flat surface is exact, any other is the distance to the nearest foot. It is infinite
    everywhere for an empty mask, minus infinite for a full one.
    """
    mask = np.ascontiguousarray(mask)  # one memory order for everything derived from it
    cross = ndimage.generate_binary_structure(3, 1)
    inner = mask & ~ndimage.binary_erosion(mask, cross, border_value=1)
    outer = ndimage.binary_dilation(mask, cross) & ~mask
    is_boundary = inner | outer
    boundary = np.argwhere(is_boundary)
    if len(boundary) == 0:
        return np.where(mask, -np.inf, np.inf).astype(np.float32)
    to_world = vox2world[:3, :3]
    normals, depths = _planes(logit, mask, boundary, to_world)
    feet = (boundary @ to_world.T + normals * depths[:, None]).astype(np.float32)
    normals = normals.astype(np.float32)
    numbers = np.zeros(mask.shape, dtype=np.int32)
    numbers[is_boundary] = np.arange(len(boundary), dtype=np.int32)
    nearest_index = ndimage.distance_transform_edt(
        ~is_boundary, sampling=voxel_sizes(to_world), return_distances=False, return_indices=True
    )
    nearest_number = numbers[tuple(nearest_index)]
    del nearest_index, numbers
    distance = np.empty(mask.shape, dtype=np.float32)
    rows = max(1, SLAB_VOXELS // (mask.shape[1] * mask.shape[2]))
    for start in range(0, mask.shape[0], rows):
        stop = min(start + rows, len(mask))
        distance[start:stop] = _distance_to_feet(nearest_number, start, stop, feet, normals, to_world)
    distance[is_boundary] = depths
    return np.negative(distance, where=mask, out=distance)


def _distance_to_feet(
    nearest_number: np.ndarray, start: int, stop: int, feet: np.ndarray, normals: np.ndarray, to_world: np.ndarray
) -> np.ndarray:
    """The distance in mm of the voxels with first index from `start` to `stop` to their nearest foot.

    nearest_number: number of the nearest boundary voxel, [X, Y, Z].
    feet, normals: of each boundary voxel, [N, 3] in world space.

    The foot nearest to a voxel need not be that of the nearest boundary voxel: of several at similar distance it
    may lie some voxels to the side. A flat surface is nearest at the voxel's projection on the foot's plane. The
    search therefore goes there, or halfway if the surface curves away, and takes the foot of the boundary voxel
    nearest to that place if it is nearer.
    """
    index = np.indices((stop - start, *nearest_number.shape[1:]), dtype=np.float32).reshape(3, -1)
    index[0] += start
    to_world = to_world.astype(np.float32)
    to_index = np.linalg.inv(to_world)
    world = (to_world @ index).T
    nearest = nearest_number[start:stop].flatten()
    offset = world - feet[nearest]
    best = np.einsum("ij,ij->i", offset, offset)
    last = np.array(nearest_number.shape) - 1
    for share in SEARCH_STEPS:
        along = np.einsum("ij,ij->i", offset, normals[nearest])
        aside = offset - along[:, None] * normals[nearest]
        place = (feet[nearest] + np.float32(share) * aside) @ to_index.T
        candidate = nearest_number[tuple(np.clip(place.round().astype(np.int32), 0, last).T)]
        other = np.flatnonzero(candidate != nearest)
        tried = world[other] - feet[candidate[other]]
        distance = np.einsum("ij,ij->i", tried, tried)
        better = distance < best[other]
        chosen = other[better]
        best[chosen], nearest[chosen], offset[chosen] = distance[better], candidate[chosen], tried[better]
    best = np.sqrt(best)
    # Near the surface the plane itself, within a voxel to the side of its foot, is nearer than any foot.
    near = np.flatnonzero(best < NEAR_VOXELS * voxel_sizes(to_world).max())
    along = np.einsum("ij,ij->i", offset[near], normals[nearest[near]])
    aside = (offset[near] - along[:, None] * normals[nearest[near]]) @ to_index.T
    flat = np.abs(aside).max(axis=1) < 1
    best[near[flat]] = np.abs(along[flat])
    return best.reshape(stop - start, *nearest_number.shape[1:])
