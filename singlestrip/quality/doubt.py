"""Where a mask is in doubt: voxels and slices in which the networks would put the brain elsewhere.

Several votes say how likely each voxel is brain: each view of the networks that strip, if their output is there,
and the mask as the quality network rebuilds it. The doubt of a voxel is the mean difference of mask and votes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage, special

from ..configuration import DoubtConfig
from ..space.grid import Box, Grid
from ..space.morphology import bounding_box
from ..space.resample import sample
from ..space.scan import Scan
from ..stripping.brain_field import BrainField
from .reconstruction import Reconstruction


class SliceDoubt(NamedTuple):
    """The doubt of an axial slice. number: its index in the image, from 0 on."""

    number: int
    doubt: float


@dataclass(frozen=True, eq=False)
class Doubt:
    """The doubt of each voxel of an image.

    grid: of the image. box: the part with mask or votes; beyond it there is no doubt. values: float32 [x, y, z] in
    [0, 1], within the box. area: [n], mean of the voxels of mask and votes in each axial slice of the box.
    """

    grid: Grid
    box: Box
    values: np.ndarray
    area: np.ndarray
    config: DoubtConfig = DoubtConfig()

    def everywhere(self) -> np.ndarray:
        """The doubt in the whole image, float32 [X, Y, Z], in memory in the order of files."""
        whole = np.zeros(self.grid.shape, dtype=np.float32, order="F")
        whole[self.box] = self.values
        return whole

    def by_slice(self) -> tuple[float, ...]:
        """The doubt of every axial slice of the image, in [0, 1], by its number.

        It is the doubt of all its voxels over the sum of mask and votes. For one vote this is 1 less the Dice of
        mask and vote, in which shares of voxels count as such. It is 0 where there is neither mask nor vote.
        """
        axis = self.grid.axial_axis
        slices = np.zeros(self.grid.shape[axis])
        total = _sum_slices(self.values, axis)
        slices[self.box[axis]] = np.divide(total, 2 * self.area, out=np.zeros_like(total), where=self.area > 0)
        return tuple(slices.tolist())

    def worst_slices(self) -> tuple[SliceDoubt, ...]:
        """The axial slices of most doubt, the worst first, among those with a large part of mask or votes."""
        doubts = self.by_slice()
        first = self.box[self.grid.axial_axis].start
        large = first + np.flatnonzero(self.area > self.config.large_slice * self.area.max(initial=0))
        slices = [SliceDoubt(int(number), doubts[number]) for number in large]
        return tuple(sorted(slices, key=lambda each: -each.doubt)[: self.config.slices])

    def worst_place(self) -> np.ndarray:
        """The voxel [3] at which the blurred doubt is largest; the middle of the image if there is no doubt."""
        if not self.values.any():
            return np.array(self.grid.shape) // 2
        sigma = self.config.blur_mm / self.grid.voxel_sizes_mm
        blurred = ndimage.gaussian_filter(self.values, sigma, mode="constant", truncate=2)
        place = np.unravel_index(blurred.argmax(), blurred.shape)
        return np.array([side.start + int(index) for side, index in zip(self.box, place, strict=True)])


def map_doubt(
    mask: Scan,
    reconstruction: Reconstruction,
    field: BrainField | None = None,
    config: DoubtConfig = DoubtConfig(),
) -> Doubt:
    """Where a mask is in doubt.

    mask: boolean. reconstruction: of it. field: the output of the networks for its image, of which each view has a
    vote. Beyond its window a network votes for no brain.
    """
    votes = [_Vote.of_reconstruction(reconstruction), *_votes_of_views(field)]
    box = _joined([bounding_box(mask.array), *(vote.box_on(mask.grid, config.least_vote) for vote in votes)])
    brain = mask.array[box]
    part, axis = mask.grid.part(box), mask.grid.axial_axis
    total = np.zeros(brain.shape, dtype=np.float32)
    area = np.zeros(brain.shape[axis])
    for vote in votes:
        probability = vote.on_grid(part)
        area += _sum_slices(probability, axis) / len(votes)
        np.subtract(probability, brain, out=probability)
        total += np.abs(probability, out=probability)
    total /= len(votes)
    return Doubt(mask.grid, box, total, (area + _sum_slices(brain, axis)) / 2, config)


@dataclass(frozen=True, eq=False)
class _Vote:
    """What a network takes for brain.

    values: [X, Y, Z] on a grid, probabilities in [0, 1] or, if `is_logit`, their logits.
    """

    values: np.ndarray
    grid: Grid
    is_logit: bool

    @staticmethod
    def of_reconstruction(reconstruction: Reconstruction) -> _Vote:
        """The vote of the quality network."""
        probability = reconstruction.probability
        return _Vote(probability, Grid(probability.shape, reconstruction.vox2world), False)

    def box_on(self, grid: Grid, least: float) -> Box | None:
        """The part of another grid where the probability may be `least` or more; None if it is nowhere."""
        box = bounding_box(self._probability(self.values) >= least)
        if box is None:
            return None
        reach = tuple(slice(side.start - 1, side.stop + 1) for side in box)  # of the interpolation
        return grid.box_around(*self.grid.part(reach).bounds_mm(), 0.0)

    def on_grid(self, grid: Grid) -> np.ndarray:
        """The probability on another grid, float32 [X, Y, Z], 0 beyond its own.

        Logits are interpolated as they are where masks are made of them.
        """
        nothing = -np.inf if self.is_logit else 0.0
        return self._probability(sample(self.values, self.grid.index_of(grid), grid.shape, nothing))

    def _probability(self, values: np.ndarray) -> np.ndarray:
        """Probabilities of the values of a vote."""
        return special.expit(values) if self.is_logit else values


def _votes_of_views(field: BrainField | None) -> Iterator[_Vote]:
    """The vote of each view of the networks that strip."""
    if field is None:
        return
    for logit in field.logit[None] if field.views is None else field.views:
        yield _Vote(logit, field.grid, True)


def _joined(boxes: list[Box | None]) -> Box:
    """The box around several boxes; None among them stands for nothing."""
    given = [box for box in boxes if box is not None]
    if not given:
        return (slice(0, 0),) * 3
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*given, strict=True)
    )


def _sum_slices(values: np.ndarray, axis: int) -> np.ndarray:
    """The sum of each slice across an axis, float64 [n]."""
    return values.sum(axis=tuple(other for other in range(3) if other != axis), dtype=np.float64)
