"""Train the quality network from one brain mask: on random copies of it, with faults to mend.

Each step draws from streams of its own, by the run's seed, the epoch and the step's number in it. The same seed
gives the same network, and a resumed run ends as one that never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from ..configuration import AutoencoderConfig, AutoencoderTrainConfig, Window
from ..errors import InputError, errors_named
from ..io.checksum import checksum
from ..io.images.masks import read_mask
from ..io.text import typed
from ..networks.autoencoder import Autoencoder
from ..networks.losses import reconstruction_loss
from ..space.distance import signed_distance
from ..space.grid import Grid
from ..space.morphology import bounding_box
from ..space.resample import block_mean, conform
from ..space.scan import Scan
from ..synthesis.gmm import NativeMap
from ..synthesis.shape import sample_shape, window_coordinates
from ..synthesis.streams import RandomStreams
from ..training.maps import fingerprint
from ..training.run_files import RunFiles
from ..training.task import Plan, Setup, Task
from ..training.trainer import Progress, Trainer, state_to_resume
from .faults import plant_faults

LOSSES = ("reconstruction",)
CHANGEABLE = ("epochs", "save_every")  # between the parts of one run


@dataclass(frozen=True)
class QualityProgress:
    """How far a run is: epochs done and of all, mean loss of the last one, seconds left."""

    epoch: int
    epochs: int
    loss: float
    seconds_left: float


def fraction(distance: torch.Tensor, voxel_size_mm: float) -> torch.Tensor:
    """About the share of each voxel that is brain. distance: signed, in mm."""
    return (0.5 - distance / voxel_size_mm).clamp(0, 1)


class VolumeSource:
    """Random deformed copies of one mask, whole, and the same with faults."""

    def __init__(
        self,
        mask: np.ndarray,
        vox2world: np.ndarray,
        config: AutoencoderConfig,
        train: AutoencoderTrainConfig,
        device: torch.device,
    ):
        spacing = config.voxel_size_mm * train.source_factor
        low, high = _brain_grid(mask, vox2world).bounds_mm()
        margin = train.margin_mm * config.scale
        shape = tuple(int(n) for n in np.ceil((high - low + 2 * margin) / spacing))
        grid = Grid.conformed((low + high) / 2, shape, spacing)
        share = _share(Scan(mask, vox2world), spacing, config, grid).numpy()
        if not (share > 0.5).any():
            raise InputError("the mask is too thin to learn from")
        distance = signed_distance(share - 0.5, share > 0.5, grid.vox2world)
        self.distance = torch.from_numpy(distance)[None, None].to(device)
        half = torch.tensor(shape) * spacing / 2
        self.grid_from_mm = torch.diag(torch.cat([1 / half, torch.ones(1)]))[None]
        self.window = Window((config.size,) * 3, config.voxel_size_mm, train.jitter_mm * config.scale)
        self.scale = config.scale

    def batches(self, train: AutoencoderTrainConfig, epoch: int) -> list[int]:
        """What `draw` takes for each step of an epoch, counted from 0: the number of masks."""
        return [train.batch] * math.ceil(train.masks_per_epoch / train.batch)

    def draw(
        self, count: int, train: AutoencoderTrainConfig, streams: RandomStreams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Network inputs and targets, each [B, 1, S, S, S] in [0, 1]."""
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
    """All slices of one mask across the axes of the configuration, rotated, scaled and shifted at random."""

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

    def batches(self, train: AutoencoderTrainConfig, epoch: int) -> tuple[torch.Tensor, ...]:
        """What `draw` takes for each step of an epoch, counted from 0: numbers of slices, each once an epoch."""
        generator = RandomStreams((train.seed, epoch))("order of slices")
        return torch.randperm(len(self.slices), generator=generator).split(train.batch)

    def draw(
        self, chosen: torch.Tensor, train: AutoencoderTrainConfig, streams: RandomStreams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Network inputs and targets, the same: slices with these numbers, [B, 1, S, S] in [0, 1]."""
        count = len(chosen)
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


@dataclass(frozen=True)
class QualityRecipe:
    """How to make a quality network from one mask. kind, axes: see `AutoencoderConfig`."""

    train: AutoencoderTrainConfig = AutoencoderTrainConfig()
    kind: Literal["volume", "slices"] = "volume"
    axes: tuple[int, ...] = (2,)


class QualityTask(Task):
    """Each step draws masks and takes the gradient of soft Dice loss plus mean squared error."""

    def __init__(self, source: VolumeSource | SliceSource, setup: Setup, device: torch.device):
        self.setup, self.source, self.train, self.device = setup, source, setup.config, device
        torch.manual_seed(self.train.seed)
        self.model = Autoencoder(setup.network).to(device).train()
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), self.train.lr, weight_decay=self.train.weight_decay
        )
        self.provenance: dict[str, Any] = {}

    def rate(self, step: int) -> float:
        return self.train.rate(step // steps_per_epoch(self.source, self.train))

    def losses(self, step: int) -> Iterator[tuple[str, torch.Tensor]]:
        epoch, number = divmod(step, steps_per_epoch(self.source, self.train))
        streams = RandomStreams((self.train.seed, epoch, number))
        batch = self.source.batches(self.train, epoch)[number]
        with torch.no_grad():
            seen, aim = self.source.draw(batch, self.train, streams)
        yield "reconstruction", reconstruction_loss(self.model(seen), aim)

    def finished_model(self, step: int) -> tuple[Autoencoder, dict[str, Any]]:
        return self.model, self.provenance


def steps_per_epoch(source: VolumeSource | SliceSource, train: AutoencoderTrainConfig) -> int:
    """Number of steps in each epoch."""
    return len(source.batches(train, 0))


def quality_task(
    mask: np.ndarray,
    vox2world: np.ndarray,
    config: AutoencoderConfig,
    train: AutoencoderTrainConfig,
    device: torch.device,
) -> QualityTask:
    """All that trains a quality network from one mask, boolean [X, Y, Z], on its grid.

    Raises InputError if the mask gives nothing to learn from, or no quality network is for a brain of its size.
    """
    try:
        typed.convert_all(asdict(config), AutoencoderConfig)
    except ValueError as error:
        raise InputError(f"the brain has a size that no quality model is for ({error})") from error
    if config.kind == "volume":
        source = VolumeSource(mask, vox2world, config, train, device)
    else:
        source = SliceSource(mask, vox2world, config, device)
    epoch = steps_per_epoch(source, train)
    plan = Plan(train.epochs * epoch, report_every=epoch, save_every=train.save_every * epoch)
    data = fingerprint([NativeMap(mask.astype(np.uint8), vox2world)])
    setup = Setup(Autoencoder, config, train, CHANGEABLE, data, LOSSES, False, plan)
    return QualityTask(source, setup, device)


def train_quality(
    mask_path: Path,
    out: Path,
    recipe: QualityRecipe,
    device: torch.device,
    *,
    resume: bool = False,
    progress: Callable[[QualityProgress], None] = lambda progress: None,
) -> Path:
    """Train a quality network from one mask file and write it, with its provenance, to `out`, which is returned.

    Beside it lie a checkpoint, from which `resume` continues exactly, metrics.csv and a picture of the curve.

    Raises InputError if the mask cannot be read or gives nothing to learn from; Interrupted after SIGINT or
    SIGTERM, with a checkpoint written; EarlierRunError if a checkpoint is there and `resume` is not asked for;
    ModelError, OutputError and DivergedError.
    """
    files = RunFiles(out)
    files.check(resume)
    scan, mask = read_mask(mask_path)
    with errors_named(mask_path):
        config = AutoencoderConfig.fitting(brain_mm(mask, scan.vox2world), recipe.kind, recipe.axes)
        task = quality_task(mask, scan.vox2world, config, recipe.train, device)
    task.provenance = {"labelled": [{"mask": {"name": mask_path.name, "sha256": checksum(mask_path)}}]}
    state = state_to_resume(files, task.setup)

    def report(run: Progress) -> None:
        epoch = task.setup.plan.report_every
        loss = run.losses["reconstruction"]
        progress(QualityProgress(run.step // epoch, run.steps // epoch, loss, run.seconds_left))

    Trainer(task, files, state, report).train()
    return out
