"""A label map on the grid and the device that images are made on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage

from .gmm import is_inside
from .shape_bank import ShapeBank


@dataclass(frozen=True)
class Targets:
    """The classes that a segmenter learns to tell apart.

    channels: uint8 [X, Y, Z], the channel of each voxel's class, 0 for the background; mirrored: int64 [1 + K],
    the channel that each is in a mirrored head.
    """

    channels: torch.Tensor
    mirrored: torch.Tensor


@dataclass(frozen=True)
class LabelMap:
    """A conformed label map on the training device.

    labels: int32 [X, Y, Z], 0 outside the scan, 1-100 outside the brain, above 100 inside;
    brain: float [X, Y, Z], 1 in the brain; scanned: likewise where there is a label, None for
    everywhere; away_mm: float [X, Y, Z], distance to the brain, 0 in it; depth_mm: float [X, Y, Z], distance to
    the surface within the brain, 0 outside; spacing_mm; brain_mm: [3],
    middle of the brain's bounding box, mm from the middle of the map; shares: [256] on the CPU, of each class
    in the brain; levels: [256] on the CPU, intensity of each class in the labelled scan from 0 to 1, None where it
    is not known;
    targets: the classes to tell apart, None if it is the brain alone; bank: shapes of other people, None for its
    own shape alone; spared_mm: how far on each side of the brain's border no loss is taken, since the border may
    be wrong there.
    """

    labels: torch.Tensor
    brain: torch.Tensor
    scanned: torch.Tensor | None
    away_mm: torch.Tensor
    depth_mm: torch.Tensor
    spacing_mm: float
    brain_mm: torch.Tensor
    shares: torch.Tensor | None = None
    levels: torch.Tensor | None = None
    targets: Targets | None = None
    bank: ShapeBank | None = None
    spared_mm: float = 0.0

    @staticmethod
    def of(
        labels: np.ndarray,
        spacing_mm: float,
        device: torch.device | str = "cpu",
        levels: np.ndarray | None = None,
        targets: Targets | None = None,
        bank: ShapeBank | None = None,
    ) -> LabelMap:
        """From a conformed label map uint8 [X, Y, Z], the levels of its classes float32 [256], and its bank."""
        brain = is_inside(labels)
        where = np.argwhere(brain)
        middle = (where.min(0) + where.max(0)) / 2 - (np.array(labels.shape) - 1) / 2
        scanned = None if labels.all() else torch.from_numpy((labels > 0).astype(np.float32)).to(device)
        # The surface lies halfway between the two voxels beside it.
        away, depth = (
            (ndimage.distance_transform_edt(where) - 0.5).clip(0) * spacing_mm for where in (~brain, brain)
        )
        return LabelMap(
            torch.from_numpy(labels.astype(np.int32)).to(device),
            torch.from_numpy(brain.astype(np.float32)).to(device),
            scanned,
            torch.from_numpy(away.astype(np.float32)).to(device),
            torch.from_numpy(depth.astype(np.float32)).to(device),
            spacing_mm,
            torch.tensor(middle * spacing_mm, dtype=torch.float32),
            torch.from_numpy(np.bincount(labels[brain], minlength=256) / brain.sum()),
            None if levels is None else torch.from_numpy(levels),
            targets,
            bank,
        )

    def part_around(self, at: torch.Tensor) -> tuple[LabelMap, torch.Tensor]:
        """The part of the map that points [1, X, Y, Z, 3] lie in, and the points in that part.

        Both are in the coordinates of grid_sample, last axis first. Only such a part needs to be painted.
        """
        shape = self.labels.shape
        low, high = (ends(at.flatten(0, 3), 0).flip(0).cpu() for ends in (torch.amin, torch.amax))
        size = torch.tensor(shape)
        start = (((low + 1) * size - 1) / 2 - 1).floor().clamp(torch.zeros(3), (size - 2).clamp(min=0))
        stop = (((high + 1) * size - 1) / 2 + 2).ceil().clamp(start + 2, size)
        box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        scale = (size / (stop - start)).flip(0)
        shift = ((size - start - stop) / (stop - start)).flip(0)
        part = replace(
            self,
            labels=self.labels[box],
            brain=self.brain[box],
            scanned=None if self.scanned is None else self.scanned[box],
            away_mm=self.away_mm[box],
            depth_mm=self.depth_mm[box],
            targets=self.targets and replace(self.targets, channels=self.targets.channels[box]),
        )
        return part, at * scale.to(at.device) + shift.to(at.device)

    def grid_from_mm(self) -> torch.Tensor:
        """[4, 4] on the CPU: mm from the middle of the brain to grid_sample's coordinates, ±1 at the edges."""
        half = torch.tensor(self.labels.shape) * self.spacing_mm / 2
        matrix = torch.diag(torch.cat([1 / half, torch.ones(1)]))
        matrix[:3, 3] = self.brain_mm / half
        return matrix
