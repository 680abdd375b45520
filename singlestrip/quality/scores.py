"""How far a mask can be trusted, with no truth at hand: by an autoencoder, and by test-time augmentation."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage

from ..configuration import FlagConfig
from ..errors import InputError
from ..networks.autoencoder import Autoencoder
from ..networks.checkpoint import find_model, load_model
from ..networks.device import choose_device, limit_threads_after_fork
from ..space import geometry, resample
from ..space.metrics import dice, hausdorff95, volume_ml
from ..space.morphology import fill_holes, mask_box, thin_axes
from ..stripping.stripper import Stripper

TTA_COPIES = 10
TTA_SCALING = 0.2  # ± of the intensities; SingleStrip
TTA_ROTATION_DEG = 30.0  # ± about each axis; SingleStrip
SLICE_BATCH = 32
FULL = 0.9  # share of an image


@dataclass(frozen=True)
class Reconstruction:
    """A mask as the autoencoder would have it, beside the mask itself, on the quality network's grid.

    given, probability: float32 [S, S, S] in [0, 1]; vox2world of the grid; outside_ml: how much of
    the mask lies beyond it.
    """

    given: np.ndarray
    probability: np.ndarray
    vox2world: np.ndarray
    outside_ml: float

    @property
    def dice(self) -> float:
        """Dice of mask and reconstruction, in which parts of voxels count as such (Crum et al. 2006): the grid is
        coarse. What lies beyond it counts as not reconstructed."""
        voxel_ml = abs(float(np.linalg.det(self.vox2world[:3, :3]))) / 1000
        total = float(self.given.sum() + self.probability.sum()) * voxel_ml + self.outside_ml
        return 2 * float(np.minimum(self.given, self.probability).sum()) * voxel_ml / total if total else 0.0

    @property
    def hd95_mm(self) -> float:
        return hausdorff95(self.given > 0.5, self.probability > 0.5, self.vox2world)

    def slice_dice(self) -> tuple[tuple[float, ...], float]:
        """Dice of each axial slice that holds mask or reconstruction, from the lowest up, and the least of
        those that hold over a tenth of the largest slice: the tips of a brain say little."""
        a, b = (np.moveaxis(part > 0.5, 2, 0) for part in (self.given, self.probability))
        size = np.array([np.count_nonzero(x | y) for x, y in zip(a, b, strict=True)])
        scores = {k: dice(a[k], b[k]) for k in np.flatnonzero(size)}
        large = np.flatnonzero(size > 0.1 * size.max())
        return tuple(scores.values()), min((scores[k] for k in large), default=0.0)

    def on_grid(self, shape: tuple[int, ...], vox2world: np.ndarray) -> np.ndarray:
        """The reconstruction on another grid, boolean [X, Y, Z]."""
        return resample.conform(self.probability, self.vox2world, shape, vox2world).numpy() > 0.5


@dataclass(frozen=True)
class MaskQuality:
    """What is known of a mask without truth.

    estimate: its estimated Dice, 0 to 1, that of mask and reconstruction; flag: "pass", "look" or "fail";
    hd95_mm between mask and reconstruction; slice_dice of axial slices, from the lowest slice up;
    lowest_slice_dice: the least of those that hold over a tenth of the largest slice; components:
    6-connected parts; holes: enclosed cavities; border: whether the mask touches the edge of the image,
    along axes of more than three slices; frame: which of several frames it is of, from 0 on.
    """

    estimate: float
    flag: str
    hd95_mm: float
    slice_dice: tuple[float, ...]
    lowest_slice_dice: float
    volume_ml: float
    components: int
    holes: int
    border: bool
    frame: int | None = None


def flag_of(estimate: float, config: FlagConfig = FlagConfig()) -> str:
    """ "pass", "look" or "fail" for an estimated Dice."""
    if estimate >= config.pass_from:
        return "pass"
    return "look" if estimate >= config.look_from else "fail"


class QualityModel:
    """A loaded autoencoder that scores one mask after another."""

    def __init__(self, model: Autoencoder, flags: FlagConfig = FlagConfig()):
        self.model = model.eval()
        self.config, self.flags = model.config, flags

    @staticmethod
    def load(
        model: str | os.PathLike | None = None, device: str = "auto", flags: FlagConfig = FlagConfig()
    ) -> QualityModel:
        """From a model file, or a name in the models folder; None for the shipped weights."""
        path = find_model(model, Autoencoder)
        return QualityModel(load_model(path, choose_device(device), Autoencoder)[0], flags)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def assess(self, mask: np.ndarray, vox2world: np.ndarray) -> MaskQuality:
        """Quality of a mask, boolean [X, Y, Z], on its grid. Empty masks, and those that
        fill their image, have the estimate 0."""
        return self.judge(mask, vox2world, self.reconstruct(mask, vox2world))

    def assess_worst(self, masks: np.ndarray, vox2world: np.ndarray) -> tuple[MaskQuality, Reconstruction]:
        """Quality and reconstruction of the frame with the lowest estimate, of masks boolean [X, Y, Z, T]."""
        worst = None
        for t in range(masks.shape[3]):
            rebuilt = self.reconstruct(masks[..., t], vox2world)
            found = self.judge(masks[..., t], vox2world, rebuilt)
            if worst is None or found.estimate < worst[0].estimate:
                worst = replace(found, frame=t if masks.shape[3] > 1 else None), rebuilt
        return worst

    def judge(self, mask: np.ndarray, vox2world: np.ndarray, found: Reconstruction) -> MaskQuality:
        """Quality of a mask by its reconstruction."""
        box = mask_box(mask)
        if box is None:
            return MaskQuality(0.0, flag_of(0.0, self.flags), np.inf, (), 0.0, 0.0, 0, 0, False)
        # A mask that fills its image says nothing of where the brain ends.
        estimate = 0.0 if mask.mean() > FULL else found.dice
        part = mask[box]
        thin = thin_axes(mask.shape)
        thick = [(box[axis], mask.shape[axis]) for axis in range(3) if not thin[axis]]
        slice_dice, lowest = found.slice_dice()
        return MaskQuality(
            estimate=estimate,
            flag=flag_of(estimate, self.flags),
            hd95_mm=found.hd95_mm,
            slice_dice=slice_dice,
            lowest_slice_dice=lowest,
            volume_ml=volume_ml(part, vox2world),
            components=int(ndimage.label(part)[1]),
            holes=int(ndimage.label(fill_holes(part, thin) & ~part)[1]),
            border=any(s.start == 0 or s.stop == size for s, size in thick),
        )

    @torch.inference_mode()
    def reconstruct(self, mask: np.ndarray, vox2world: np.ndarray) -> Reconstruction:
        """The mask, boolean [X, Y, Z], on the network's grid around its centre of mass, and as the network
        would have it. Beyond the image's field of view nothing is expected, nor of an empty mask."""
        if mask.ndim != 3 or mask.dtype != bool:
            raise InputError(f"need a boolean mask [X, Y, Z], not {mask.dtype} {mask.shape}")
        limit_threads_after_fork(self.device)
        size, voxel_mm = (self.config.size,) * 3, self.config.voxel_size_mm
        if not mask.any():
            nothing = np.zeros(size, dtype=np.float32)
            return Reconstruction(nothing, nothing, geometry.conformed_vox2world(np.zeros(3), size, voxel_mm), 0.0)
        coarse, coarse_vox2world = resample.block_mean(mask, vox2world, voxel_mm)
        coarse_vox2world = geometry.thicken(coarse.shape, coarse_vox2world, voxel_mm)
        centre = coarse_vox2world @ [*ndimage.center_of_mass(coarse), 1.0]
        target = geometry.conformed_vox2world(centre[:3], size, voxel_mm)
        given = resample.conform(coarse, coarse_vox2world, size, target, self.device, fill=torch.nan)
        covered = ~given.isnan()
        given = torch.where(covered, given, 0.0)
        if self.config.kind == "slices":
            probability = self._through_slices(given)
        else:
            probability = torch.sigmoid(self.model(given[None, None])[0, 0])
        probability = torch.where(covered, probability, 0.0)
        share_ml = voxel_mm**3 / 1000
        outside_ml = max(0.0, volume_ml(mask, vox2world) - float(given.sum()) * share_ml)
        return Reconstruction(given.cpu().numpy(), probability.cpu().numpy(), target, outside_ml)

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


