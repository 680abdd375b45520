"""Signed distance to the brain surface, in mm, negative inside: the SDT.

The surface is where the logit, interpolated linearly between neighbouring voxels, is zero. Each
voxel beside it gets the plane through the crossings on its own edges; every other voxel measures
to the feet of those planes. All distances are Euclidean in world space, so that anisotropic and
sheared voxels count as they are.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .grid import voxel_sizes

SLAB_VOXELS = 2_000_000  # voxels whose candidates are measured at once
SEARCH_STEPS = (1.0, 0.5, 1.0, 0.5, 1.0)  # toward the projection on the plane of the best foot yet
NEAR_VOXELS = 3.0  # this near the surface is flat over the distance between two feet


def _crossings(logit, mask, edge) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The surface on the edges of boundary voxels [N, 3].

    Returns inverse steps to the nearer crossing along each axis [N, 3], signed, 0 where there is
    none; the axis of the nearest crossing [N]; and whether the logit put it there [N]. Where
    cleaning moved the surface, so that logit and mask disagree, it lies in the middle of the edge.
    """
    inverse = np.zeros(edge.shape)
    trusted = np.zeros(edge.shape, dtype=bool)
    here_logit, here = logit[tuple(edge.T)].astype(float), mask[tuple(edge.T)]
    for axis, size in enumerate(mask.shape):
        for sign in (-1, 1):
            there = edge.copy()
            there[:, axis] = np.clip(edge[:, axis] + sign, 0, size - 1)
            there_logit, other = logit[tuple(there.T)].astype(float), mask[tuple(there.T)]
            agree = ((here_logit > 0) == here) & ((there_logit > 0) == other) & (here_logit != there_logit)
            with np.errstate(divide="ignore", invalid="ignore"):
                step = np.where(agree, here_logit / (here_logit - there_logit), 0.5)
            step = np.clip(step, 1e-3, 1)
            nearer = (other != here) & (1 / step > np.abs(inverse[:, axis]))
            inverse[nearer, axis] = sign / step[nearer]
            trusted[nearer, axis] = agree[nearer]
    axis = np.abs(inverse).argmax(axis=1)
    return inverse, axis, trusted[np.arange(len(edge)), axis]


def _planes(logit, mask, edge, to_world) -> tuple[np.ndarray, np.ndarray]:
    """Unit normal [N, 3] toward the surface, and distance [N] in mm, of each boundary voxel's plane.

    The normal is the logit's gradient and the plane goes through the nearest crossing. Where the
    logit says nothing it is the plane through all crossings: one that cuts the axes at steps s has
    the covector 1/s, whose length is 1/distance.
    """
    inverse, axis, trusted = _crossings(logit, mask, edge)
    to_index = np.linalg.inv(to_world)
    covector = inverse @ to_index
    length = np.linalg.norm(covector, axis=1)
    gradient = np.zeros(edge.shape)
    for k, size in enumerate(logit.shape):
        after, before = edge.copy(), edge.copy()
        after[:, k] = np.minimum(edge[:, k] + 1, size - 1)
        before[:, k] = np.maximum(edge[:, k] - 1, 0)
        span = np.maximum(after[:, k] - before[:, k], 1)
        gradient[:, k] = (logit[tuple(after.T)].astype(float) - logit[tuple(before.T)]) / span
    gradient = gradient @ to_index
    gradient /= np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-12)
    gradient *= np.where(mask[tuple(edge.T)], -1.0, 1.0)[:, None]
    step = 1 / inverse[np.arange(len(edge)), axis]
    depth = np.einsum("ij,ij->i", to_world.T[axis], gradient) * step
    trusted &= depth > 0
    normal = np.where(trusted[:, None], gradient, covector / length[:, None])
    return normal, np.where(trusted, depth, 1 / length)


