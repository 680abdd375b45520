"""Probabilities on the segmenter's window to labels, volumes and posteriors on an image's grid. Needs no torch.

Labels follow the interpolated probabilities: each voxel takes the class that is most probable in its middle. No
map of labels is resampled. Where the image itself is asked, what is expected is interpolated, and each voxel's own
intensity says the rest, so that labels are as fine as the image. The grid is cut into blocks. Most classes are
probable in few blocks, so that time and memory hardly grow with the number of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

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
SAMPLED = 200_000  # voxels of an image, whose noise is measured
TINY = float(np.finfo(np.float32).tiny)
NORMAL_MEDIAN = 0.6745  # of the absolute value of a standard normal variable
Where = tuple[slice, ...] | tuple[np.ndarray, ...]  # part of a grid, or indices of voxels along each axis
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
    intensities: Callable[[Where], np.ndarray] | None = None,
) -> ClassLabels:
    """The classes on a grid.

    window: the grid of the field. intensities: of the scan at a part of the grid, or at voxels, if the image is
    asked. largest: channels of which only the largest 6-connected component is kept; other
    voxels take channels that lie beside them. finite: boolean [X, Y, Z], where the image has values; None for
    everywhere. Elsewhere, and beyond the window, all is background.
    """
    labels = ClassLabels(_zeros(grid.shape), np.zeros(len(classes.probability), dtype=np.int64))
    seen = _Seen.of(classes, window, grid, intensities)

    def label_block(box: Box) -> _Block | None:
        """The classes in a block."""
        used = None if finite is None else finite[box].ravel()
        return _label_block(seen, box, used, keep_posteriors)

    boxes = list(_blocks(window, grid))
    with ThreadPoolExecutor(thread_count()) as pool:
        for box, block in zip(boxes, pool.map(label_block, boxes), strict=True):
            if block is not None:
                labels.channels[box] = block.channels
                labels.steps[block.active] += block.sums
                if keep_posteriors:
                    labels.parts.append((box, block.active, block.stored))
    _keep_largest(seen, largest, labels)
    return labels


@dataclass(frozen=True, eq=False)
class _Seen:
    """Classes in a window, and a grid on which they are wanted.

    intensities: see `label_grid`, if the image is asked. detail: share of what a voxel's intensity differs by from
    that in the window, which is counted; the rest is noise.
    """

    classes: ClassField
    window: Grid
    grid: Grid
    intensities: Callable[[Where], np.ndarray] | None = None
    detail: float = 1.0

    @staticmethod
    def of(
        classes: ClassField, window: Grid, grid: Grid, intensities: Callable[[Where], np.ndarray] | None
    ) -> _Seen:
        """The classes, and the detail of the image by its noise."""
        if classes.told is None or intensities is None:
            return _Seen(classes, window, grid)
        seen = _Seen(classes, window, grid, intensities)
        return replace(seen, detail=seen._detail())

    def _detail(self) -> float:
        """The share of signal in the variance of what the window does not show, at some voxels.

        Most voxels beside one another lie in one tissue: their median difference is that of noise.
        """
        every = max(1, round((np.prod(self.grid.shape) / SAMPLED) ** (1 / 3)))
        axis = int(np.argmin(self.grid.voxel_sizes_mm))
        ends = (n - (each == axis) for each, n in enumerate(self.grid.shape))
        voxels = np.stack(np.meshgrid(*(np.arange(0, n, every) for n in ends), indexing="ij")).reshape(3, -1)
        points = self.points(voxels)
        voxels, points = (each[:, within(points, self.window.shape)] for each in (voxels, points))
        beside = voxels + (np.arange(3) == axis)[:, None]
        first, second = (self._shown(tuple(each)) for each in (voxels, beside))
        signal = (first > 0) & (first < 1) & (second > 0) & (second < 1)  # neither cut off nor blank
        if not signal.any():
            return 1.0
        noise = (np.median(np.abs(first - second)[signal]) / NORMAL_MEDIAN) ** 2 / 2
        unseen = np.mean((first - self._in_window(points))[signal] ** 2)
        return float(np.clip(1 - noise / max(unseen, TINY), 0, 1))

    @property
    def expected(self) -> np.ndarray:
        """What is interpolated, [C, X, Y, Z]: what is expected if the image is asked, else the probabilities."""
        told = self.classes.told if self.intensities is not None else None
        return self.classes.probability if told is None else told.expected

    def points(self, voxels: np.ndarray) -> np.ndarray:
        """Where voxels [3, N] of the grid lie in the window, float32 [3, N]."""
        matrix = self.window.index_of(self.grid)
        return (matrix[:3, :3] @ voxels + matrix[:3, 3:]).astype(np.float32)

    def interpolated(self, values: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Values [C, X, Y, Z] at points [3, N] of the window, [N, C]. For few points."""
        weights = linear_weights(points, self.window.shape)
        columns = np.unique(weights.indices)  # a column for each voxel of the window is too much for few points
        return weights[:, columns] @ np.ascontiguousarray(values.reshape(len(values), -1)[:, columns].T)

    def judged(self, values: np.ndarray, active: np.ndarray, where: Where, points: np.ndarray) -> np.ndarray:
        """Probabilities [N, A] of channels [A] at voxels, of what is interpolated there.

        where: of the grid; points: the same [3, N] in the window.
        """
        told = self.classes.told
        if told is None or self.intensities is None:
            return values
        evidence = told.evidence
        coarse = self._in_window(points)
        intensity = coarse + np.float32(self.detail) * (self._shown(where) - coarse)
        bias = linear_weights(points / evidence.config.stride, evidence.bias.shape) @ evidence.bias.ravel()
        likelihood = evidence.of_channels(active).log_likelihood((intensity / (1 + bias))[None])
        likelihood -= likelihood.max(0)
        values = values * np.exp(likelihood, out=likelihood).T
        return values / values.sum(1, keepdims=True).clip(TINY)

    def _shown(self, where: Where) -> np.ndarray:
        """The scan's intensities [N] at voxels of the grid, as the network sees them."""
        assert self.intensities is not None and self.classes.told is not None, "the image is asked"
        told = self.classes.told
        return ((self.intensities(where).ravel() - told.low) / np.float32(told.width)).clip(0, 1)

    def _in_window(self, points: np.ndarray) -> np.ndarray:
        """The intensities [N] of the window at points [3, N] in it."""
        assert self.classes.told is not None, "the image is asked"
        return linear_weights(points, self.window.shape) @ self.classes.told.image.ravel()


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


