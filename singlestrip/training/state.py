"""The state of a run, as a checkpoint holds it, and the checks before a run goes on from one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import nn

from ..errors import ModelError
from ..io.text import typed
from ..networks.checkpoint import KINDS
from ..networks.model_weights import weight_fault
from ..networks.training_state import load_training_state
from .processes import process_count
from .task import Setup

MAX_RANDOM_BYTES = 10_000  # of a generator's state; torch's for a processor has 5056

Step = Annotated[int, Meta(ge=1)]
Tensors = dict[str, torch.Tensor]
Losses = dict[str, list[Annotated[float, Meta(ge=-1e30, le=1e30)]]]


@dataclass(frozen=True)
class ParameterState:
    """What Adam and AdamW remember of one parameter: the number of updates [], and two means of its shape."""

    step: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor


@dataclass(frozen=True)
class OptimizerState:
    """By the parameters' numbers. What else torch stores follows from the configuration."""

    state: dict[int, ParameterState]


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds of a run.

    averaged: None if no average is kept; random: state of torch's generators by device type; best: validation Dice
    and its step; seconds: of all updates; world: processes; losses: those since the last report.
    """

    model: Tensors
    averaged: Tensors | None
    optimizer: OptimizerState
    random: Tensors
    step: Step
    best: tuple[Annotated[float, Meta(ge=0, le=1)], Step] | None
    seconds: Annotated[float, Meta(ge=0, le=1e12)]
    world: Annotated[int, Meta(ge=1)]
    network: dict[str, Any]
    config: dict[str, Any]
    data: str
    losses: Losses


def read_state(path: Path, kind: type[nn.Module]) -> TrainingState:
    """The checkpoint of any run that trains this kind of networks. Raises ModelError if it is damaged."""
    try:
        state = typed.convert(load_training_state(path), TrainingState)
        network = typed.convert_all(state.network, KINDS[kind].configuration)
    except ValueError as error:
        raise ModelError(f"{path}: not a training checkpoint, or damaged ({error})") from error
    with torch.device("meta"):  # shapes alone
        expected = kind(network)
    fault = _tensor_fault(state, expected) or _random_fault(state.random) or _step_fault(state)
    if fault:
        raise ModelError(f"{path}: damaged ({fault}); remove it to begin anew")
    return state


def check_same_run(state: TrainingState, setup: Setup[Any, Any, Any], path: Path) -> None:
    """Raise ModelError unless the checkpoint at `path` is of this very run."""
    fault = _difference(state, setup)
    if fault:
        raise ModelError(f"{path}: {fault}")


def _difference(state: TrainingState, setup: Setup[Any, Any, Any]) -> str | None:
    """Why a checkpoint is not of this run, and what to do, as a clause; None if it is of this run."""
    settings = asdict(setup.config)
    fixed = settings.keys() - setup.changeable
    changed = [name for name in settings if name in fixed and state.config.get(name) != settings[name]]
    steps = setup.plan.steps
    checks = (
        (
            typed.convert_all(state.network, type(setup.network)) == setup.network,
            "the run began with networks of another shape or voxel size",
        ),
        (not changed, f"the run began with another {', '.join(changed)}; resume with the same settings"),
        (
            state.world == process_count(),
            f"the run began with {state.world} processes; resume with as many",
        ),
        (state.data == setup.data, "the run began with other images or masks; resume with the same"),
        (state.step <= steps, f"the run is at step {state.step} of {steps}; ask for more steps"),
        (state.losses.keys() <= set(setup.losses), "damaged (losses of other names); remove it to begin anew"),
        ((state.averaged is not None) == setup.averages, "damaged (averaged weights); remove it to begin anew"),
    )
    return next((fault for holds, fault in checks if not holds), None)


def _tensor_fault(state: TrainingState, expected: nn.Module) -> str | None:
    """Which tensors do not fit the networks or each other, or hold what no run leaves; None if all are right."""
    parameters = dict(enumerate(expected.parameters()))
    remembered = state.optimizer.state
    if remembered.keys() != parameters.keys():
        return "the optimizer knows other parameters"
    for tensors, like in _tensors_and_models(state, expected):
        fault = _fault_of(tensors, like)
        if fault:
            return fault
    if any(bool((part.exp_avg_sq < 0).any()) for part in remembered.values()):
        return "a mean square below 0"
    return None


def _tensors_and_models(
    state: TrainingState, expected: nn.Module
) -> Iterator[tuple[Mapping[Any, torch.Tensor], Mapping[Any, torch.Tensor]]]:
    """Each group of a checkpoint's tensors, and tensors of the types and shapes that they must have."""
    parameters = dict(enumerate(expected.parameters()))
    yield state.model, expected.state_dict()
    if state.averaged is not None:
        yield state.averaged, expected.state_dict()
    for name in ("exp_avg", "exp_avg_sq"):
        yield {number: getattr(part, name) for number, part in state.optimizer.state.items()}, parameters
    scalars = dict.fromkeys(parameters, torch.empty((), device="meta"))
    yield {number: part.step for number, part in state.optimizer.state.items()}, scalars


def _fault_of(tensors: Mapping[Any, torch.Tensor], expected: Mapping[Any, torch.Tensor]) -> str | None:
    """How tensors differ from the expected ones, or what no run leaves in them, as a clause; None if right."""
    shapes = {name: value.shape for name, value in expected.items()}
    if {name: value.shape for name, value in tensors.items()} != shapes:
        return "weights of other names or shapes"
    for name, value in tensors.items():
        plain = value.layout == torch.strided and value.device.type == "cpu"
        if not plain or value.dtype != expected[name].dtype:
            return f"weights of type {value.dtype}, {value.layout}"
        fault = weight_fault(str(name), value.numpy())
        if fault:
            return f"weights that {fault}"
    return None


def _random_fault(random: Tensors) -> str | None:
    """What is wrong with the states of random generators; None if nothing is."""
    for value in random.values():
        if value.dtype != torch.uint8 or value.ndim != 1 or not 0 < value.numel() <= MAX_RANDOM_BYTES:
            return "the state of a random generator has another size"
    try:
        torch.Generator().set_state(random["cpu"])
    except (KeyError, RuntimeError, TypeError):
        return "the state of the random generator is missing or wrong"
    return None


def _step_fault(state: TrainingState) -> str | None:
    """Whether numbers of steps contradict each other, as a clause; None if they agree."""
    updates = (int(part.step) for part in state.optimizer.state.values())
    if any(number != state.step for number in updates) or (state.best and state.best[1] > state.step):
        return "steps that contradict each other"
    return None
