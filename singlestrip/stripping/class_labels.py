"""Probabilities on the segmenter's window to labels, volumes and posteriors on an image's grid. Needs no torch.

Labels follow the interpolated probabilities: each voxel takes the class that is most probable in its middle. No
map of labels is resampled. The grid is cut into blocks. Most classes are probable in few blocks, so that time and
memory hardly grow with the number of classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from ..space.grid import Box, Grid
from ..space.interpolation import grid_points, linear_weights, within
from ..space.morphology import largest_component
from ..threads import thread_count
from .class_field import BACKGROUND, ClassField

BLOCK = 32  # voxels along a side of the blocks
STEPS = 255  # a probability is held in a byte, in steps of 1 / 255
LEAST = 0.5 / STEPS  # what is not above it is 0 in a byte
LOOSE = 255  # in place of a channel: a voxel that has none yet; there are fewer channels


@dataclass(eq=False)
class ClassLabels:
    """Classes on the grid of an image.

    channels: uint8 [X, Y, Z], the channel of each voxel. steps: int64 [C], the sum over voxels of each channel's
    probability, in steps of 1 / 255; of the background it is not known. parts: of the image, with the channels
    that are probable in them and their probabilities, uint8 [C, N]; empty if they are not kept. dropped: for each
    channel the voxels, as indices [3, N], that lost it because they lay apart from its largest component; its
    probability is 0 there.
    """

    channels: np.ndarray
    steps: np.ndarray
    parts: list[tuple[Box, np.ndarray, np.ndarray]] = field(default_factory=list)
    dropped: dict[int, np.ndarray] = field(default_factory=dict)

    def voxels(self) -> np.ndarray:
        """The soft number of voxels of each channel, float [C]: the sum of its probabilities."""
        return self.steps / STEPS

    def posterior(self, channel: int) -> np.ndarray:
        """The probability of a channel in steps of 1 / 255, uint8 [X, Y, Z], in memory in the order of files."""
        posterior = _zeros(self.channels.shape)
        for box, active, stored in self.parts:
            place = np.flatnonzero(active == channel)
            if place.size:
                posterior[box] = stored[place[0]].reshape([side.stop - side.start for side in box])
        if channel in self.dropped:
            posterior[tuple(self.dropped[channel])] = 0
        return posterior

    def drop(self, voxels: np.ndarray, channels: np.ndarray, steps: np.ndarray) -> None:
        """Note that voxels, indices [3, N], have lost channels [N], whose probability there was `steps` [N]."""
        np.subtract.at(self.steps, channels, steps)
        for channel in np.unique(channels).tolist():
            theirs = voxels[:, channels == channel]
            self.dropped[channel] = np.concatenate([self.dropped.get(channel, theirs[:, :0]), theirs], axis=1)


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, uint8 [X, Y, Z], in memory in the order of files."""
    return np.zeros(shape[::-1], dtype=np.uint8).T


def label_grid(
    classes: ClassField,
    window: Grid,
    grid: Grid,
    largest: Collection[int] = (),
    finite: np.ndarray | None = None,
    keep_posteriors: bool = False,
) -> ClassLabels:
    """The classes on a grid.

    window: the grid of the field. largest: channels of which only the largest 6-connected component is kept; other
    voxels take channels that lie beside them. finite: boolean [X, Y, Z], where the image has values; None for
    everywhere. Elsewhere, and beyond the window, all is background.
    """
    labels = ClassLabels(_zeros(grid.shape), np.zeros(len(classes.probability), dtype=np.int64))

    def label_block(box: Box) -> _Block | None:
        """The classes in a block."""
        used = None if finite is None else finite[box].ravel()
        return _label_block(classes, window, grid.part(box), used, keep_posteriors)

    boxes = list(_blocks(window, grid))
    with ThreadPoolExecutor(thread_count()) as pool:
        for box, block in zip(boxes, pool.map(label_block, boxes), strict=True):
            if block is not None:
                labels.channels[box] = block.channels
                labels.steps[block.active] += block.sums
                if keep_posteriors:
                    labels.parts.append((box, block.active, block.stored))
    _keep_largest(classes, window, grid, largest, labels)
    return labels


def _blocks(window: Grid, grid: Grid) -> Iterator[Box]:
    """Blocks of a grid that together hold all of its voxels in the window."""
    low, high = Grid(window.shape, grid.index_of(window)).bounds_mm()  # in voxels of the grid
    start = np.clip(np.ceil(low), 0, grid.shape).astype(int)
    stop = np.clip(np.floor(high) + 1, start, grid.shape).astype(int)
    corners = (range(a, b, BLOCK) for a, b in zip(start.tolist(), stop.tolist(), strict=True))
    for corner in np.stack(np.meshgrid(*corners, indexing="ij"), -1).reshape(-1, 3).tolist():
        yield tuple(slice(a, min(a + BLOCK, int(b))) for a, b in zip(corner, stop, strict=True))


