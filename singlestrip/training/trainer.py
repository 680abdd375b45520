"""The one training loop: update, validate, report, save; stop on a signal, and go on from a checkpoint."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Generic

import numpy as np
import torch

from .._version import __version__
from ..errors import DivergedError, Interrupted
from ..io.pictures import figures
from ..networks.checkpoint import Model
from ..networks.training_state import save_training_state
from .processes import any_stopped, process_number, wait_for_all
from .run import Run
from .run_files import Metrics, RunFiles
from .state import TrainingState, check_same_run, read_state
from .stop_signal import StopSignal
from .task import LearningConfig, NetworkConfig, Setup, Task

TRIAL_STEPS = 3  # after which a run first says how long it takes


@dataclass(frozen=True)
class Progress:
    """How far a run is. losses: means since the last report; dice: of the validation at this step, or None."""

    step: int
    steps: int
    losses: dict[str, float]
    dice: float | None
    steps_per_second: float

    @property
    def seconds_left(self) -> float:
        """How long the run still takes at its present speed."""
        return (self.steps - self.step) / self.steps_per_second


def state_to_resume(files: RunFiles, setup: Setup[Any, Any, Any]) -> TrainingState | None:
    """The checkpoint of an unfinished run, None if there is none. Raises ModelError unless it is of this setup."""
    if not files.checkpoint.exists():
        return None
    state = read_state(files.checkpoint, setup.kind)
    check_same_run(state, setup, files.checkpoint)
    return state


class Trainer(Generic[Model, NetworkConfig, LearningConfig]):
    """Trains the networks of a task and writes the files of the run.

    The first of several processes writes all files and validates. With validations in the plan the model file
    holds the networks that scored best, else those after the last step.
    """

    def __init__(
        self,
        task: Task[Model, NetworkConfig, LearningConfig],
        files: RunFiles,
        state: TrainingState | None = None,
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        """state: where to go on, see `state_to_resume`; progress: called at each report."""
        self.task: Task[Model, NetworkConfig, LearningConfig] = task
        self.files, self.progress = files, progress
        self.plan = task.setup.plan
        self.run = Run(task)
        if state is not None:
            self.run.restore(state)
        self.is_first = process_number() == 0
        if self.is_first:
            self.metrics = Metrics(files.metrics, task.setup.losses, task.validates, self.run.step)
        self.reported, self.reported_step = time.monotonic(), self.run.step

    def train(self) -> None:
        """Make all steps that are left and write the model.

        Raises Interrupted after SIGINT or SIGTERM, with a checkpoint written, and DivergedError.
        """
        begun = self.run.step
        with StopSignal() as stop:
            while self.run.step < self.plan.steps:
                self._update()
                if (
                    self.run.step - begun == TRIAL_STEPS < self.plan.report_every
                    and self.run.step < self.plan.steps
                ):
                    self._tell(None)  # how long it takes should be known at once
                score = self._validate() if self._is_due(self.plan.validate_every) else None
                if score is not None or self._is_due(self.plan.report_every):
                    self._report(score)
                stopping = any_stopped(stop.received, self.task.device)
                if stopping or self._is_due(self.plan.save_every):
                    self._save()
                if stopping:
                    break
        # A signal counts after the last step too: a scheduler does not wait for the model.
        if any_stopped(stop.received, self.task.device):
            path, step = self.files.checkpoint, self.run.step
            raise Interrupted(f"{path}: stopped by a signal at step {step}; resume the run to go on")
        self._finish()

    def _is_due(self, every: int | None) -> bool:
        """Whether what is done every so many steps is done now."""
        return every is not None and (self.run.step % every == 0 or self.run.step == self.plan.steps)

    def _update(self) -> None:
        start = time.monotonic()
        for name, loss in self.run.update().items():
            if not math.isfinite(loss):
                raise DivergedError(
                    f"{self.files.model}: the {name} loss is not finite at step {self.run.step}; resume the run "
                    "in 32 bits, or begin anew at a lower learning rate"
                )
            self.run.losses.setdefault(name, []).append(loss)
        self.run.seconds += time.monotonic() - start

    def _validate(self) -> float | None:
        """Validation Dice, the best model so far written. None in all processes but the first."""
        if not self.is_first:
            return None
        model, record = self.task.finished_model(self.run.step)
        score = self.task.validate(model)
        if self.run.best is None or score > self.run.best[0]:
            self.run.best = (score, self.run.step)
            self._write_model(model, record)
        return score

    def _report(self, score: float | None) -> None:
        run = self.run
        if self.is_first:
            self.metrics.add(run.step, self._means(), self.task.rate(run.step - 1), score, run.seconds)
            self._tell(score)
        run.losses, self.reported, self.reported_step = {}, time.monotonic(), run.step

    def _means(self) -> dict[str, float]:
        """Mean of each loss since the last report."""
        return {name: float(np.mean(values)) for name, values in self.run.losses.items()}

    def _tell(self, score: float | None) -> None:
        """Call the listener. score: validation Dice of this step, None without a validation."""
        if not self.is_first:
            return
        run = self.run
        speed = (run.step - self.reported_step) / max(time.monotonic() - self.reported, 1e-9)
        self.progress(Progress(run.step, self.plan.steps, self._means(), score, speed))

    def _save(self) -> None:
        if self.is_first:
            save_training_state(self.files.checkpoint, self.run.state())
        wait_for_all()

    def _write_model(self, model: Model, record: dict[str, Any]) -> None:
        config = self.task.setup.config
        provenance = {
            "seed": config.seed,
            "step": self.run.step,
            "seconds": round(self.run.seconds),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {self.task.device.type}",
            "versions": {"singlestrip": __version__, "torch": torch.__version__},
            "configuration": asdict(config),
            "validation_dice": self.run.best[0] if self.run.best else None,
        }
        self.task.write_model(self.files.model, model, record | provenance)

    def _finish(self) -> None:
        if self.is_first:
            if self.plan.validate_every is None:
                self._write_model(*self.task.finished_model(self.run.step))
            figures.curve_figure(self.metrics.rows(), self.files.curve)
        wait_for_all()
