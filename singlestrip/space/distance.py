"""Signed distance to the brain surface (SDT), in mm, negative inside.

Few voxels are measured: those near the surface, and elsewhere so many that cubics between them are right. It goes
from the coarse to the fine. Nodes 8 voxels apart are measured first; they are the corners of cells. A cell is
halved, and the nodes between are measured, if it lies near the surface or if interpolation misses the distance in
its middle: there the nearest point of the surface changes abruptly. In all other cells cubics give the nodes
between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage

from ..threads import for_each
from .grid import Box, voxel_sizes
from .surface import SIDES, Search, Surface, block_steps, find_surface

FIRST_STEP = 8  # voxels between the first nodes, a power of two
EXACT_VOXELS = 2.0  # nearer to the surface than this each voxel is measured
# How far, in voxels, the cubic and the mean of the corners may miss the distance in the middle of a cell. A cubic
# can be right there and wrong elsewhere; then the mean is not right.
CUBIC_ERROR = 0.1
MEAN_ERROR = 0.25
# Voxels to the side of the best foot at which a search looks for a nearer one, by the step between nodes: the more
# nodes are measured, the nearer are the feet of those measured before.
LOOKS_BESIDE = {8: (8, 4, 2, 1), 4: (2, 1), 2: (1,), 1: ()}
POINTS_AT_ONCE = 2**15  # are measured, so that they fit the processor's cache
LAYERS_AT_ONCE = 32  # are interpolated, so that memory is bounded


def signed_distance(
    logit: np.ndarray, mask: np.ndarray, vox2world: np.ndarray, box: Box | None = None
) -> np.ndarray:
    """The SDT of a mask whose surface lies between voxels, float32 [X, Y, Z] in mm, negative inside.

    logit: positive in the brain; [X, Y, Z], or the part of it within `box`.
    mask: boolean [X, Y, Z], the logit above 0 after cleaning.
    vox2world: 4×4, voxel index to mm.
    box: holds the mask and two voxels around it, unless the grid ends there; None for the whole grid.
    Near a flat surface the distance is exact, near any other it is the distance to the nearest foot. Farther away
    it is interpolated: 99 % of the errors are below a fifth of a voxel, and all below a voxel. It is infinite
    everywhere for an empty mask, minus infinite for a full one.
    """
    if _runs_backward(mask):
        return signed_distance(*_turned(logit, mask, vox2world, box)).T
    surface = _surface(logit, mask, vox2world, box)
    if surface is None:
        return np.where(mask, -np.inf, np.inf).astype(np.float32)
    return _Measurement(surface, mask, _whole(mask)).distance()


def move_border(
    logit: np.ndarray, mask: np.ndarray, vox2world: np.ndarray, border_mm: float, box: Box | None = None
) -> np.ndarray:
    """The voxels whose SDT lies below `border_mm`, boolean [X, Y, Z]: the mask with its border moved outward.

    They are those of `signed_distance(...) < border_mm`, but for single voxels whose distance is interpolated and
    differs from the border by less than 0.01 mm. The distance is measured only around the mask and where the
    border may lie. The other arguments are the same.
    """
    if _runs_backward(mask):
        logit, mask, vox2world, box = _turned(logit, mask, vox2world, box)
        return move_border(logit, mask, vox2world, border_mm, box).T
    surface = _surface(logit, mask, vox2world, box)
    if surface is None:
        return mask.copy()
    around = surface.box_within(max(border_mm, 0.0), mask.shape)
    moved = mask.copy()
    moved[around] = _Measurement(surface, mask, around, border_mm).distance() < border_mm
    return moved


def _runs_backward(mask: np.ndarray) -> bool:
    """Whether voxels along the first axis lie side by side in memory, not those along the last."""
    return mask.flags.f_contiguous and not mask.flags.c_contiguous


def _turned(
    logit: np.ndarray, mask: np.ndarray, vox2world: np.ndarray, box: Box | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Box | None]:
    """The arguments of `signed_distance` with the axes in the opposite order."""
    return logit.T, mask.T, vox2world[:, [2, 1, 0, 3]], box and box[::-1]


def _whole(mask: np.ndarray) -> Box:
    """The box of all voxels."""
    return tuple(slice(0, size) for size in mask.shape)


def _surface(logit: np.ndarray, mask: np.ndarray, vox2world: np.ndarray, box: Box | None) -> Surface | None:
    """The surface of a mask; arguments as for `signed_distance`."""
    box = box or _whole(mask)
    return find_surface(logit, mask[box], vox2world[:3, :3], np.array([s.start for s in box]))


@dataclass(frozen=True, eq=False)
class _Nodes:
    """The signed distance at voxels some way apart. Eight are the corners of a cell.

    A node or a cell has a position: its indices in the arrays. A cell has that of its first corner.
    first: voxel index of the first node, [3, 1]. steps: voxels between nodes along each axis, [3, 1]. Where there
    is but 1, the cell has two corners the same.
    distance: mm, float32 [X, Y, Z].
    number: of the boundary voxel with the nearest foot; of one near that if the distance is interpolated. int32
    [X, Y, Z]; empty if there will be no finer nodes.
    """

    first: np.ndarray
    steps: np.ndarray
    distance: np.ndarray
    number: np.ndarray

    @property
    def corners(self) -> list[np.ndarray]:
        """From the first corner of a cell to each of its corners, positions [3, 1]."""
        return [np.reshape(corner, (3, 1)) for corner in product(*(range(min(2, s)) for s in self.steps[:, 0]))]

    def index(self, position: np.ndarray) -> np.ndarray:
        """The voxel indices of positions [3, N]."""
        return self.first + position * self.steps

    def hold(self, position: np.ndarray) -> np.ndarray:
        """Whether there are nodes at positions [3, N]."""
        return np.all((position >= 0) & (position < np.reshape(self.distance.shape, (3, 1))), axis=0)

    def at_corners(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The lowest, highest and mean signed distance [N] at the corners of cells [3, N]."""
        flat = np.ravel_multi_index(tuple(cells), self.distance.shape)
        strides = np.array(self.distance.strides) // self.distance.itemsize
        values = self.distance.ravel()
        low, high, total = (values.take(flat) for _ in range(3))
        for corner in self.corners[1:]:
            value = values.take(flat + strides @ corner)
            np.minimum(low, value, out=low)
            np.maximum(high, value, out=high)
            total += value
        return low, high, total / np.float32(len(self.corners))

    def interpolated(self, box: Box) -> _Nodes:
        """Nodes for a box at half the steps. Cubics give those between."""
        steps = np.maximum(1, self.steps // 2)
        first, shape = _extent(box, steps)
        lines = list(zip(self.first[:, 0], self.steps[:, 0], first[:, 0], shape, strict=True))
        distance = np.empty(shape, dtype=np.float32)
        for row in range(0, shape[0], LAYERS_AT_ONCE):
            rows = distance[row : row + LAYERS_AT_ONCE]
            coarse_start, coarse_step, start, _ = lines[0]
            start += row * steps[0, 0]
            need = _needed(coarse_start, coarse_step, start, len(rows))
            layers = self.distance[need]
            for axis in (2, 1):
                layers = _halved(layers, axis, *lines[axis])
            rows[...] = _halved(layers, 0, coarse_start + need.start * coarse_step, coarse_step, start, len(rows))
        number = self.number if steps.max() > 1 else self.number[:0]
        for axis, (coarse_start, coarse_step, start, count) in enumerate(lines):
            if number.size:
                index = start + np.arange(count) * steps[axis, 0]
                number = number.take((index - coarse_start) // coarse_step, axis)
        return _Nodes(first, steps, distance, number)


def _extent(box: Box, steps: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """The voxel index [3, 1] of the first node for a box, and the number of nodes along each axis.

    They are the corners of all cells that have a voxel in the box, and two more on each side for the cubics.
    Along an axis with a step of 1 they are the voxels of the box. steps: [3, 1].
    """
    start, stop = _bounds(box)
    more = 2 * steps * (steps > 1)
    first = start // steps * steps - more
    count = (-((1 - stop) // steps) * steps + more - first) // steps + 1
    return first, tuple(count[:, 0].tolist())


def _bounds(box: Box) -> tuple[np.ndarray, np.ndarray]:
    """The voxel indices where a box starts and stops, [3, 1] each."""
    return np.array([[s.start] for s in box]), np.array([[s.stop] for s in box])


def _needed(first: int, step: int, start: int, count: int) -> slice:
    """The nodes along an axis that are needed for `count` values from voxel `start` on at half the step."""
    if step == 1:
        return slice(start - first, start - first + count)
    last = start + (count - 1) * (step // 2)
    return slice((start - first) // step - 1, -((first - last) // step) + 2)


def _halved(nodes: np.ndarray, axis: int, first: int, step: int, start: int, count: int) -> np.ndarray:
    """`count` values along an axis from voxel `start` on at half the step, by cubics through four nodes.

    nodes: [X, Y, Z], along the axis from voxel `first` on. With a step of 1 they are the values.
    """
    need = _needed(first, step, start, count)
    nodes = np.moveaxis(nodes, axis, 0)[need]
    if step > 1:
        values = np.empty((2 * len(nodes) - 5, *nodes.shape[1:]), dtype=np.float32)
        values[::2] = nodes[1:-1]
        values[1::2] = np.float32(9 / 16) * (nodes[1:-2] + nodes[2:-1])
        values[1::2] -= np.float32(1 / 16) * (nodes[:-3] + nodes[3:])
        skipped = (start - first) // (step // 2) - 2 * (need.start + 1)
        nodes = values[skipped : skipped + count]
    return np.moveaxis(nodes, 0, axis)


@dataclass(frozen=True, eq=False)
class _Measurement:
    """The measurement of the signed distance to a surface within a box of the grid.

    mask: boolean, of the whole grid.
    border_mm: all that matters is whether the distance lies below this; None if the distance itself matters.
    """

    surface: Surface
    mask: np.ndarray
    box: Box
    border_mm: float | None = None

    def distance(self) -> np.ndarray:
        """The signed distance, mm float32 [X, Y, Z]."""
        nodes = self._first_nodes()
        cells = self._in_box(nodes, np.indices(nodes.distance.shape).reshape(3, -1))
        while nodes.steps.max() > 1:
            nodes, cells = self._halve(nodes, cells)
        start, stop = _bounds(self.box)
        boundary = self.surface.boundary
        inside = ((boundary >= start) & (boundary < stop)).all(axis=0)
        boundary = boundary[:, inside]
        nodes.distance[tuple(boundary - start)] = self._signed(self.surface.depths[inside], boundary)
        return nodes.distance

    def _signed(self, distance: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Distances [N] with the sign of voxels [3, N]; beyond the grid, of the nearest voxel in it."""
        last = np.reshape(self.mask.shape, (3, 1)) - 1
        return np.where(self.mask[tuple(np.clip(index, 0, last))], -distance, distance)

    def _in_box(self, nodes: _Nodes, cells: np.ndarray) -> np.ndarray:
        """Those of cells [3, N] that have a voxel in the box."""
        start, stop = _bounds(self.box)
        index = nodes.index(cells)
        return cells[:, ((index + nodes.steps > start) & (index < stop)).all(axis=0)]

    def _first_nodes(self) -> _Nodes:
        """The nodes farthest apart. The search begins at the nearest node with a boundary voxel beside it."""
        surface = self.surface
        steps = block_steps(surface.to_world, FIRST_STEP)[:, None]
        first, shape = _extent(self.box, steps)
        number = np.full(shape, -1, dtype=np.int32)
        last = np.reshape(shape, (3, 1)) - 1
        beside = np.clip((surface.boundary - first + steps // 2) // steps, 0, last)
        number[tuple(beside)] = np.arange(surface.boundary.shape[1])
        sampling = voxel_sizes(surface.to_world) * steps[:, 0]
        nearest = ndimage.distance_transform_edt(number < 0, sampling, return_distances=False, return_indices=True)
        nodes = _Nodes(first, steps, np.empty(shape, dtype=np.float32), number[tuple(nearest)])
        position = np.indices(shape).reshape(3, -1)
        self._measure(nodes, position, [nodes.number.ravel()])
        neighbours = [np.clip(position + side[:, None], 0, last) for side in SIDES]
        self._measure(nodes, position, [nodes.number[tuple(p)] for p in (position, *neighbours)])
        return nodes

    def _measure(
        self, nodes: _Nodes, position: np.ndarray, candidates: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Measure nodes at positions [3, N], and put what is measured there.

        candidates: numbers of boundary voxels that may be near them, [N] each, at least one.
        Returns the signed distances, mm [N], and the numbers of the boundary voxels with the nearest feet [N].
        """
        measured = np.empty(position.shape[1], dtype=np.float32)
        number = np.empty(position.shape[1], dtype=np.int32)

        def measure_part(start: int) -> None:
            """Measure some of the nodes, on one thread."""
            part = slice(start, start + POINTS_AT_ONCE)
            index = nodes.index(position[:, part])
            search = Search(self.surface, index, candidates[0][part])
            for candidate in candidates[1:]:
                search.consider(candidate[part])
            search.consider(self.surface.look_up(index))
            search.project()
            for step in LOOKS_BESIDE[int(nodes.steps.max())]:
                search.look_beside(SIDES * block_steps(self.surface.to_world, step))
            measured[part], number[part] = self._signed(search.distance(), index), search.number

        for_each(measure_part, range(0, len(number), POINTS_AT_ONCE))
        nodes.distance[tuple(position)] = measured
        if nodes.number.size:
            nodes.number[tuple(position)] = number
        return measured, number

    def _halve(self, nodes: _Nodes, cells: np.ndarray) -> tuple[_Nodes, np.ndarray]:
        """Nodes at half the steps, and the cells between them [3, N] that lie in a rough cell.

        cells: the cells [3, N] that may be rough. In all others cubics give the nodes between. A rough cell is
        halved: those of its new nodes are measured that lie on no side that it shares with the next cell. For the
        last nodes no cells are returned.
        """
        finer = nodes.interpolated(self.box)
        low, high, mean = nodes.at_corners(cells)
        radius_mm = _radius_mm(self.surface.to_world, nodes)
        if self.border_mm is not None:
            wanted = (low - radius_mm <= self.border_mm) & (self.border_mm <= high + radius_mm)
            cells, low, high, mean = cells[:, wanted], low[wanted], high[wanted], mean[wanted]
        size = voxel_sizes(self.surface.to_world)
        first, *others = nodes.corners
        start = (nodes.index(cells) - finer.first) // finer.steps
        is_rough = np.maximum(low, -high) < EXACT_VOXELS * size.max() + radius_mm

        tested = np.flatnonzero(~is_rough & finer.hold(start + others[-1]))
        middle = start[:, tested] + others[-1]
        cubic = finer.distance[tuple(middle)]
        candidates = [nodes.number[tuple(cells[:, tested] + corner)] for corner in nodes.corners]
        measured, number = self._measure(finer, middle, candidates)
        is_rough[tested] = np.abs(measured - cubic) > CUBIC_ERROR * size.min()
        is_rough[tested] |= np.abs(measured - mean[tested]) > MEAN_ERROR * size.min()

        corners = nodes.corners if finer.number.size else [first, others[-1]]  # the last nodes are many
        candidates = [nodes.number[tuple(cells + corner)] for corner in corners]
        candidates[-1][tested] = number
        start = start[:, is_rough]
        new = np.concatenate([start + corner for corner in others], axis=1)
        kept = finer.hold(new)
        self._measure(finer, new[:, kept], [np.tile(c[is_rough], len(others))[kept] for c in candidates])
        if not finer.number.size:
            return finer, new[:, :0]
        return finer, self._in_box(finer, np.concatenate([start, new], axis=1))


def _radius_mm(to_world: np.ndarray, nodes: _Nodes) -> float:
    """How far the corners of a cell are from its middle, at most."""
    edges = nodes.corners[-1] * nodes.steps
    diagonals = edges * np.array(list(product((-1, 1), repeat=3))).T
    return float(np.linalg.norm(to_world @ diagonals, axis=0).max()) / 2
