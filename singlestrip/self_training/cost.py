"""What a run costs, foreseen before it begins: steps, time and room on the disk.

Time is measured on the machine that the run is on: a step of each kind of training, and the stripping of the
labelled scan. The room is that of models, pictures and label maps, which follows from the networks and from the
labelled scan.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..configuration import CascadeConfig, TrainConfig
from ..errors import InputError
from ..networks.cascade import Cascade
from ..space.scan import Scan
from ..stripping.stripper import Stripper
from ..synthesis.gmm import NativeMap
from ..training.cascade import CascadeTask, TrainingData, cascade_setup

# Scoring takes about twice as long as stripping: it reads the scan, rebuilds the mask and draws a picture.
SCORING = 2.0
QUALITY_EPOCH_SECONDS = 104 / 60  # see QualityPartTrainConfig
PICTURE_BYTES = 150_000
# A checkpoint has weights, their average and the optimizer's two moments in 32 bits; a model has weights in 16.
CHECKPOINT_MODELS = 8


@dataclass(frozen=True)
class Cost:
    """What a run takes at most: updates, masks to make, seconds and bytes."""

    steps: int
    masks: int
    seconds: float
    bytes: int

    def describe(self) -> str:
        """The cost in words."""
        hours, minutes = divmod(max(1, round(self.seconds / 60)), 60)
        duration = f"{hours} h {minutes} min" if hours else f"{minutes} min"
        return f"{self.steps} steps and {self.masks} masks, about {duration} and {self.bytes / 1e6:.0f} MB of disk"


@dataclass(frozen=True)
class Work:
    """What is still to do.

    trainings: of the cascade. epochs: of the quality network. masks: how often scans are stripped. pictures,
    label_maps: how many there are at the end, at most.
    """

    trainings: Sequence[TrainConfig]
    epochs: int
    masks: int
    pictures: int
    label_maps: int


def foresee_cost(
    work: Work, example: NativeMap, scan: Scan, model: Cascade, cascade: CascadeConfig, device: torch.device
) -> Cost:
    """What a run costs on this machine.

    example: the label map of the labelled scan; model: networks to strip the scan with; cascade: of the networks
    that are trained.
    """
    step_seconds = {config: _seconds_of_step(example, cascade, config, device) for config in set(work.trainings)}
    mask_seconds = SCORING * _seconds_of(lambda: _strip(Stripper(model), scan)) if work.masks else 0.0
    seconds = sum(config.steps * step_seconds[config] for config in work.trainings)
    seconds += work.masks * mask_seconds + work.epochs * QUALITY_EPOCH_SECONDS
    model_bytes = 2 * sum(weight.numel() for weight in model.parameters())
    map_bytes = len(zlib.compress(example.labels.tobytes(), 1))
    size = (len(work.trainings) + 1 + CHECKPOINT_MODELS) * model_bytes
    size += work.pictures * PICTURE_BYTES + work.label_maps * map_bytes
    return Cost(sum(config.steps for config in work.trainings), work.masks, seconds, size)


def _seconds_of(act: Callable[[], None]) -> float:
    """Seconds that an act takes the second time: the first also sets things up."""
    act()
    start = time.monotonic()
    act()
    return time.monotonic() - start


def _strip(stripper: Stripper, scan: Scan) -> None:
    """Strip a scan, whether or not a brain is found."""
    try:
        stripper.strip(scan)
    except InputError:
        return


def _seconds_of_step(
    example: NativeMap, cascade: CascadeConfig, config: TrainConfig, device: torch.device
) -> float:
    """Seconds that a step of training takes; its weights are dropped."""
    data = TrainingData([example])
    task = CascadeTask(data, cascade_setup(data, cascade, config), device)

    def step() -> None:
        """One update."""
        for _, loss in task.losses(0):
            loss.backward()
            loss.item()  # a GPU is waited for
        task.optimizer.step()

    return _seconds_of(step)