@dataclass(frozen=True, eq=False)
class _Block:
    """The classes in a block.

    channels: [X, Y, Z]. active: [A], the channels that are probable in it. sums: [A], of their probabilities in
    steps of 1 / 255. stored: these probabilities, uint8 [A, N]; [A, 0] if they are not kept.
    """

    channels: np.ndarray
    active: np.ndarray
    sums: np.ndarray
    stored: np.ndarray


def _label_block(
    classes: ClassField, window: Grid, part: Grid, finite: np.ndarray | None, keep_posteriors: bool
) -> _Block | None:
    """The classes in the part of a grid; None if all of it is background. finite: boolean [N]."""
    around = _window_box(window, part)
    if around is None:
        return None
    near = classes.probability[:, around[0], around[1], around[2]]
    active = np.flatnonzero(near.max((1, 2, 3)) > LEAST)
    if active.tolist() == [BACKGROUND]:
        return None
    points = grid_points(window, part)
    used = within(points, window.shape)
    if finite is not None:
        used &= finite
    points -= np.array([[side.start] for side in around], dtype=np.float32)
    values = linear_weights(points, near.shape[1:]) @ np.ascontiguousarray(near[active].reshape(len(active), -1).T)
    values[~used] = 0
    channels = np.where(used, active[values.argmax(1)], BACKGROUND).reshape(part.shape)
    stored = _in_steps(values)
    kept = np.ascontiguousarray(stored.T[:, : stored.shape[0] if keep_posteriors else 0])
    return _Block(channels.astype(np.uint8), active, stored.sum(0, dtype=np.int64), kept)


def _window_box(window: Grid, part: Grid) -> Box | None:
    """The voxels of the window that interpolation at the voxels of a part of another grid takes; None if none."""
    ends = Grid(tuple(2 for _ in part.shape), part.vox2world @ np.diag([*(n - 1 for n in part.shape), 1]))
    points = grid_points(window, ends)
    start = np.floor(points.min(1) - 0.01).astype(int)  # the corners are rounded
    stop = np.ceil(points.max(1) + 0.01).astype(int) + 1
    if (stop <= 0).any() or (start >= window.shape).any():
        return None
    start, stop = np.clip(start, 0, None), np.minimum(stop, window.shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))


def _in_steps(values: np.ndarray) -> np.ndarray:
    """Probabilities in steps of 1 / 255, uint8 of the same shape."""
    return np.rint(values * np.float32(STEPS)).astype(np.uint8)


def _keep_largest(
    classes: ClassField, window: Grid, grid: Grid, largest: Collection[int], labels: ClassLabels
) -> None:
    """Take channels from voxels apart from their largest component.

    The outermost of them take the most probable of the channels beside them, then those beside these, and so on.
    Each is thus joined to a component that is kept.
    """
    loose = _loose_voxels(labels.channels, largest)
    own = labels.channels[tuple(loose)]
    labels.channels[tuple(loose)] = LOOSE
    while own.size:
        beside = np.stack([labels.channels[tuple(each)] for each in _neighbours(loose, grid.shape)])
        front = (beside != LOOSE).any(0)
        here, lost, beside = loose[:, front], own[front], beside[:, front]
        values = _values_at(classes, window, grid, here)
        voxels = np.arange(len(lost))
        rank = np.where(beside == LOOSE, -1, values[voxels, np.minimum(beside, len(classes.probability) - 1)])
        taken = beside[rank.argmax(0), voxels]
        labels.channels[tuple(here)] = taken
        labels.drop(here[:, taken != lost], lost[taken != lost], _in_steps(values[voxels, lost])[taken != lost])
        loose, own = loose[:, ~front], own[~front]


def _loose_voxels(channels: np.ndarray, chosen: Collection[int]) -> np.ndarray:
    """The voxels of chosen channels apart from the largest component of each, as indices [3, N]."""
    loose = [np.empty((3, 0), dtype=np.int64)]
    for channel, box in enumerate(ndimage.find_objects(channels), start=1):
        if box is not None and channel in chosen:
            mask = channels[box] == channel
            apart = mask & ~largest_component(mask.T).T  # labelling is slower across the order in memory
            loose.append(np.stack(np.nonzero(apart)) + np.array([[side.start] for side in box]))
    return np.concatenate(loose, axis=1)


def _neighbours(voxels: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The six neighbours of voxels, as indices [3, N]; at the border of the grid the voxels themselves."""
    last = np.array(shape)[:, None] - 1
    for step in (*np.eye(3, dtype=np.int64), *-np.eye(3, dtype=np.int64)):
        yield (voxels + step[:, None]).clip(0, last)


def _values_at(classes: ClassField, window: Grid, grid: Grid, voxels: np.ndarray) -> np.ndarray:
    """The probabilities, float32 [N, C], at voxels of a grid, given as indices [3, N]."""
    matrix = window.index_of(grid)
    points = (matrix[:3, :3] @ voxels + matrix[:3, 3:]).astype(np.float32)
    weights = linear_weights(points, window.shape)
    columns = np.unique(weights.indices)  # a column for each voxel of the window is too much for few points
    near = classes.probability.reshape(len(classes.probability), -1)[:, columns]
    return weights[:, columns] @ np.ascontiguousarray(near.T)
