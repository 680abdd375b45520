"""Evidence for the quality of a mask: what can be measured of it without truth.

A mask alone shows whether it has the shape of a brain, and its image whether it lies in the dark. The networks
that strip tell how far their views agree on their own mask of the image, and how far a mask differs from that.
Each measurement is a share, a ratio or a number of voxels, so that it means the same in any anatomy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..networks.normalisation import normalise
from ..space.grid import Grid
from ..space.metrics import dice
from ..space.morphology import clean, fill_holes, largest_component, mask_box, thin_axes
from ..space.resample import coarsened, conform
from ..space.scan import Scan
from ..stripping.brain_field import BrainField
from ..stripping.intensities import intensities_of
from .reconstruction import Reconstruction

Source = Literal["mask", "image", "model"]


@dataclass(frozen=True)
class Measurement:
    """A kind of evidence.

    trend: 1 if more of it never speaks for a worse mask, -1 if it never speaks for a better one, 0 if neither is
    sure.
    """

    name: str
    trend: int


DARK = 0.02  # of the range of intensities

# What a mask alone shows, and what it shows on its image.
OF_MASK = (
    Measurement("shape_dice", 1),
    Measurement("shape_hd95", -1),
    Measurement("lowest_slice", 1),
    Measurement("apart", -1),
    Measurement("holes", -1),
)
OF_IMAGE = (Measurement("dark", -1),)
# What the networks tell of their own mask; "own_" is what that mask shows by itself.
OF_NETWORKS = (
    Measurement("views", 1),
    Measurement("least_view", 1),
    Measurement("own_shape_dice", 1),
    Measurement("own_shape_hd95", -1),
    Measurement("own_lowest_slice", 1),
)
# How a mask differs from that of the networks.
OF_DIFFERENCE = (Measurement("model_dice", 1), Measurement("model_volume", 0))


def mask_evidence(mask: Scan, reconstruction: Reconstruction) -> dict[str, float]:
    """What a boolean mask alone, not empty, shows."""
    box = mask_box(mask.array)
    part = mask.array[box]
    count = np.count_nonzero(part)
    main = largest_component(part)
    holes = np.count_nonzero(fill_holes(part, thin_axes(mask.shape))) - count
    voxel_mm = float(reconstruction.vox2world[0, 0])
    hd95 = reconstruction.hd95_mm / voxel_mm
    return {
        "shape_dice": reconstruction.dice,
        "shape_hd95": min(hd95, float(len(reconstruction.given))),
        "lowest_slice": reconstruction.slice_dice()[1],
        "apart": 1 - np.count_nonzero(main) / count,
        "holes": holes / count,
    }


@dataclass(frozen=True, eq=False)
class ImageWindow:
    """An image around a brain, at the voxel size of the networks.

    image: float32 [X, Y, Z], NaN beyond the image; grid: where its voxels lie.
    """

    image: np.ndarray
    grid: Grid

    @staticmethod
    def of(image: Scan, grid: Grid) -> ImageWindow:
        """The part of an image on a conformed grid. Raises InputError as `intensities_of`."""
        voxel_mm = float(grid.voxel_sizes_mm[0])
        window = conform(coarsened(image, voxel_mm, intensities_of(image).of), grid, fill=np.nan)
        return ImageWindow(window, grid)


@dataclass(frozen=True, eq=False)
class SeenMask:
    """A mask on its image. brain: the mask on the grid of the window, boolean [X, Y, Z]."""

    mask: Scan
    window: ImageWindow
    brain: np.ndarray

    @staticmethod
    def of(mask: Scan, window: ImageWindow) -> SeenMask:
        """A boolean mask on the grid of a window."""
        return SeenMask(mask, window, _conformed_mask(mask, window.grid))

    def on(self, grid: Grid) -> np.ndarray:
        """The mask on a conformed grid, boolean [X, Y, Z]."""
        return self.brain if grid.is_same(self.window.grid) else _conformed_mask(self.mask, grid)


def _conformed_mask(mask: Scan, grid: Grid) -> np.ndarray:
    """A boolean mask on a conformed grid, boolean [X, Y, Z]."""
    return conform(coarsened(mask, float(grid.voxel_sizes_mm[0])), grid) > 0.5


def image_evidence(seen: SeenMask) -> dict[str, float]:
    """What a mask shows on its image: the share of it that is dark or lies beyond the image. It is not empty."""
    image = seen.window.image
    shown = normalise(image, ~np.isnan(image))
    return {"dark": float((shown[seen.brain] < DARK).mean())}


def own_mask(field: BrainField) -> np.ndarray:
    """The mask that the networks make, on the grid of their output; boolean [X, Y, Z]."""
    return clean(field.logit > 0)


def networks_evidence(field: BrainField, own: Mapping[str, float]) -> dict[str, float]:
    """What the networks tell of their own mask. own: what that mask shows by itself."""
    agreement = field.view_dice()
    return {"views": float(np.mean(agreement)), "least_view": min(agreement)} | {
        each.name: own[each.name.removeprefix("own_")] for each in OF_NETWORKS if each.name.startswith("own_")
    }


def difference(brain: np.ndarray, own: np.ndarray) -> dict[str, float]:
    """How a mask differs from that of the networks, both boolean [X, Y, Z] on the same grid."""
    ratio = (1 + np.count_nonzero(brain)) / (1 + np.count_nonzero(own))
    return {"model_dice": dice(brain, own), "model_volume": float(np.log(ratio))}