def _turned(vox2world: np.ndarray, shape: tuple[int, ...], angles_deg: np.ndarray) -> np.ndarray:
    """vox2world of an image turned about the middle of its grid, by angles [3] about x, then y, then z."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        i, j = (k for k in range(3) if k != axis)
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    middle = vox2world[:3, :3] @ ((np.array(shape) - 1) / 2) + vox2world[:3, 3]
    result = np.eye(4)
    result[:3, :3] = turn @ vox2world[:3, :3]
    result[:3, 3] = turn @ (vox2world[:3, 3] - middle) + middle
    return result


def augmented_masks(
    stripper: Stripper,
    image: np.ndarray,
    vox2world: np.ndarray,
    slope: float = 1.0,
    intercept: float = 0.0,
    copies: int = TTA_COPIES,
    seed: int = 0,
) -> np.ndarray:
    """Masks, boolean [copies, X, Y, Z], of an image scaled in intensity and turned at random.

    Turning the header instead of the voxels lets every mask come back on the image's own grid. A
    copy in which no brain is found is empty. The same seed gives the same masks.
    """
    generator = np.random.default_rng(seed)
    masks = np.zeros((copies, *image.shape), dtype=bool)
    for mask in masks:
        gain = 1 + generator.uniform(-TTA_SCALING, TTA_SCALING)
        turned = _turned(vox2world, image.shape, generator.uniform(-TTA_ROTATION_DEG, TTA_ROTATION_DEG, 3))
        try:
            mask[...] = stripper.strip(image, turned, slope=slope * gain, intercept=intercept * gain).mask
        except InputError:
            continue
    return masks


def agreement(masks: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean Dice of masks, boolean [N, X, Y, Z], to their voxel-wise median, and the median.

    0 where the median is empty: nothing that most copies agree on.
    """
    median = 2 * masks.sum(axis=0, dtype=np.int32) > len(masks)
    if not median.any():
        return 0.0, median
    return float(np.mean([dice(mask, median) for mask in masks])), median
