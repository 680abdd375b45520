"""What is specific to the training of one kind of network; `trainer` does the rest for every kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch

from ..configuration import AutoencoderConfig, AutoencoderTrainConfig, CascadeConfig, TrainConfig
from ..networks.checkpoint import Model, save_model
from .moving_average import MovingAverage

NetworkConfig = TypeVar("NetworkConfig", bound=CascadeConfig | AutoencoderConfig)
LearningConfig = TypeVar("LearningConfig", bound=TrainConfig | AutoencoderTrainConfig)


@dataclass(frozen=True)
class Plan:
    """Updates of a run, and after how many each thing is done; all are done after the last one too."""

    steps: int
    report_every: int
    save_every: int
    validate_every: int | None = None  # None: never


@dataclass(frozen=True)
class Setup(Generic[Model, NetworkConfig, LearningConfig]):
    """What a run is, known before anything is built. A resumed run must have the same setup.

    kind: class of the networks; network: their configuration; config: how they are trained; changeable: names of
    its fields that may differ in a resumed run; data: a fingerprint of what is learned from; losses: their names;
    averages: whether a moving average of the weights is kept.
    """

    kind: type[Model]
    network: NetworkConfig
    config: LearningConfig
    changeable: tuple[str, ...]
    data: str
    losses: tuple[str, ...]
    averages: bool
    plan: Plan


class Task(ABC, Generic[Model, NetworkConfig, LearningConfig]):
    """Networks that learn, and how. average: the moving average of their weights, None if it is not kept."""

    validates: ClassVar[bool] = False  # whether these networks can be validated
    setup: Setup[Model, NetworkConfig, LearningConfig]
    device: torch.device
    model: Model
    optimizer: torch.optim.Optimizer
    average: MovingAverage[Model] | None = None

    @abstractmethod
    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""

    @abstractmethod
    def losses(self, step: int) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and value [] of each loss of a step. The gradient of one is taken before the next is computed."""

    @abstractmethod
    def finished_model(self, step: int) -> tuple[Model, dict[str, Any]]:
        """The model as it is stored after so many steps, and what its provenance says of it."""

    def write_model(self, path: Path, model: Model, provenance: dict[str, Any]) -> None:
        """Write a finished model, by default to a file of its own. Raises ModelError and OutputError."""
        save_model(path, model, provenance, half=True)

    def clip_gradients(self) -> None:
        """Bound the gradients of a step in place; by default they stay as they are."""

    def validate(self, model: Model) -> float:
        """Validation Dice of a finished model. Called only if the plan has validations."""
        raise NotImplementedError
