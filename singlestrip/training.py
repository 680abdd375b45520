"""The one training loop: synthesise, predict, update; average, validate, save, resume.

Each image of a run is drawn from a generator seeded by the run's seed and the image's number, so
that a resumed run goes on as if it had never stopped, and several processes see what one process
with a larger batch would have seen.
"""

from __future__ import annotations

import csv
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from . import checkpoint
from .cascade import Cascade, CascadeConfig
from .errors import Interrupted, ModelError
from .gmm import INSIDE_BASE
from .losses import segmentation_loss
from .resample import conform_labels
from .synth import LabelMap, SynthConfig, Window, sample_parameters, stack, synthesise

SOURCE_FACTOR = 0.75  # spacing of a label map over the voxel size: finer, so that sampling does not alias


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The rate rises over `warmup`, stays, and falls to zero over the last `decay` of the
    steps, so that a run can be given more steps up to that point without a loss."""

    steps: int = 8000
    batch: int = 1
    lr: float = 1e-3
    warmup: int = 200
    decay: float = 0.3
    weight_decay: float = 1e-2
    clip: float = 1.0  # greatest norm of the gradient
    average: float = 0.998  # of the weights' exponential moving average, which is what is kept
    cross_entropy: float = 0.5  # beside soft Dice; see losses.py
    amp: str = "auto"  # bfloat16 where it is fast: "auto", "on" or "off"
    seed: int = 0
    validate_every: int = 500
    save_every: int = 250
    log_every: int = 20
    synth: SynthConfig = field(default_factory=SynthConfig)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rising = min(1.0, (step + 1) / max(1, self.warmup))
        falling = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.lr * rising * falling


def prepare_maps(
    labels: list[tuple[np.ndarray, np.ndarray]], config: CascadeConfig, device: torch.device | str
) -> dict[str, list[LabelMap]]:
    """Native label maps (array, vox2world) conformed for each network."""
    return {
        name: [
            LabelMap.of(
                conform_labels(array, vox2world, window.voxel_size_mm * SOURCE_FACTOR, INSIDE_BASE)[0],
                window.voxel_size_mm * SOURCE_FACTOR,
                device,
            )
            for array, vox2world in labels
        ]
        for name, window in config.windows().items()
    }


def draw_batch(
    maps: list[LabelMap], window: Window, config: TrainConfig, scale: float, network: int, numbers: list[int]
):
    """The images of the run with these numbers, for one network: see `synthesise`."""
    chosen, parameters = [], []
    for number in numbers:
        seed = np.random.SeedSequence((config.seed, network, number)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed >> 1))
        chosen.append(maps[int(torch.randint(len(maps), (1,), generator=generator))])
        parameters.append(sample_parameters(config.synth, window, scale, generator))
    return synthesise(chosen, window, stack(parameters))


def mixed_precision(device: torch.device, amp: str) -> bool:
    """Whether to run the networks in bfloat16: on a GPU, and on a CPU that has the instructions."""
    if amp != "auto":
        return amp == "on"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def keep_memory() -> None:
    """Let glibc keep freed memory for reuse, in this process alone.

    By default every large tensor is returned to the system and its pages are zeroed again at the
    next allocation: a fifth of a training step. No effect with other C libraries.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 64 * 2**20)):  # M_MMAP_MAX, TRIM, TOP_PAD
        mallopt(parameter, value)


class Run:
    """One training run: networks, averaged networks, optimizer and step; saved and resumed whole."""

    def __init__(
        self,
        cascade: CascadeConfig,
        config: TrainConfig,
        maps: dict[str, list[LabelMap]],
        device: torch.device,
        init: Cascade | None = None,
    ):
        self.cascade, self.config, self.maps, self.device = cascade, config, maps, device
        torch.manual_seed(config.seed)
        self.model = Cascade(cascade)
        if init is not None:
            self.model.load_state_dict(init.state_dict())
        self.model.to(device)
        self.averaged = Cascade(cascade).to(device).requires_grad_(False)
        self.averaged.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.step = 0
        self.best: tuple[float, int] | None = None  # validation Dice and its step
        self.seconds = 0.0
        self.amp = mixed_precision(device, config.amp)
        self.distributed = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self.distributed else 0
        self.world = dist.get_world_size() if self.distributed else 1

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "cascade": asdict(self.cascade),
            "config": asdict(self.config),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`. Raises ModelError if the networks are of another shape."""
        if checkpoint.cascade_config(state["cascade"]) != self.cascade:
            raise ModelError("the checkpoint is of networks of another shape or voxel size")
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]

    def update(self) -> float:
        """One step; returns the loss, summed over both networks."""
        config = self.config
        rate = config.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        first = (self.step * self.world + self.rank) * config.batch
        numbers = list(range(first, first + config.batch))
        total = 0.0
        for network, (name, window) in enumerate(self.cascade.windows().items()):
            image, brain, weight = draw_batch(
                self.maps[name], window, config, self.cascade.scale, network, numbers
            )
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
                logit = getattr(self.model, name)(image)
            loss = segmentation_loss(logit, brain, weight, config.cross_entropy)
            loss.backward()
            total += float(loss.detach())
        if self.distributed:
            for parameter in self.model.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.world
        for network in (self.model.locator, self.model.segmenter):
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        share = 1 - min(config.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), share)
        self.step += 1
        return total
