"""A mask as the quality network rebuilds it: as a brain would be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, special

from ..configuration import SLICE_BATCH, DoubtConfig
from ..errors import InputError
from ..networks.engine import AUTOENCODER_NETWORK, Engine
from ..space.grid import Grid, voxel_volume_ml
from ..space.metrics import dice, hausdorff95, volume_ml
from ..space.resample import coarsened, conform
from ..space.scan import Scan


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A mask as the autoencoder would have it, beside the mask itself, on the quality network's grid.

    given, probability: float32 [S, S, S] in [0, 1]; vox2world: of the grid; outside_ml: how much of
    the mask lies beyond it.
    """

    given: np.ndarray
    probability: np.ndarray
    vox2world: np.ndarray
    outside_ml: float

    @property
    def dice(self) -> float:
        """Dice of mask and reconstruction, in which parts of voxels count as such (Crum et al. 2006).

        The grid is coarse. What lies beyond it counts as not reconstructed.
        """
        voxel_ml = voxel_volume_ml(self.vox2world)
        total = float(self.given.sum() + self.probability.sum()) * voxel_ml + self.outside_ml
        return 2 * float(np.minimum(self.given, self.probability).sum()) * voxel_ml / total if total else 0.0

    @property
    def hd95_mm(self) -> float:
        """95th percentile of the distances between the surfaces of mask and reconstruction."""
        return hausdorff95(self.given > 0.5, self.probability > 0.5, self.vox2world)

    def slice_dice(self) -> tuple[tuple[float, ...], float]:
        """Dice of each axial slice that holds mask or reconstruction, from the lowest up, and the least of
        those of the large slices."""
        a, b = (np.moveaxis(part > 0.5, 2, 0) for part in (self.given, self.probability))
        size = np.array([np.count_nonzero(x | y) for x, y in zip(a, b, strict=True)])
        by_slice = {k: dice(a[k], b[k]) for k in np.flatnonzero(size)}
        large = np.flatnonzero(size > DoubtConfig.large_slice * size.max())
        return tuple(by_slice.values()), min((by_slice[k] for k in large), default=0.0)

    def finer_grid(self) -> Grid:
        """The grid of the network with voxels of half the size."""
        low, high = Grid(self.given.shape, self.vox2world).bounds_mm()
        shape = tuple(2 * size for size in self.given.shape)
        return Grid.conformed((low + high) / 2, shape, self.vox2world[0, 0] / 2)

    def on_grid(self, grid: Grid) -> np.ndarray:
        """The reconstruction on another grid, boolean [X, Y, Z]."""
        return conform(Scan(self.probability, self.vox2world), grid) > 0.5


def reconstruct(engine: Engine, mask: Scan) -> Reconstruction:
    """A boolean mask on the network's grid around its centre of mass, and as the network would have it.

    Beyond the image's field of view nothing is expected, nor of an empty mask.
    """
    if mask.array.ndim != 3 or mask.array.dtype != bool:
        raise InputError(f"need a boolean mask [X, Y, Z], not {mask.array.dtype} {mask.shape}")
    size, voxel_mm = (engine.config.size,) * 3, engine.config.voxel_size_mm
    if not mask.array.any():
        nothing = np.zeros(size, dtype=np.float32)
        return Reconstruction(nothing, nothing, Grid.conformed((0, 0, 0), size, voxel_mm).vox2world, 0.0)
    coarse = coarsened(mask, voxel_mm)
    centre = coarse.vox2world @ [*ndimage.center_of_mass(coarse.array), 1.0]
    grid = Grid.conformed(centre[:3], size, voxel_mm)
    given = conform(coarse, grid, fill=np.nan)
    covered = ~np.isnan(given)
    given = np.where(covered, given, np.float32(0))
    if engine.config.kind == "slices":
        probability = _through_slices(engine, given)
    else:
        probability = special.expit(engine.run(AUTOENCODER_NETWORK, given[None, None])[0, 0])
    probability = np.where(covered, probability, np.float32(0))
    inside_ml = float(given.sum()) * (voxel_mm**3 / 1000)
    outside_ml = max(0.0, volume_ml(mask.array, mask.vox2world) - inside_ml)
    return Reconstruction(given, probability, grid.vox2world, outside_ml)


def _through_slices(engine: Engine, given: np.ndarray) -> np.ndarray:
    """Mean probability [S, S, S] over the axes; slices without mask stay empty."""
    total = np.zeros_like(given)
    for axis in engine.config.axes:
        slices = np.moveaxis(given, axis, 0)
        stacked = np.zeros_like(slices)
        seen = np.flatnonzero(slices.max(axis=(1, 2)) > 0)
        for start in range(0, len(seen), SLICE_BATCH):
            part = seen[start : start + SLICE_BATCH]
            stacked[part] = special.expit(engine.run(AUTOENCODER_NETWORK, slices[part][:, None])[:, 0])
        total += np.moveaxis(stacked, 0, axis)
    return total / len(engine.config.axes)
