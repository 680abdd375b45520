"""One run in memory: its task, and how far it is. A state of it goes into a checkpoint and comes back whole."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from .processes import average_gradients, average_losses, process_count
from .state import Losses, TrainingState
from .task import Task


class Run:
    """Steps of a task.

    step: updates that were made; best: validation Dice and its step; seconds: of all updates; losses: by name,
    those since the last report.
    """

    def __init__(self, task: Task[Any, Any, Any]) -> None:
        self.task = task
        self.step = 0
        self.best: tuple[float, int] | None = None
        self.seconds = 0.0
        self.losses: Losses = {}

    def update(self) -> dict[str, float]:
        """Make one step; returns its losses, each the mean over the processes."""
        task = self.task
        rate = task.rate(self.step)
        for group in task.optimizer.param_groups:
            group["lr"] = rate
        losses = {}
        for name, loss in task.losses(self.step):
            loss.backward()
            losses[name] = float(loss.detach())
        average_gradients(task.model)
        losses = average_losses(losses, task.device)
        task.clip_gradients()
        task.optimizer.step()
        task.optimizer.zero_grad(set_to_none=True)
        if task.average is not None:
            task.average.update(task.model)
        self.step += 1
        return losses

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `restore` goes on: see `TrainingState`."""
        task, setup = self.task, self.task.setup
        return {
            "model": task.model.state_dict(),
            "averaged": None if task.average is None else task.average.model.state_dict(),
            "optimizer": task.optimizer.state_dict(),
            "random": _random_states(task.device),
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "world": process_count(),
            "network": asdict(setup.network),
            "config": asdict(setup.config),
            "data": setup.data,
            "losses": self.losses,
        }

    def restore(self, state: TrainingState) -> None:
        """Go on from the state of a run of the same setup."""
        task = self.task
        task.model.load_state_dict(state.model)
        if task.average is not None:
            assert state.averaged is not None, "a state of the same setup has an average too"
            task.average.restore(state.averaged, state.step)
        remembered = {number: vars(part) for number, part in state.optimizer.state.items()}
        groups = task.optimizer.state_dict()["param_groups"]
        task.optimizer.load_state_dict({"state": remembered, "param_groups": groups})
        _set_random_states(state.random, task.device)
        self.step, self.best, self.seconds, self.losses = state.step, state.best, state.seconds, state.losses


def _random_states(device: torch.device) -> dict[str, torch.Tensor]:
    """States of torch's own generators, by which layers such as dropout draw."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Give torch's generators the states that `_random_states` returned."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
