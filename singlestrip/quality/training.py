"""Train the quality network from one brain mask: random copies of it, with faults to mend.

Each step draws from streams of its own, by the run's seed, the epoch and the step's number, so that
the same seed gives the same network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..configuration import AutoencoderConfig, AutoencoderTrainConfig, Window
from ..errors import InputError
from ..io import typed
from ..networks.autoencoder import Autoencoder
from ..networks.losses import soft_dice_loss
from ..space.distance import signed_distance
from ..space.grid import Grid
from ..space.morphology import bounding_box
from ..space.resample import block_mean, conform
from ..space.scan import Scan
from ..synthesis.shape import sample_shape, window_coordinates
from ..synthesis.streams import RandomStreams
from .faults import plant_faults

MARGIN_MM = 30.0  # how far from the brain of an adult head the distance is known
SOURCE_FACTOR = 0.5  # spacing of the distance map over the voxel size
JITTER_MM = 4.0  # ± of the middle of a mask, after it is laid in the middle


@dataclass(frozen=True)
class QualityProgress:
    """Where a run stands: epochs done of all, mean loss of the last, seconds left."""

    epoch: int
    epochs: int
    loss: float
    seconds_left: float


def fraction(distance: torch.Tensor, voxel_size_mm: float) -> torch.Tensor:
    """Signed distance in mm to about the share of each voxel that is brain."""
    return (0.5 - distance / voxel_size_mm).clamp(0, 1)


class VolumeSource:
    """Random deformed copies of one mask, whole, and the same with faults."""

    def __init__(self, mask: np.ndarray, vox2world: np.ndarray, config: AutoencoderConfig, device: torch.device):
        spacing = config.voxel_size_mm * SOURCE_FACTOR
        low, high = _brain_grid(mask, vox2world).bounds_mm()
        margin = MARGIN_MM * config.scale
        shape = tuple(int(n) for n in np.ceil((high - low + 2 * margin) / spacing))
        grid = Grid.conformed((low + high) / 2, shape, spacing)
        share = _share(Scan(mask, vox2world), spacing, config, grid).numpy()
        if not (share > 0.5).any():
            raise InputError("the mask is too thin to learn from")
        distance = signed_distance(share - 0.5, share > 0.5, grid.vox2world)
        self.distance = torch.from_numpy(distance)[None, None].to(device)
        half = torch.tensor(shape) * spacing / 2
        self.grid_from_mm = torch.diag(torch.cat([1 / half, torch.ones(1)]))[None]
        self.window = Window((config.size,) * 3, config.voxel_size_mm, JITTER_MM * config.scale)
        self.scale = config.scale

    def batches(self, train: AutoencoderTrainConfig, epoch: int) -> list[int]:
        return [train.batch] * math.ceil(train.masks_per_epoch / train.batch)

    def draw(
        self, count: int, train: AutoencoderTrainConfig, streams: RandomStreams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks to see and to make of them, each [B, 1, S, S, S] in [0, 1]."""
        samples = [streams.part(number) for number in range(count)]
        shapes = [sample_shape(train.shape, self.window, self.scale, sample) for sample in samples]
        grid = window_coordinates(self.window, shapes, self.distance.device, self.grid_from_mm.expand(count, 4, 4))
        source = self.distance.expand(count, -1, -1, -1, -1)
        clean = F.grid_sample(source, grid, padding_mode="border", align_corners=False)[:, 0]
        size = self.window.voxel_size_mm
        faulty = plant_faults(clean, size, train.fault, self.scale, samples) if train.faults else clean
        seen, aim = fraction(faulty, size), fraction(clean, size)
        return tuple(part[:, None] for part in _lay_in_the_middle(seen, aim))


