"""What the quality network learns from: one mask, whole or in slices, changed at random in each step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from ..configuration import AutoencoderConfig, AutoencoderTrainConfig, Window
from ..errors import InputError
from ..space.distance import signed_distance
from ..space.grid import Grid
from ..space.morphology import bounding_box
from ..space.resample import block_mean, conform
from ..space.scan import Scan
from ..synthesis.shape import sample_shape, window_coordinates
from ..synthesis.streams import RandomStreams
from .faults import plant_faults

Batch = TypeVar("Batch")


class MaskSource(ABC, Generic[Batch]):
    """Network inputs and targets, drawn from one mask. Batch: what says which of them make up one step."""

    @abstractmethod
    def batches(self, train: AutoencoderTrainConfig, epoch: int) -> Sequence[Batch]:
        """What `draw` takes for each step of an epoch, counted from 0."""

    @abstractmethod
    def draw(
        self, batch: Batch, train: AutoencoderTrainConfig, streams: RandomStreams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Network inputs and targets, each [B, 1, S, S, S] or, in slices, [B, 1, S, S], in [0, 1]."""

    def steps_per_epoch(self, train: AutoencoderTrainConfig) -> int:
        """Number of steps in each epoch."""
        return len(self.batches(train, 0))

    def draw_step(
        self, train: AutoencoderTrainConfig, epoch: int, number: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `draw`, of the step with this number in an epoch, both counted from 0."""
        streams = RandomStreams((train.seed, epoch, number))
        return self.draw(self.batches(train, epoch)[number], train, streams)


def fraction(distance: torch.Tensor, voxel_size_mm: float) -> torch.Tensor:
    """About the share of each voxel that is brain. distance: signed, in mm."""
    return (0.5 - distance / voxel_size_mm).clamp(0, 1)


class VolumeSource(MaskSource[int]):
    """Random deformed copies of one mask, whole, and the same with faults."""

    def __init__(
        self,
        mask: Scan,
        config: AutoencoderConfig,
        train: AutoencoderTrainConfig,
        device: torch.device,
    ) -> None:
        spacing = config.voxel_size_mm * train.source_factor
        low, high = _brain_grid(mask).bounds_mm()
        margin = train.margin_mm * config.scale
        shape = tuple(int(n) for n in np.ceil((high - low + 2 * margin) / spacing))
        grid = Grid.conformed((low + high) / 2, shape, spacing)
        share = _share(mask, spacing, config, grid).numpy()
        if not (share > 0.5).any():
            raise InputError("the mask is too thin to learn from")
        distance = signed_distance(share - 0.5, share > 0.5, grid.vox2world)
        self.distance = torch.from_numpy(distance)[None, None].to(device)
        half = torch.tensor(shape) * spacing / 2
        self.grid_from_mm = torch.diag(torch.cat([1 / half, torch.ones(1)]))[None]
        self.window = Window((config.size,) * 3, config.voxel_size_mm, train.jitter_mm * config.scale)
        self.scale = config.scale

    def batches(self, train: AutoencoderTrainConfig, epoch: int) -> list[int]:
        """For each step of an epoch the number of masks."""
        return [train.batch] * math.ceil(train.masks_per_epoch / train.batch)

    def draw(
        self, batch: int, train: AutoencoderTrainConfig, streams: RandomStreams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Network inputs and targets, each [B, 1, S, S, S] in [0, 1]."""
        samples = [streams.part(number) for number in range(batch)]
        shapes = [sample_shape(train.shape, self.window, self.scale, sample) for sample in samples]
        grid = window_coordinates(self.window, shapes, self.distance.device, self.grid_from_mm.expand(batch, 4, 4))
        source = self.distance.expand(batch, -1, -1, -1, -1)
        clean = F.grid_sample(source, grid, padding_mode="border", align_corners=False)[:, 0]
        size = self.window.voxel_size_mm
        faulty = plant_faults(clean, size, train.fault, self.scale, samples) if train.faults else clean
        seen, aim = fraction(faulty, size), fraction(clean, size)
        seen, aim = _centred(seen, aim)
        return seen[:, None], aim[:, None]


def _centred(seen: torch.Tensor, aim: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both [B, X, Y, Z] moved by whole voxels so that the centre of mass of `seen` is in the middle."""
    moved = torch.zeros_like(seen), torch.zeros_like(aim)
    for b, mask in enumerate(seen):
        source: list[int | slice] = [b]
        target: list[int | slice] = [b]
        for axis, n in enumerate(mask.shape):
            along = mask.sum(dim=[k for k in range(3) if k != axis])
            centre = float((along * torch.arange(n, device=mask.device)).sum() / along.sum().clamp(min=1e-6))
            shift = round((n - 1) / 2 - centre)
            source.append(slice(max(0, -shift), n - max(0, shift)))
            target.append(slice(max(0, shift), n - max(0, -shift)))
        for out, given in zip(moved, (seen, aim), strict=True):
            out[tuple(target)] = given[tuple(source)]
    return moved


class SliceSource(MaskSource[torch.Tensor]):
    """All slices of one mask across the axes of the configuration, rotated, scaled and shifted at random."""

    def __init__(self, mask: Scan, config: AutoencoderConfig, device: torch.device) -> None:
        low, high = _brain_grid(mask).bounds_mm()
        grid = Grid.conformed((low + high) / 2, (config.size,) * 3, config.voxel_size_mm)
        share = _share(mask, config.voxel_size_mm, config, grid)
        stacks = [share.movedim(axis, 0) for axis in config.axes]
        stacks = [s[s.amax(dim=(1, 2)) >= 0.5] for s in stacks]
        self.slices = torch.cat(stacks)[:, None].to(device)
        if not len(self.slices):
            raise InputError("the mask is too thin to learn from")
        # Left and right may change places, front and back may not; the first axis of a slice is right
        # but for sagittal ones.
        mirrors = [float(axis != 0) for axis in config.axes]
        self.mirrored = torch.cat([torch.full((len(s),), m) for s, m in zip(stacks, mirrors, strict=True)])

    def batches(self, train: AutoencoderTrainConfig, epoch: int) -> tuple[torch.Tensor, ...]:
        """For each step of an epoch the numbers of its slices [B]; each slice comes once an epoch."""
        generator = RandomStreams((train.seed, epoch))("order of slices")
        return torch.randperm(len(self.slices), generator=generator).split(train.batch)

    def draw(
        self, batch: torch.Tensor, train: AutoencoderTrainConfig, streams: RandomStreams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Slices with these numbers, [B, 1, S, S] in [0, 1], which are both inputs and targets."""
        count = len(batch)
        angle = torch.deg2rad(
            train.shape.rotation_deg * (2 * torch.rand(count, generator=streams("rotation")) - 1)
        )
        low, high = (math.log(s) for s in train.slice_scaling)
        size = torch.exp(low + (high - low) * torch.rand(count, generator=streams("scaling")))
        flip = 1 - 2 * torch.randint(2, (count,), generator=streams("flip")) * self.mirrored[batch]
        # affine_grid counts the last axis first.
        matrix = torch.zeros(count, 2, 3)
        matrix[:, 0, 0], matrix[:, 0, 1] = angle.cos() / size, -flip * angle.sin() / size
        matrix[:, 1, 0], matrix[:, 1, 1] = angle.sin() / size, flip * angle.cos() / size
        # grid_sample counts half a side as 1.
        matrix[:, :, 2] = 2 * train.slice_shift * (2 * torch.rand(count, 2, generator=streams("shift")) - 1)
        source = self.slices[batch.to(self.slices.device)]
        grid = F.affine_grid(matrix.to(source.device), list(source.shape), align_corners=False)
        moved = F.grid_sample(source, grid, align_corners=False)
        return moved, moved


def _share(mask: Scan, spacing_mm: float, config: AutoencoderConfig, grid: Grid) -> torch.Tensor:
    """How much of each voxel of a conformed grid of `spacing_mm` is brain, slabs as thick as in scoring."""
    coarse = block_mean(mask, spacing_mm)
    thick = coarse.grid.thickened(config.voxel_size_mm)
    return torch.from_numpy(conform(Scan(coarse.array, thick.vox2world), grid))


def _brain_grid(mask: Scan) -> Grid:
    """The part of a mask's grid around the brain. Raises InputError if the mask is empty."""
    box = bounding_box(mask.array)
    if box is None:
        raise InputError("the mask is empty: there is nothing to learn from it")
    return mask.grid.part(box)


def brain_mm(mask: Scan) -> float:
    """Longest side in mm of a mask's bounding box along right, anterior, superior."""
    low, high = _brain_grid(mask).bounds_mm()
    return float((high - low).max())