def _label_block(seen: _Seen, box: Box, finite: np.ndarray | None, keep_posteriors: bool) -> _Block | None:
    """The classes in a part of the grid; None if all of it is background. finite: boolean [N]."""
    window, part = seen.window, seen.grid.part(box)
    around = _window_box(window, part)
    if around is None:
        return None
    near = seen.classes.probability[:, around[0], around[1], around[2]]
    active = np.flatnonzero(near.max((1, 2, 3)) > LEAST)
    if active.tolist() == [BACKGROUND]:
        return None
    points = grid_points(window, part)
    used = within(points, window.shape)
    if finite is not None:
        used &= finite
    near = seen.expected[:, around[0], around[1], around[2]][active]
    shifted = points - np.array([[side.start] for side in around], dtype=np.float32)
    values = linear_weights(shifted, near.shape[1:]) @ np.ascontiguousarray(near.reshape(len(active), -1).T)
    values = seen.judged(values, active, box, points)
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


def _keep_largest(seen: _Seen, largest: Collection[int], labels: ClassLabels) -> None:
    """Take channels from voxels apart from their largest component.

    The outermost of them take the most probable of the channels beside them, then those beside these, and so on.
    Each is thus joined to a component that is kept.
    """
    loose = _loose_voxels(labels.channels, largest)
    own = labels.channels[tuple(loose)]
    labels.channels[tuple(loose)] = LOOSE
    while own.size:
        beside = np.stack([labels.channels[tuple(each)] for each in _neighbours(loose, seen.grid.shape)])
        front = (beside != LOOSE).any(0)
        here, lost, beside = loose[:, front], own[front], beside[:, front]
        values = _values_at(seen, here)
        voxels = np.arange(len(lost))
        rank = np.where(beside == LOOSE, -1, values[voxels, np.minimum(beside, values.shape[1] - 1)])
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


def _values_at(seen: _Seen, voxels: np.ndarray) -> np.ndarray:
    """The probabilities, float32 [N, C], at voxels of the grid, given as indices [3, N]."""
    points = seen.points(voxels)
    values = seen.interpolated(seen.expected, points)
    return seen.judged(values, np.arange(values.shape[1]), tuple(voxels), points)