def _lay_in_the_middle(seen: torch.Tensor, aim: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both [B, X, Y, Z] moved by whole voxels so that the centre of mass of `seen` is in the middle."""
    moved = torch.zeros_like(seen), torch.zeros_like(aim)
    for b, mask in enumerate(seen):
        source, target = [b], [b]
        for axis, n in enumerate(mask.shape):
            along = mask.sum(dim=[k for k in range(3) if k != axis])
            centre = float((along * torch.arange(n, device=mask.device)).sum() / along.sum().clamp(min=1e-6))
            shift = round((n - 1) / 2 - centre)
            source.append(slice(max(0, -shift), n - max(0, shift)))
            target.append(slice(max(0, shift), n - max(0, -shift)))
        for out, given in zip(moved, (seen, aim), strict=True):
            out[tuple(target)] = given[tuple(source)]
    return moved


class SliceSource:
    """Every slice of one mask across the axes of the configuration, turned, scaled and shifted at random."""

    def __init__(self, mask: np.ndarray, vox2world: np.ndarray, config: AutoencoderConfig, device: torch.device):
        low, high = _brain_grid(mask, vox2world).bounds_mm()
        grid = Grid.conformed((low + high) / 2, (config.size,) * 3, config.voxel_size_mm)
        share = _share(Scan(mask, vox2world), config.voxel_size_mm, config, grid)
        stacks = [share.movedim(axis, 0) for axis in config.axes]
        stacks = [s[s.amax(dim=(1, 2)) >= 0.5] for s in stacks]
        self.slices = torch.cat(stacks)[:, None].to(device)
        if not len(self.slices):
            raise InputError("the mask is too thin to learn from")
        # Left and right may change places, front and back may not; the first axis of a slice is right
        # but for sagittal ones.
        mirrors = [float(axis != 0) for axis in config.axes]
        self.mirrored = torch.cat([torch.full((len(s),), m) for s, m in zip(stacks, mirrors, strict=True)])
        self.order = torch.arange(len(self.slices))

    def batches(self, train: AutoencoderTrainConfig, epoch: int) -> list[int]:
        streams = RandomStreams((train.seed, epoch))
        self.order = torch.randperm(len(self.slices), generator=streams("order of slices"))
        return [len(part) for part in self.order.split(train.batch)]

    def draw(
        self, count: int, train: AutoencoderTrainConfig, streams: RandomStreams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Slices to see and to make of them, the same, [B, 1, S, S] in [0, 1]."""
        chosen, self.order = self.order[:count], self.order[count:]
        angle = torch.deg2rad(
            train.shape.rotation_deg * (2 * torch.rand(count, generator=streams("rotation")) - 1)
        )
        low, high = (math.log(s) for s in train.slice_scaling)
        size = torch.exp(low + (high - low) * torch.rand(count, generator=streams("scaling")))
        flip = 1 - 2 * torch.randint(2, (count,), generator=streams("flip")) * self.mirrored[chosen]
        # affine_grid counts the last axis first.
        matrix = torch.zeros(count, 2, 3)
        matrix[:, 0, 0], matrix[:, 0, 1] = angle.cos() / size, -flip * angle.sin() / size
        matrix[:, 1, 0], matrix[:, 1, 1] = angle.sin() / size, flip * angle.cos() / size
        # grid_sample counts half a side as 1.
        matrix[:, :, 2] = 2 * train.slice_shift * (2 * torch.rand(count, 2, generator=streams("shift")) - 1)
        source = self.slices[chosen.to(self.slices.device)]
        grid = F.affine_grid(matrix.to(source.device), source.shape, align_corners=False)
        moved = F.grid_sample(source, grid, align_corners=False)
        return moved, moved


def _share(mask: Scan, spacing_mm: float, config: AutoencoderConfig, grid: Grid) -> torch.Tensor:
    """How much of each voxel of a conformed grid of `spacing_mm` is brain, slabs as thick as in scoring."""
    coarse = block_mean(mask, spacing_mm)
    thick = coarse.grid.thickened(config.voxel_size_mm)
    return conform(Scan(coarse.array, thick.vox2world), grid)


def _brain_grid(mask: np.ndarray, vox2world: np.ndarray) -> Grid:
    """The part of a grid around a mask. Raises InputError if the mask is empty."""
    box = bounding_box(mask)
    if box is None:
        raise InputError("the mask is empty: there is nothing to learn from it")
    return Grid(mask.shape, vox2world).part(box)


def brain_mm(mask: np.ndarray, vox2world: np.ndarray) -> float:
    """Longest side in mm of a mask's bounding box along right, anterior, superior."""
    low, high = _brain_grid(mask, vox2world).bounds_mm()
    return float((high - low).max())


def train_quality(
    mask: np.ndarray,
    vox2world: np.ndarray,
    config: AutoencoderConfig,
    train: AutoencoderTrainConfig,
    device: torch.device,
    progress: Callable[[QualityProgress], None] = lambda progress: None,
) -> Autoencoder:
    """Train from one mask, boolean [X, Y, Z], on its grid. The loss is soft Dice plus mean
    squared error. Raises InputError where the mask gives nothing to learn from."""
    try:
        typed.convert_all(asdict(config), AutoencoderConfig)
    except ValueError as error:
        raise InputError(f"the brain has a size that no quality model is for ({error})") from error
    sources = {"volume": VolumeSource, "slices": SliceSource}
    source = sources[config.kind](mask, vox2world, config, device)
    torch.manual_seed(train.seed)
    model = Autoencoder(config).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), train.lr, weight_decay=train.weight_decay)
    began = time.monotonic()
    for epoch in range(train.epochs):
        losses = []
        for number, count in enumerate(source.batches(train, epoch)):
            with torch.no_grad():
                seen, aim = source.draw(count, train, RandomStreams((train.seed, epoch, number)))
            logit = model(seen)
            loss = soft_dice_loss(logit, aim, torch.ones_like(aim)).mean()
            loss = loss + F.mse_loss(torch.sigmoid(logit), aim)
            left = 1 - epoch / train.epochs
            for group in optimizer.param_groups:
                group["lr"] = train.lr * min(1.0, left / max(train.decay, 1e-9))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        elapsed = time.monotonic() - began
        left_seconds = elapsed / (epoch + 1) * (train.epochs - epoch - 1)
        progress(QualityProgress(epoch + 1, train.epochs, float(np.mean(losses)), left_seconds))
    return model.eval()
