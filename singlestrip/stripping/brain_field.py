"""The networks' continuous output: where the brain is, on the segmenter's window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..space.grid import Box, Grid
from ..space.metrics import dice
from ..space.morphology import bounding_box
from ..space.resample import sample
from .class_field import ClassField

FAR_LOGIT = -20.0  # beyond the segmenter's window there is no brain
SURFACE_VOXELS = 2  # beside the brain; their logit tells where between voxels the surface lies


@dataclass(frozen=True, eq=False)
class BrainField:
    """Logit of the brain.

    logit: [X, Y, Z] on its grid, positive in the brain; vox2world: of that grid. brightness: median
    intensity of the brain, 0 for the darkest of the image and 1 for its brightest, 0 without brain.
    share_in_bright: how much of the brain lies within the bounds of what is bright in the image. views:
    [V, X, Y, Z], the logits of the views whose mean is the logit; None if the window has no brain. classes: how
    probable each class of the model is; None if they are not kept, or the window has no brain.
    """

    logit: np.ndarray
    vox2world: np.ndarray
    brightness: float = 1.0
    share_in_bright: float = 1.0
    views: np.ndarray | None = None
    classes: ClassField | None = None

    @property
    def grid(self) -> Grid:
        """Where the voxels of the logit lie."""
        return Grid(self.logit.shape, self.vox2world)

    def view_dice(self) -> list[float]:
        """Dice of the brain in each view with that in their mean; 1 without views."""
        brain = self.logit > 0
        return [1.0] if self.views is None else [dice(view > 0, brain) for view in self.views]

    def around_brain(self, grid: Grid, order: Literal["C", "F"] = "C") -> tuple[Box, np.ndarray]:
        """Interpolate the logit linearly to the part of another grid where there is brain.

        Returns the part and the logit, float32, within it. The part holds all that is positive and the voxels
        around that. The logit is FAR_LOGIT where the part reaches beyond the window. The part is empty if there
        is no brain. order: of the logit in memory, see `sample`.
        """
        brain = bounding_box(self.logit > 0)
        if brain is None:
            return (slice(0, 0),) * 3, np.empty((0, 0, 0), dtype=np.float32)
        # Interpolation is positive less than a voxel beyond the last positive one. The surface is
        # drawn from the differences of the voxels on both sides.
        brain = tuple(slice(s.start - 1, s.stop + 1) for s in brain)
        around = self.grid.part(brain)
        low, high = Grid(around.shape, grid.index_of(around)).bounds_mm()  # in voxels of the other grid
        start = np.clip(np.floor(low) - SURFACE_VOXELS, 0, grid.shape).astype(int)
        stop = np.clip(np.ceil(high) + 1 + SURFACE_VOXELS, start, grid.shape).astype(int)
        box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        part = grid.part(box)
        return box, sample(self.logit, self.grid.index_of(part), part.shape, FAR_LOGIT, order)
