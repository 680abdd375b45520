"""How far a mask can be trusted, with no truth at hand: the autoencoder's estimate."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from ..configuration import SLICE_BATCH, FlagConfig
from ..errors import InputError
from ..networks.autoencoder import Autoencoder
from ..networks.checkpoint import find_model, is_shipped, load_model, read_header
from ..networks.device import choose_device, limit_threads_after_fork
from ..space.grid import Grid, voxel_volume_ml
from ..space.metrics import dice, hausdorff95, volume_ml
from ..space.morphology import fill_holes, mask_box, thin_axes
from ..space.resample import coarsened, conform
from ..space.scan import Scan, as_scan

log = logging.getLogger(__name__)

LARGE_SLICE = 0.1  # of the largest: the tips of a brain say little


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
        large = np.flatnonzero(size > LARGE_SLICE * size.max())
        return tuple(by_slice.values()), min((by_slice[k] for k in large), default=0.0)

    def on_grid(self, grid: Grid) -> np.ndarray:
        """The reconstruction on another grid, boolean [X, Y, Z]."""
        return conform(Scan(self.probability, self.vox2world), grid).numpy() > 0.5


@dataclass(frozen=True, kw_only=True)
class MaskQuality:
    """What is known of a mask without truth.

    estimated_dice: Dice of mask and reconstruction, 0 to 1; flag: "pass", "look" or "fail"; hd95_mm: between
    mask and reconstruction; slice_dice: of axial slices, from the lowest slice up; lowest_slice_dice: the least
    of the slices that hold over a tenth of the largest; components: 6-connected parts; holes: enclosed
    cavities; touches_edge: whether the mask reaches the edge of the image, along axes of more than three
    slices; frame: which of several frames it is of, from 0 on.
    """

    estimated_dice: float
    flag: str
    hd95_mm: float
    slice_dice: tuple[float, ...]
    lowest_slice_dice: float
    volume_ml: float
    components: int
    holes: int
    touches_edge: bool
    frame: int | None = None

    @property
    def estimate(self) -> float:
        """Another name of `estimated_dice`, for programs that know it by this one."""
        return self.estimated_dice

    @property
    def border(self) -> bool:
        """Another name of `touches_edge`, for programs that know it by this one."""
        return self.touches_edge


def flag_of(estimated_dice: float, config: FlagConfig = FlagConfig()) -> str:
    """The flag of an estimated Dice: "pass", "look" or "fail"."""
    if estimated_dice >= config.pass_from:
        return "pass"
    return "look" if estimated_dice >= config.look_from else "fail"


class QualityModel:
    """A loaded autoencoder that scores one mask after another. name: what is told of it in reports."""

    def __init__(self, model: Autoencoder, flags: FlagConfig = FlagConfig(), name: str = "") -> None:
        self.model = model.eval()
        self.config, self.flags, self.name = model.config, flags, name

    @staticmethod
    def load(
        model: str | os.PathLike[str] | None = None, device: str = "auto", flags: FlagConfig = FlagConfig()
    ) -> QualityModel:
        """From a model file with a quality network, or the name of a model; None for the default quality network.

        Raises ModelError.
        """
        path = find_model(model, Autoencoder)
        name = "shipped" if model is None else os.fspath(model)
        return QualityModel(load_model(path, choose_device(device), Autoencoder)[0], flags, name)

    @staticmethod
    def load_for(path: Path, device: str = "auto", flags: FlagConfig = FlagConfig()) -> QualityModel:
        """The quality network in the model file that masks are made with, or the shipped one if it holds none.

        Logs a warning if the shipped network, which knows adult brains, stands in for that of another model.
        Raises ModelError.
        """
        if read_header(path)["quality"] is not None:
            return QualityModel.load(path, device, flags)
        if not is_shipped(path):
            log.warning(
                "%s: holds no quality network; the one for adult human brains estimates the quality of its masks",
                path,
            )
        return QualityModel.load(None, device, flags)

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return next(self.model.parameters()).device

    def assess(self, mask: Scan | np.ndarray, vox2world: np.ndarray | None = None) -> MaskQuality:
        """Quality of a mask: a Scan, or a boolean array [X, Y, Z] with its vox2world.

        Masks that are empty, and those that fill their image, have the estimated Dice 0. Raises InputError for
        what is no mask.
        """
        scan = as_scan(mask, vox2world)
        return self.measure(scan, self.reconstruct(scan))

    def assess_worst(self, masks: np.ndarray, vox2world: np.ndarray) -> tuple[MaskQuality, Reconstruction]:
        """Quality and reconstruction of the frame with the lowest estimated Dice; masks: boolean [X, Y, Z, T]."""
        worst = None
        for t in range(masks.shape[3]):
            mask = Scan(masks[..., t], vox2world)
            reconstruction = self.reconstruct(mask)
            quality = self.measure(mask, reconstruction)
            if worst is None or quality.estimated_dice < worst[0].estimated_dice:
                worst = replace(quality, frame=t if masks.shape[3] > 1 else None), reconstruction
        if worst is None:
            raise InputError("a mask without frames")
        return worst

    def measure(self, mask: Scan, reconstruction: Reconstruction) -> MaskQuality:
        """Quality of a mask by its reconstruction."""
        box = mask_box(mask.array)
        if box is None:
            return MaskQuality(
                estimated_dice=0.0,
                flag=flag_of(0.0, self.flags),
                hd95_mm=np.inf,
                slice_dice=(),
                lowest_slice_dice=0.0,
                volume_ml=0.0,
                components=0,
                holes=0,
                touches_edge=False,
            )
        # A mask that fills its image says nothing of where the brain ends.
        estimated_dice = 0.0 if mask.array.mean() > self.flags.full else reconstruction.dice
        part = mask.array[box]
        thin = thin_axes(mask.shape)
        thick = [(box[axis], mask.shape[axis]) for axis in range(3) if not thin[axis]]
        slice_dice, lowest = reconstruction.slice_dice()
        return MaskQuality(
            estimated_dice=estimated_dice,
            flag=flag_of(estimated_dice, self.flags),
            hd95_mm=reconstruction.hd95_mm,
            slice_dice=slice_dice,
            lowest_slice_dice=lowest,
            volume_ml=volume_ml(part, mask.vox2world),
            components=int(ndimage.label(part)[1]),
            holes=int(ndimage.label(fill_holes(part, thin) & ~part)[1]),
            touches_edge=any(s.start == 0 or s.stop == size for s, size in thick),
        )

    @torch.inference_mode()
    def reconstruct(self, mask: Scan) -> Reconstruction:
        """A boolean mask on the network's grid around its centre of mass, and as the network would have it.

        Beyond the image's field of view nothing is expected, nor of an empty mask.
        """
        if mask.array.ndim != 3 or mask.array.dtype != bool:
            raise InputError(f"need a boolean mask [X, Y, Z], not {mask.array.dtype} {mask.shape}")
        limit_threads_after_fork(self.device)
        size, voxel_mm = (self.config.size,) * 3, self.config.voxel_size_mm
        if not mask.array.any():
            nothing = np.zeros(size, dtype=np.float32)
            return Reconstruction(nothing, nothing, Grid.conformed((0, 0, 0), size, voxel_mm).vox2world, 0.0)
        coarse = coarsened(mask, voxel_mm)
        centre = coarse.vox2world @ [*ndimage.center_of_mass(coarse.array), 1.0]
        grid = Grid.conformed(centre[:3], size, voxel_mm)
        given = conform(coarse, grid, self.device, fill=torch.nan)
        covered = ~given.isnan()
        given = torch.where(covered, given, 0.0)
        if self.config.kind == "slices":
            probability = self._through_slices(given)
        else:
            probability = torch.sigmoid(self.model(given[None, None])[0, 0])
        probability = torch.where(covered, probability, 0.0)
        inside_ml = float(given.sum()) * (voxel_mm**3 / 1000)
        outside_ml = max(0.0, volume_ml(mask.array, mask.vox2world) - inside_ml)
        return Reconstruction(given.cpu().numpy(), probability.cpu().numpy(), grid.vox2world, outside_ml)

    def _through_slices(self, given: torch.Tensor) -> torch.Tensor:
        """Mean probability [S, S, S] over the axes; slices without mask stay empty."""
        total = torch.zeros_like(given)
        for axis in self.config.axes:
            slices = given.movedim(axis, 0)
            seen = slices.amax(dim=(1, 2)) > 0
            stacked = torch.zeros_like(slices)
            logits = [self.model(part[:, None])[:, 0] for part in slices[seen].split(SLICE_BATCH)]
            stacked[seen] = torch.sigmoid(torch.cat(logits))
            total += stacked.movedim(0, axis)
        return total / len(self.config.axes)
