"""Train the quality network from one brain mask: on random copies of it, with faults to mend.

Each step draws from streams of its own, by the run's seed, the epoch and the step's number in it. The same seed
gives the same network, and a resumed run ends as one that never stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..configuration import AutoencoderConfig, AutoencoderTrainConfig, Axis, QualityPartTrainConfig
from ..errors import InputError, ModelError, errors_named
from ..io.checksum import checksum
from ..io.images.masks import read_mask
from ..io.text import typed
from ..networks.autoencoder import Autoencoder
from ..networks.checkpoint import QualityPart, add_quality, load_model
from ..networks.losses import reconstruction_loss
from ..networks.model_files import find_model
from ..networks.model_header import AUTOENCODER
from ..space.scan import Scan
from ..synthesis.gmm import NativeMap
from ..training.maps import fingerprint
from ..training.run_files import QUALITY_PART, RunFiles
from ..training.task import Plan, Setup, Task
from ..training.trainer import Progress, Trainer, state_to_resume
from .mask_source import SliceSource, VolumeSource, brain_mm

log = logging.getLogger(__name__)

LOSSES = ("reconstruction",)
CHANGEABLE = ("epochs", "save_every")  # between the parts of one run

QualitySetup = Setup[Autoencoder, AutoencoderConfig, AutoencoderTrainConfig]


@dataclass(frozen=True)
class QualityProgress:
    """How far a run is: epochs done and of all, mean loss of the last one, seconds left."""

    epoch: int
    epochs: int
    loss: float
    seconds_left: float


@dataclass(frozen=True)
class QualityRecipe:
    """How to make a quality network from one mask. kind, axes: see `AutoencoderConfig`."""

    train: AutoencoderTrainConfig = AutoencoderTrainConfig()
    kind: Literal["volume", "slices"] = "volume"
    axes: tuple[Axis, ...] = (2,)


class QualityTask(Task[Autoencoder, AutoencoderConfig, AutoencoderTrainConfig]):
    """Each step draws masks and takes the gradient of soft Dice loss plus mean squared error."""

    def __init__(self, source: VolumeSource | SliceSource, setup: QualitySetup, device: torch.device) -> None:
        self.setup, self.source, self.train, self.device = setup, source, setup.config, device
        torch.manual_seed(self.train.seed)
        self.model = Autoencoder(setup.network).to(device).train()
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), self.train.lr, weight_decay=self.train.weight_decay
        )
        self.provenance: dict[str, Any] = {}

    def rate(self, step: int) -> float:
        return self.train.rate(step // self.source.steps_per_epoch(self.train))

    def losses(self, step: int) -> Iterator[tuple[str, torch.Tensor]]:
        epoch, number = divmod(step, self.source.steps_per_epoch(self.train))
        with torch.no_grad():
            seen, aim = self.source.draw_step(self.train, epoch, number)
        yield "reconstruction", reconstruction_loss(self.model(seen), aim)

    def finished_model(self, step: int) -> tuple[Autoencoder, dict[str, Any]]:
        return self.model, self.provenance


class QualityPartTask(QualityTask):
    """Trains a quality network for the model file of a cascade, which is there when the training ends."""

    def write_model(self, path: Path, model: Autoencoder, provenance: dict[str, Any]) -> None:
        """Write the network into the file of the cascade."""
        add_quality(path, QualityPart(model, provenance), half=True)


def quality_task(
    mask: Scan,
    config: AutoencoderConfig,
    train: AutoencoderTrainConfig,
    device: torch.device,
    kind: type[QualityTask] = QualityTask,
) -> QualityTask:
    """All that trains a quality network from one boolean mask. kind: the class of the task.

    Raises InputError if the mask gives nothing to learn from, or no quality network is for a brain of its size.
    """
    try:
        typed.convert_all(asdict(config), AutoencoderConfig)
    except ValueError as error:
        raise InputError(f"the brain has a size that no quality model is for ({error})") from error
    source = _mask_source(mask, config, train, device)
    epoch = source.steps_per_epoch(train)
    plan = Plan(train.epochs * epoch, report_every=epoch, save_every=train.save_every * epoch)
    data = fingerprint([NativeMap(mask.array.astype(np.uint8), mask.vox2world)])
    setup = Setup(Autoencoder, config, train, CHANGEABLE, data, LOSSES, False, plan)
    return kind(source, setup, device)


def _mask_source(
    mask: Scan, config: AutoencoderConfig, train: AutoencoderTrainConfig, device: torch.device
) -> VolumeSource | SliceSource:
    """What a network of this kind learns from."""
    if config.kind == "volume":
        return VolumeSource(mask, config, train, device)
    return SliceSource(mask, config, device)


def train_quality(
    mask_path: Path,
    out: Path,
    recipe: QualityRecipe,
    device: torch.device,
    *,
    mask: Scan | None = None,
    resume: bool = False,
    progress: Callable[[QualityProgress], None] = lambda progress: None,
) -> Path:
    """Train a quality network from one mask file and write it, with its provenance, to `out`, which is returned.

    mask: the brain of the file, boolean, on the grid of its image; None to take the grid of the file. Beside `out`
    lie a checkpoint, from which `resume` continues exactly, metrics.csv and a picture of the curve.

    Raises InputError if the mask cannot be read or gives nothing to learn from; Interrupted after SIGINT or
    SIGTERM, with a checkpoint written; EarlierRunError if a checkpoint is there and `resume` is not asked for;
    ModelError, OutputError and DivergedError.
    """
    files = RunFiles(out)
    files.check(resume)
    if mask is None:
        file, brain = read_mask(mask_path)
        mask = Scan(brain, file.vox2world)
    with errors_named(mask_path):
        config = AutoencoderConfig.fitting(brain_mm(mask), recipe.kind, recipe.axes)
        task = quality_task(mask, config, recipe.train, device)
    task.provenance = {"labelled": [{"mask": {"name": mask_path.name, "sha256": checksum(mask_path)}}]}
    _train(task, files, progress)
    return out


def quality_part_task(
    mask: Scan, provenance: dict[str, Any], train: QualityPartTrainConfig, device: torch.device
) -> QualityTask:
    """All that trains the quality network of the anatomy of a boolean mask, from the weights of the shipped one.

    Networks see voxels, not millimetres: what the shipped network knows of brains and faults helps in any anatomy.
    provenance: what the model file tells of the mask. Raises InputError as `quality_task`, and ModelError if the
    shipped network is damaged.
    """
    config = AutoencoderConfig.fitting(brain_mm(mask))
    task = quality_task(mask, config, train, device, QualityPartTask)
    init, source = _shipped_network(config)
    if init is None:
        log.warning(
            "no quality network to start from: %d epochs from random weights give rough estimates", train.epochs
        )
    else:
        task.model.load_state_dict(init.state_dict())
        task.model.estimator = init.estimator
    task.provenance = provenance | {"init": source}
    return task


def _shipped_network(config: AutoencoderConfig) -> tuple[Autoencoder | None, dict[str, Any] | None]:
    """The shipped quality network and where it is from; None if there is none of this shape, in voxels."""
    try:
        path = find_model(None, AUTOENCODER.shipped)
    except ModelError:
        return None, None
    model, header = load_model(path, kind=Autoencoder)
    if replace(model.config, voxel_size_mm=config.voxel_size_mm) != config:
        return None, None
    return model, {"name": path.name, "provenance": header["provenance"]}


def train_quality_part(
    task: QualityTask,
    model: Path,
    *,
    resume: bool = False,
    progress: Callable[[QualityProgress], None] = lambda progress: None,
) -> None:
    """Train the quality network of an anatomy and write it into the model file of its cascade.

    Beside the model lie a checkpoint, from which `resume` continues exactly, a table of losses and a picture of
    them, named by `RunFiles(model, QUALITY_PART)`. task: of `quality_part_task`. Raises as `train_quality` does.
    """
    files = RunFiles(model, QUALITY_PART)
    files.check(resume)
    _train(task, files, progress)


def _train(task: QualityTask, files: RunFiles, progress: Callable[[QualityProgress], None]) -> None:
    """Do what is left of a run."""

    def report(run: Progress) -> None:
        epoch = task.setup.plan.report_every
        loss = run.losses["reconstruction"]
        progress(QualityProgress(run.step // epoch, run.steps // epoch, loss, run.seconds_left))

    Trainer(task, files, state_to_resume(files, task.setup), report).train()
