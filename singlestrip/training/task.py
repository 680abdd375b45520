"""What is specific to the training of one kind of network; `trainer` does the rest for every kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..configuration import AutoencoderConfig, AutoencoderTrainConfig, CascadeConfig, TrainConfig


@dataclass(frozen=True)
class Plan:
    """Updates of a run, and after how many each thing is done; all are done after the last one too."""

    steps: int
    report_every: int
    save_every: int
    validate_every: int | None = None  # None: never


@dataclass(frozen=True)
class Setup:
    """What a run is, known before anything is built. A resumed run must have the same setup.

    kind: class of the networks; network: their configuration; config: how they are trained; changeable: names of
    its fields that may differ in a resumed run; data: a fingerprint of what is learned from; losses: their names;
    averages: whether a moving average of the weights is kept.
    """

    kind: type[nn.Module]
    network: CascadeConfig | AutoencoderConfig
    config: TrainConfig | AutoencoderTrainConfig
    changeable: tuple[str, ...]
    data: str
    losses: tuple[str, ...]
    averages: bool
    plan: Plan


class Task(ABC):
    """Networks that learn, and how. average: the moving average of their weights, None if it is not kept."""

    validates: ClassVar[bool] = False  # whether these networks can be validated
    setup: Setup
    device: torch.device
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None = None

    @abstractmethod
    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""

    @abstractmethod
    def losses(self, step: int) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and value [] of each loss of a step. The gradient of one is taken before the next is computed."""

    @abstractmethod
    def finished_model(self, step: int) -> tuple[nn.Module, dict[str, Any]]:
        """The model as it is stored after so many steps, and what its provenance says of it."""

    def clip_gradients(self) -> None:  # noqa: B027 - not every network needs it
        """Bound the gradients of a step in place."""

    def validate(self, model: nn.Module) -> float:
        """Validation Dice of a finished model. Called only if the plan has validations."""
        raise NotImplementedError


def moving_average(model: nn.Module, share: float) -> AveragedModel:
    """The exponential moving average of a model's weights, which begins with those it has now.

    share: of the average before in the average after an update. The first updates keep less, so that the weights
    at the start are soon forgotten.
    """

    def update(averaged: list[torch.Tensor], weights: list[torch.Tensor], count: torch.Tensor) -> None:
        number = int(count)
        torch._foreach_lerp_(averaged, weights, 1 - min(share, number / (9 + number)))

    average = AveragedModel(model, multi_avg_fn=update)
    average.update_parameters(model)  # the weights at the start are the first that count
    return average.requires_grad_(False)