def signed_distance(logit: np.ndarray, mask: np.ndarray, vox2world: np.ndarray) -> np.ndarray:
    """SDT float32 [X, Y, Z] in mm of a mask with sub-voxel surface.

    logit: [X, Y, Z], positive in the brain; mask: boolean [X, Y, Z], its cleaned threshold at 0.
    Beside a flat surface the result is exact; elsewhere it is the distance to the nearest foot.
    An empty mask is infinitely far from everything, a full one infinitely inside.
    """
    mask = np.ascontiguousarray(mask)  # in memory as all that is made of it here
    cross = ndimage.generate_binary_structure(3, 1)
    inner = mask & ~ndimage.binary_erosion(mask, cross, border_value=1)
    outer = ndimage.binary_dilation(mask, cross) & ~mask
    boundary = inner | outer
    edge = np.argwhere(boundary)
    if len(edge) == 0:
        return np.where(mask, -np.inf, np.inf).astype(np.float32)
    to_world = vox2world[:3, :3]
    normal, depth = _planes(logit, mask, edge, to_world)
    feet = (edge @ to_world.T + normal * depth[:, None]).astype(np.float32)
    normal = normal.astype(np.float32)
    number = np.zeros(mask.shape, dtype=np.int32)
    number[boundary] = np.arange(len(edge), dtype=np.int32)
    nearest = ndimage.distance_transform_edt(
        ~boundary, sampling=voxel_sizes(to_world), return_distances=False, return_indices=True
    )
    feature = number[tuple(nearest)]
    del nearest, number
    out = np.empty(mask.shape, dtype=np.float32)
    rows = max(1, SLAB_VOXELS // (mask.shape[1] * mask.shape[2]))
    for start in range(0, mask.shape[0], rows):
        _measure(out, feature, (start, min(start + rows, len(mask))), feet, normal, to_world)
    out[boundary] = depth
    return np.negative(out, where=mask, out=out)


def _measure(out, feature, rows, feet, normal, to_world) -> None:
    """Fill out[rows] with the distance to the nearest foot.

    The foot nearest to a voxel need not be that of the nearest boundary voxel: among near ties it
    lies up to several voxels aside. A flat surface would be nearest at the voxel's projection on
    the foot's plane, so the search steps there, or halfway where the surface curves away, and
    takes the foot of the boundary voxel nearest to that place if it is better.
    """
    start, stop = rows
    index = np.indices((stop - start, *out.shape[1:]), dtype=np.float32).reshape(3, -1)
    index[0] += start
    to_world = to_world.astype(np.float32)
    to_index = np.linalg.inv(to_world)
    world = (to_world @ index).T
    nearest = feature[start:stop].flatten()
    offset = world - feet[nearest]
    best = np.einsum("ij,ij->i", offset, offset)
    last = np.array(feature.shape) - 1
    for share in SEARCH_STEPS:
        along = np.einsum("ij,ij->i", offset, normal[nearest])
        aside = offset - along[:, None] * normal[nearest]
        place = (feet[nearest] + np.float32(share) * aside) @ to_index.T
        candidate = feature[tuple(np.clip(place.round().astype(np.int32), 0, last).T)]
        other = np.flatnonzero(candidate != nearest)
        tried = world[other] - feet[candidate[other]]
        distance = np.einsum("ij,ij->i", tried, tried)
        better = distance < best[other]
        chosen = other[better]
        best[chosen], nearest[chosen], offset[chosen] = distance[better], candidate[chosen], tried[better]
    best = np.sqrt(best)
    # Between two feet the surface is flat: within a voxel to the side the plane is nearer.
    near = np.flatnonzero(best < NEAR_VOXELS * voxel_sizes(to_world).max())
    along = np.einsum("ij,ij->i", offset[near], normal[nearest[near]])
    aside = (offset[near] - along[:, None] * normal[nearest[near]]) @ to_index.T
    flat = np.abs(aside).max(axis=1) < 1
    best[near[flat]] = np.abs(along[flat])
    out[start:stop] = best.reshape(stop - start, *out.shape[1:])
