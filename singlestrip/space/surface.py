"""The surface of a mask, which lies between voxels, and the distance of points to it.

The surface is where the logit, interpolated linearly between neighbouring voxels, is zero. Each boundary voxel
gets a plane through the points where its edges cross the surface. The point of that plane nearest to the voxel is
its foot. The distance of any other point is that to the nearest foot. All distances are Euclidean in world space,
so that anisotropic and sheared voxels are measured correctly.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage

from .grid import Box, voxel_sizes
from .morphology import bounding_box

# Rounds of shares of the way to a point's projection on the plane of the best foot so far.
SEARCH_ROUNDS = ((1.0, 0.5), (1.0, 0.5), (1.0,))
NEAR_VOXELS = 3.0  # nearer to the surface than this it counts as flat between two feet
TABLE_STEP = 2  # voxels along an edge of the blocks whose nearest block with boundary voxels is known
# From a voxel to the six that share a face with it, and to all 26 that touch it.
SIDES = np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
ALL_SIDES = np.array([offset for offset in product((-1, 0, 1), repeat=3) if any(offset)])
LEAST_STEP = 1e-3  # edges; a crossing nearer to a voxel counts as this far


def block_steps(to_world: np.ndarray, longest: int) -> np.ndarray:
    """Voxels along each edge [3] of blocks that are about as long along all axes of to_world, 3×3.

    longest: voxels along the axis of the smallest voxel size. It and the others are powers of two.
    """
    size = voxel_sizes(to_world)
    return 2 ** np.floor(np.log2(longest * size.min() / size + 1e-6)).clip(0).astype(int)


@dataclass(frozen=True, eq=False)
class Surface:
    """Planes that stand for the surface of a mask at its N boundary voxels.

    boundary: their voxel indices in the grid, [3, N].
    depths: their distances to the surface, mm [N].
    feet, normals: float32 [3, N] in world space; the world's origin is at voxel 0 of the grid.
    to_world: 3×3, from steps in voxels to mm.
    start, table: the number of a boundary voxel near each voxel of a box, int32, and the index where the box
    starts, [3].
    """

    boundary: np.ndarray
    depths: np.ndarray
    feet: np.ndarray
    normals: np.ndarray
    to_world: np.ndarray
    start: np.ndarray
    table: np.ndarray

    def look_up(self, place: np.ndarray) -> np.ndarray:
        """The number of a boundary voxel near each of the places [3, N], which are voxel indices."""
        flat = np.zeros(place.shape[1], dtype=np.int64)
        for along, start, size in zip(place, self.start, self.table.shape, strict=True):
            flat *= size
            flat += np.clip(np.rint(along).astype(np.int64) - start, 0, size - 1)
        return self.table.ravel().take(flat)

    def box_within(self, reach_mm: float, shape: tuple[int, ...]) -> Box:
        """The box of a grid of this shape that holds all voxels at most so far from the boundary voxels."""
        reach = reach_mm * np.linalg.norm(np.linalg.inv(self.to_world), axis=1)  # of a ball, in voxels
        low = np.maximum(np.floor(self.boundary.min(axis=1) - reach), 0)
        high = np.minimum(np.ceil(self.boundary.max(axis=1) + reach) + 1, shape)
        return tuple(slice(int(start), int(stop)) for start, stop in zip(low, high, strict=True))


class Search:
    """The search for the feet nearest to some points.

    number: the boundary voxel of the nearest foot so far, [N].
    offset: from that foot to each point, mm float32 [3, N]. squared: its squared length [N].
    """

    def __init__(self, surface: Surface, index: np.ndarray, number: np.ndarray) -> None:
        """index: voxel indices of the points, [3, N]; they may lie beyond the grid.
        number: that of a boundary voxel near each point, to begin with, [N].
        """
        self.surface = surface
        self.to_index = np.linalg.inv(surface.to_world).astype(np.float32)
        self.world = surface.to_world.astype(np.float32) @ index.astype(np.float32)
        self.number = number.copy()
        self.offset = self.world - surface.feet.take(number, axis=1)
        self.squared = _dot(self.offset, self.offset)

    def consider(self, candidate: np.ndarray, which: np.ndarray | None = None) -> np.ndarray:
        """Take the feet of candidate boundary voxels if they are nearer; returns the points for which they are.

        candidate: numbers of boundary voxels, [M]. which: the points that they are candidates for, [M]; None for
        all in their order.
        """
        other = np.flatnonzero(candidate != (self.number if which is None else self.number[which]))
        candidate, which = candidate[other], other if which is None else which[other]
        offset = self.world.take(which, axis=1) - self.surface.feet.take(candidate, axis=1)
        squared = _dot(offset, offset)
        nearer = squared < self.squared[which]
        which = which[nearer]
        self.number[which], self.squared[which] = candidate[nearer], squared[nearer]
        self.offset[:, which] = offset[:, nearer]
        return which

    def project(self) -> None:
        """Look for a nearer foot where the projections of the points on the planes of their feet lie.

        The foot nearest to a point need not be that of the nearest boundary voxel: of several at similar distance
        it may lie some voxels to the side. A flat surface is nearest at the projection. If it curves away, the
        place halfway there may be nearer. A point is done if a round finds nothing for it.
        """
        pending = np.arange(len(self.number))
        for shares in SEARCH_ROUNDS:
            improved = np.zeros(len(self.number), dtype=bool)
            for share in shares:
                offset = self.offset.take(pending, axis=1)
                normal = self.surface.normals.take(self.number[pending], axis=1)
                aside = offset - _dot(offset, normal) * normal
                place = self.world.take(pending, axis=1) - offset + np.float32(share) * aside
                improved[self.consider(self.surface.look_up(self.to_index @ place), pending)] = True
            pending = np.flatnonzero(improved)

    def look_beside(self, offsets: np.ndarray, which: np.ndarray | None = None) -> None:
        """Look for a nearer foot beside the best one, some voxels away.

        offsets: from the boundary voxel of the best one to places to look at, one after another, [M, 3].
        which: the points for which to look, [K]; None for all.
        """
        for offset in offsets:
            number = self.number if which is None else self.number[which]
            place = self.surface.boundary.take(number, axis=1) + offset[:, None]
            self.consider(self.surface.look_up(place), which)

    def distance(self) -> np.ndarray:
        """The distance of each point to the surface, mm float32 [N].

        Near the surface the plane itself, within a voxel to the side of its foot, is nearer than any foot. If the
        nearest point of the plane lies further to the side, there may be a nearer foot beside.
        """
        near_mm = NEAR_VOXELS * voxel_sizes(self.surface.to_world).max()
        near = np.flatnonzero(self.squared < near_mm**2)
        is_flat, _ = self._along(near)
        self.look_beside(ALL_SIDES, near[~is_flat])
        is_flat, along = self._along(near)
        distance = np.sqrt(self.squared)
        distance[near[is_flat]] = along[is_flat]
        return distance

    def _along(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether points [M] lie over the planes of their feet, at most a voxel to the side along each axis, and
        their distances to these planes, mm [M]."""
        offset, normal = self.offset.take(which, axis=1), self.surface.normals.take(self.number[which], axis=1)
        along = _dot(offset, normal)
        aside = self.to_index @ (offset - along * normal)
        return np.abs(aside).max(axis=0) < 1, np.abs(along)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar products [N] of vectors [3, N]."""
    return np.einsum("ij,ij->j", a, b)


def find_surface(logit: np.ndarray, mask: np.ndarray, to_world: np.ndarray, start: np.ndarray) -> Surface | None:
    """The surface of a mask within a box of a grid; None if the mask has none there.

    logit: [X, Y, Z] in the box, positive in the brain.
    mask: boolean [X, Y, Z] in the box, the logit above 0 after cleaning.
    to_world: 3×3, from steps in voxels to mm. start: the index in the grid where the box starts, [3].
    """
    is_boundary = np.zeros(mask.shape, dtype=bool)
    for axis in range(3):
        along, at = np.moveaxis(mask, axis, 0), np.moveaxis(is_boundary, axis, 0)
        crossed = along[1:] != along[:-1]
        at[1:] |= crossed
        at[:-1] |= crossed
    around = bounding_box(is_boundary)
    if around is None:
        return None
    boundary = np.stack(np.nonzero(is_boundary))
    normals, depths = _planes(logit, mask, boundary, to_world)
    boundary += np.reshape(start, (3, 1))
    feet = to_world @ boundary + normals * depths
    table_start = np.array([s.start for s in around])
    table = _table(is_boundary[around], block_steps(to_world, TABLE_STEP), voxel_sizes(to_world))
    feet, normals = feet.astype(np.float32), normals.astype(np.float32)
    return Surface(boundary, depths.astype(np.float32), feet, normals, to_world, start + table_start, table)


def _table(is_boundary: np.ndarray, steps: np.ndarray, size_mm: np.ndarray) -> np.ndarray:
    """The number of a boundary voxel near each voxel of a box, int32 [X, Y, Z].

    is_boundary: boolean [X, Y, Z]; its True voxels are numbered in their order.
    A boundary voxel gets its own number, a voxel beside one the number of that, and any other one that of a
    boundary voxel in the nearest block of `steps` voxels that has some.
    """
    shape = np.array(is_boundary.shape)
    boundary = np.stack(np.nonzero(is_boundary))
    numbers = np.arange(boundary.shape[1], dtype=np.int32)
    blocks = np.full(-(-shape // steps), -1, dtype=np.int32)
    blocks[tuple(boundary // steps[:, None])] = numbers
    nearest_block = ndimage.distance_transform_edt(
        blocks < 0, sampling=size_mm * steps, return_distances=False, return_indices=True
    )
    table = blocks[tuple(nearest_block)]
    for axis, step in enumerate(steps):
        table = table.repeat(step, axis)
    table = np.ascontiguousarray(table[tuple(slice(0, size) for size in shape)])
    for axis in range(3):
        for sign in (-1, 1):
            beside = boundary.copy()
            beside[axis] = np.clip(boundary[axis] + sign, 0, shape[axis] - 1)
            table[tuple(beside)] = numbers
    table[tuple(boundary)] = numbers
    return table


def _planes(
    logit: np.ndarray, mask: np.ndarray, boundary: np.ndarray, to_world: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The plane that stands for the surface at each boundary voxel [3, N] (indices).

    Returns its unit normal toward the surface [3, N] and its distance in mm [N]. The normal is the logit's
    gradient, and the plane goes through the nearest crossing. Where the logit does not determine that crossing,
    the plane goes through all crossings: a plane that cuts the axes at steps s has the covector 1/s, of length
    1/distance.
    """
    inverse, gradient = np.zeros(boundary.shape), np.empty(boundary.shape)
    trusted = np.zeros(boundary.shape, dtype=bool)
    here_logit, here = logit[tuple(boundary)].astype(float), mask[tuple(boundary)]
    for axis, size in enumerate(mask.shape):
        ends = []
        for sign in (-1, 1):
            there = list(boundary)
            there[axis] = np.clip(boundary[axis] + sign, 0, size - 1)
            there_logit, other = logit[tuple(there)].astype(float), mask[tuple(there)]
            crossing, agreed = _crossing(here_logit, here, there_logit, other)
            nearer = (other != here) & (1 / crossing > np.abs(inverse[axis]))
            inverse[axis, nearer] = sign / crossing[nearer]
            trusted[axis, nearer] = agreed[nearer]
            ends.append((there_logit, there[axis]))
        (before_logit, before), (after_logit, after) = ends
        gradient[axis] = (after_logit - before_logit) / np.maximum(after - before, 1)
    to_index = np.linalg.inv(to_world)
    covector, gradient = to_index.T @ inverse, to_index.T @ gradient
    length = np.linalg.norm(covector, axis=0)
    gradient /= np.maximum(np.linalg.norm(gradient, axis=0), 1e-12)
    gradient *= np.where(here, -1.0, 1.0)
    each = np.arange(boundary.shape[1])
    nearest_axis = np.abs(inverse).argmax(axis=0)
    depth = _dot(to_world[:, nearest_axis], gradient) / inverse[nearest_axis, each]
    is_determined = trusted[nearest_axis, each] & (depth > 0)
    return np.where(is_determined, gradient, covector / length), np.where(is_determined, depth, 1 / length)


def _crossing(
    here_logit: np.ndarray, here: np.ndarray, there_logit: np.ndarray, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where edges from voxels here to voxels there cross the surface, as a share of the edge [N].

    here, there: whether they are in the mask, [N]. Returns also whether the logit determines the crossing [N].
    Where mask and logit disagree, because cleaning moved the surface, the crossing is put in the middle.
    """
    agreed = ((here_logit > 0) == here) & ((there_logit > 0) == there) & (here_logit != there_logit)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(agreed, here_logit / (here_logit - there_logit), 0.5)
    return np.clip(share, LEAST_STEP, 1), agreed
