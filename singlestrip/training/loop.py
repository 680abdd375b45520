"""The one training loop: synthesise, predict, update; average, validate, save, resume.

Each image of a run is drawn from streams of its own, by the run's seed and the image's number, so
that a resumed run goes on as if it had never stopped, and several processes see what one process
with a larger batch would have seen.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from msgspec import Meta

from .._version import __version__
from ..configuration import (
    HEAD_BRAIN_MM,
    INSIDE_BASE,
    MAX_LOCATOR_SIZE,
    CascadeConfig,
    TrainConfig,
    UNetConfig,
    Window,
)
from ..errors import InputError, Interrupted, ModelError, SingleStripError
from ..io import figures, memory, typed
from ..networks import checkpoint, training_state
from ..networks.cascade import Cascade
from ..networks.device import fast_in_bfloat16
from ..networks.losses import segmentation_loss
from ..space.grid import Grid
from ..space.metrics import dice
from ..space.resample import conform_labels
from ..space.scan import Scan
from ..stripping.stripper import Stripper
from ..synthesis.gmm import NativeMap
from ..synthesis.image import sample_parameters, synthesise
from ..synthesis.label_map import LabelMap
from ..synthesis.labelling import LabelledScan
from ..synthesis.streams import RandomStreams, whole_number
from .calibration import calibrated
from .run_files import Metrics, RunFiles

MIN_WINDOW = 8  # voxels along a side that show the shape of a brain
MAP_BYTES = 12  # a voxel of a conformed label map: its labels, the brain, and how far it is
SOURCE_FACTOR = 0.75  # spacing of a label map over the voxel size: finer, so that sampling does not alias
REPORT_EVERY = 20  # steps between rows of metrics.csv

# What may change between the parts of one run.
CHANGEABLE = ("steps", "validate_every", "save_every", "amp")

Step = Annotated[int, Meta(ge=1)]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class ParameterState:
    """What AdamW remembers of one parameter: number of updates [], and two means of its shape."""

    step: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor


@dataclass(frozen=True)
class OptimizerState:
    """By the parameters' numbers. What else torch stores follows from the configuration."""

    state: dict[int, ParameterState]


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds of a run. best: validation Dice and its step; losses since the last report."""

    model: Tensors
    averaged: Tensors
    optimizer: OptimizerState
    step: Step
    best: tuple[Annotated[float, Meta(ge=0, le=1)], Step] | None
    seconds: Annotated[float, Meta(ge=0, le=1e12)]
    world: Annotated[int, Meta(ge=1)]
    cascade: dict[str, Any]
    config: dict[str, Any]
    labels: str
    losses: dict[Literal["locator", "segmenter"], list[Annotated[float, Meta(ge=-1e30, le=1e30)]]]


def brain_extent_mm(maps: list[NativeMap]) -> float:
    """Longest side in mm of the brains' bounding boxes along right, anterior, superior."""
    extent = 0.0
    for source in maps:
        matrix = source.vox2world[:3, :3]
        where = np.argwhere(source.labels > INSIDE_BASE) @ matrix.T
        extent = max(extent, float((np.ptp(where, axis=0) + np.abs(matrix).sum(axis=1)).max()))
    return extent


def fitting_cascade(
    maps: list[NativeMap], voxel_size_mm: float | None = None, norm: str = UNetConfig.norm
) -> CascadeConfig:
    """Networks for the brains of label maps. Raises InputError where the voxel size does not suit them."""
    extent, adult = brain_extent_mm(maps), CascadeConfig()
    in_proportion = adult.voxel_size_mm * extent / HEAD_BRAIN_MM
    finest = in_proportion * adult.locator_size / MAX_LOCATOR_SIZE
    coarsest = in_proportion * adult.segmenter_size / MIN_WINDOW
    if voxel_size_mm is not None and not finest <= voxel_size_mm <= coarsest:
        raise InputError(
            f"voxels of {voxel_size_mm:g} mm do not suit a brain {extent:.3g} mm long: choose more than "
            f"{finest:.2g} and less than {coarsest:.2g} mm"
        )
    cascade = CascadeConfig.fitting(extent, voxel_size_mm, norm)
    try:
        return typed.convert_all(asdict(cascade), CascadeConfig)
    except ValueError as error:
        raise InputError(f"the brain is {extent:.3g} mm long, which no network is for ({error})") from error


def check_memory(maps: list[NativeMap], cascade: CascadeConfig, batch: int, device: torch.device) -> None:
    """Raise InputError if conformed label maps and a step of training take more memory than there is, at least."""
    left = memory.available() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    need = 0.0
    for name, window in cascade.windows().items():
        spacing = window.voxel_size_mm * SOURCE_FACTOR
        bounds = [Grid(m.labels.shape, m.vox2world).bounds_mm() for m in maps]
        sizes = [math.prod((high - low) / spacing) for low, high in bounds]
        need += MAP_BYTES * sum(sizes)
        need += getattr(cascade, name).layer_bytes(math.prod(window.shape)) * batch
    if left is not None and need > left:
        raise InputError(
            f"training with voxels of {cascade.voxel_size_mm:g} mm needs {need / memory.GIB:.1f} GiB of memory at "
            f"least and {left / memory.GIB:.1f} GiB are free; check that the masks hold whole brains, choose "
            "larger voxels or fewer images a step, crop the labelled images, or use a larger machine"
        )


def prepare_maps(
    maps: list[NativeMap], config: CascadeConfig, device: torch.device | str
) -> dict[str, list[LabelMap]]:
    """Native label maps conformed for each network. Raises InputError where nothing is left of one."""
    return {
        name: [_conformed_map(source, window.voxel_size_mm * SOURCE_FACTOR, device) for source in maps]
        for name, window in config.windows().items()
    }


def _conformed_map(source: NativeMap, spacing_mm: float, device: torch.device | str) -> LabelMap:
    labels = conform_labels(Scan(source.labels, source.vox2world), spacing_mm, INSIDE_BASE).array
    inside = labels > INSIDE_BASE
    if not inside.any() or not ((labels > 0) & ~inside).any():
        side = "outside" if inside.any() else "inside"
        raise InputError(
            f"nothing {side} the brain is left of a label map with voxels of {spacing_mm:.2g} mm: too thin to "
            "learn from; check the mask, or choose smaller voxels"
        )
    return LabelMap.of(labels, spacing_mm, device, source.levels)


def draw_batch(
    maps: list[LabelMap], window: Window, config: TrainConfig, scale: float, network: int, numbers: list[int]
):
    """The images of the run with these numbers, for one network: see `synthesise`."""
    chosen, parameters = [], []
    for number in numbers:
        streams = RandomStreams((config.seed, network, number))
        source = maps[whole_number(streams("label map"), 0, len(maps) - 1)]
        chosen.append(source)
        parameters.append(sample_parameters(config.synth, window, scale, streams, source.levels))
    return synthesise(chosen, window, parameters)


def mixed_precision(device: torch.device, amp: str) -> bool:
    """Whether to train in bfloat16: "on", "off", or for "auto" where that is fast."""
    return fast_in_bfloat16(device) if amp == "auto" else amp == "on"


def keep_memory() -> None:
    """Let glibc keep freed memory for reuse, in this process alone.

    By default every large tensor is returned to the system and its pages are zeroed again at the
    next allocation: 3 % of a step with the default networks, a fifth with wider ones at full
    resolution (docs/benchmarks.md). No effect with other C libraries.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return
    for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 64 * 2**20)):  # M_MMAP_MAX, TRIM, TOP_PAD
        mallopt(parameter, value)


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Processes of the run."""
    return dist.get_world_size() if is_distributed() else 1


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
        self.distributed = is_distributed()
        self.rank = dist.get_rank() if self.distributed else 0
        self.world = world_size()

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "world": self.world,
            "cascade": asdict(self.cascade),
            "config": asdict(self.config),
        }

    def restore(self, state: TrainingState) -> None:
        """Go on from `state`, of networks of the same shape."""
        self.model.load_state_dict(state.model)
        self.averaged.load_state_dict(state.averaged)
        remembered = {number: vars(part) for number, part in state.optimizer.state.items()}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": remembered, "param_groups": groups})
        self.step, self.best, self.seconds = state.step, state.best, state.seconds

    def update(self) -> dict[str, float]:
        """One step; returns the loss of each network."""
        config = self.config
        rate = config.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        first = (self.step * self.world + self.rank) * config.batch
        numbers = list(range(first, first + config.batch))
        losses = {}
        for network, (name, window) in enumerate(self.cascade.windows().items()):
            image, brain, weight = draw_batch(
                self.maps[name], window, config, self.cascade.scale, network, numbers
            )
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
                logit = getattr(self.model, name)(image)
            loss = segmentation_loss(logit, brain, weight, config.cross_entropy)
            loss.backward()
            losses[name] = float(loss.detach())
        if self.distributed:
            for parameter in self.model.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.world
            together = torch.tensor(list(losses.values()), device=self.device)
            dist.all_reduce(together)
            losses = dict(zip(losses, (together / self.world).tolist(), strict=True))
        for network in (self.model.locator, self.model.segmenter):
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        share = 1 - min(config.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), share)
        self.step += 1
        return losses


@dataclass(frozen=True)
class Progress:
    """Where a run stands: losses are means since the last report, validation Dice the latest or None."""

    step: int
    steps: int
    losses: dict[str, float]
    dice: float | None
    steps_per_second: float

    @property
    def seconds_left(self) -> float:
        return (self.steps - self.step) / self.steps_per_second


class _StopSignal:
    """Within the context SIGINT and SIGTERM only set `received`; a second one acts at once."""

    def __enter__(self):
        self.received = 0
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _handle(self, number, frame):
        self.received = number
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)


def fingerprint(maps: list[NativeMap]) -> str:
    """SHA-256 of label maps, geometry and levels: a run must be resumed with what it began with."""
    digest = hashlib.sha256()
    for source in maps:
        digest.update(np.ascontiguousarray(source.labels).tobytes())
        digest.update(np.asarray(source.vox2world, dtype=np.float64).tobytes())
        digest.update(b"" if source.levels is None else source.levels.tobytes())
    return digest.hexdigest()


def validate(model: Cascade, scans: Sequence[LabelledScan]) -> float:
    """Mean Dice of stripping labelled scans against their masks.

    An image in which no brain is found counts as 0.
    """
    stripper = Stripper(model)
    scores = []
    for image, mask, vox2world in scans:
        try:
            scores.append(dice(stripper.strip(image, vox2world).mask, mask))
        except InputError:
            scores.append(0.0)
    return float(np.mean(scores))


def read_state(path: Path) -> TrainingState:
    """A checkpoint of any run. Raises ModelError where it is damaged."""
    try:
        state = typed.convert(training_state.load_training_state(path), TrainingState)
        cascade = typed.convert_all(state.cascade, CascadeConfig)
    except ValueError as error:
        raise ModelError(f"{path}: not a training checkpoint, or damaged ({error})") from error
    fault = _fault_of_tensors(state, cascade)
    if fault:
        raise ModelError(f"{path}: damaged ({fault}); remove it to begin anew")
    return state


def _check_same(
    state: TrainingState, cascade: CascadeConfig, config: TrainConfig, labels: str, path: Path
) -> None:
    """Raise ModelError unless the checkpoint is of this very run; labels: their `fingerprint`."""
    if typed.convert_all(state.cascade, CascadeConfig) != cascade:
        raise ModelError(f"{path}: the run began with networks of another shape or voxel size")
    now = asdict(config)
    changed = [name for name in now if name not in CHANGEABLE and state.config.get(name) != now[name]]
    if changed:
        raise ModelError(f"{path}: the run began with another {', '.join(changed)}; resume with the same options")
    if state.world != world_size():
        raise ModelError(f"{path}: the run began with {state.world} processes; resume with as many")
    if state.labels != labels:
        raise ModelError(f"{path}: the run began with other label maps; resume with the same images")
    if state.step > config.steps:
        raise ModelError(f"{path}: the run is at step {state.step} of {config.steps}; ask for more steps")


def _fault_of_tensors(state: TrainingState, cascade: CascadeConfig) -> str | None:
    """What does not fit the networks, or each other; None if nothing does not."""
    with torch.device("meta"):  # shapes alone
        networks = Cascade(cascade)
    shapes = {name: value.shape for name, value in networks.state_dict().items()}
    parameters = dict(enumerate(value.shape for value in networks.parameters()))
    remembered = state.optimizer.state
    if remembered.keys() != parameters.keys():
        return "the optimizer knows other parameters"
    means = [{n: getattr(part, name) for n, part in remembered.items()} for name in ("exp_avg", "exp_avg_sq")]
    steps = {number: part.step for number, part in remembered.items()}
    scalars = {number: torch.Size() for number in parameters}
    for tensors, expected in (
        (state.model, shapes), (state.averaged, shapes), *((each, parameters) for each in means), (steps, scalars)
    ):  # fmt: skip
        if {name: value.shape for name, value in tensors.items()} != expected:
            return "weights of other names or shapes"
        for value in tensors.values():
            if value.dtype != torch.float32 or value.layout != torch.strided or value.device.type != "cpu":
                return f"weights of type {value.dtype}, {value.layout}"
            if not bool(torch.isfinite(value).all()):
                return "weights that are not finite"
    if any(bool((value < 0).any()) for value in means[1].values()):
        return "a mean square below 0"
    if any(int(value) != state.step for value in steps.values()) or (state.best and state.best[1] > state.step):
        return "steps that contradict each other"
    return None


def train(
    maps: list[NativeMap],
    out: Path,
    cascade: CascadeConfig,
    config: TrainConfig,
    *,
    device: torch.device,
    init: Cascade | None = None,
    resume: bool = False,
    scans: Sequence[LabelledScan] = (),
    validation: Sequence[LabelledScan] = (),
    provenance: dict[str, Any] | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train from native label maps and write the model to `out`.

    The model is the average of the weights at the last step, or with validation scans at the step
    where they scored best. scans: those of the maps; they are not learned from, but say where the
    border is drawn, see `calibration`. Beside the model lie a checkpoint, from which `resume`
    continues exactly, metrics.csv and a picture of the curves. Returns `out`.

    Raises Interrupted after SIGINT or SIGTERM, with a checkpoint written.
    """
    files = RunFiles(out)
    files.check(resume)
    digest = fingerprint(maps)
    state = read_state(files.checkpoint) if files.checkpoint.exists() else None
    if state is not None:
        _check_same(state, cascade, config, digest, files.checkpoint)
    check_memory(maps, cascade, config.batch, device)
    run = Run(cascade, config, prepare_maps(maps, cascade, device), device, init)
    losses: dict[str, list[float]] = {}  # since the last report
    if state is not None:
        run.restore(state)
        losses = state.losses
    first = run.rank == 0
    metrics = Metrics(files.metrics, run.step) if first else None

    def save() -> None:
        if first:
            training_state.save_training_state(
                files.checkpoint, run.state() | {"labels": digest, "losses": losses}
            )
        _wait_for_all(run)

    def write_model(model: Cascade, level: float) -> None:
        record = (provenance or {}) | {
            "seed": config.seed,
            "step": run.step,
            "images_seen": run.step * config.batch * run.world,
            "seconds": round(run.seconds),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {device.type}",
            "versions": {"singlestrip": __version__, "torch": torch.__version__},
            "configuration": asdict(config),
            "validation_dice": run.best[0] if run.best else None,
            "border_level": round(level, 4),
        }
        checkpoint.save_model(out, model, record, half=True)

    began = time.monotonic()
    with _StopSignal() as stop:
        while run.step < config.steps:
            start = time.monotonic()
            for name, loss in run.update().items():
                if not math.isfinite(loss):
                    raise SingleStripError(
                        f"{out}: the loss of the {name} is not finite at step {run.step}; resume with --amp off, "
                        "or begin anew with a lower --lr"
                    )
                losses.setdefault(name, []).append(loss)
            run.seconds += time.monotonic() - start
            last = run.step == config.steps
            score = None
            if validation and first and (last or run.step % config.validate_every == 0):
                model, level = calibrated(run.averaged, scans)
                score = validate(model, validation)
                if run.best is None or score > run.best[0]:
                    run.best = (score, run.step)
                    write_model(model, level)
            if first and (last or score is not None or run.step % REPORT_EVERY == 0):
                means = {name: float(np.mean(values)) for name, values in losses.items()}
                metrics.add(
                    step=run.step,
                    **{f"{name}_loss": f"{mean:.5f}" for name, mean in means.items()},
                    rate=f"{config.rate(run.step - 1):.3g}",
                    validation_dice="" if score is None else f"{score:.5f}",
                    seconds=f"{run.seconds:.1f}",
                )
                speed = sum(map(len, losses.values())) / len(losses) / max(time.monotonic() - began, 1e-9)
                progress(Progress(run.step, config.steps, means, score, speed))
                losses, began = {}, time.monotonic()
            stopping = _agree(stop.received, run)
            if last or stopping or run.step % config.save_every == 0:
                save()
            if stopping:
                break
    if _agree(stop.received, run):  # after the last step too: a scheduler does not wait for the model
        raise Interrupted(f"{files.checkpoint}: stopped by a signal at step {run.step}; continue with --resume")
    if first:
        if not validation:
            write_model(*calibrated(run.averaged, scans))
        figures.curve_figure(metrics.rows(), files.curve)
    _wait_for_all(run)
    return out


def _wait_for_all(run: Run) -> None:
    """torchrun ends all processes when one ends: none may while the first still writes."""
    if run.distributed:
        dist.barrier()


def _agree(received: int, run: Run) -> bool:
    """Whether any process of the run was told to stop, so that all stop at one step."""
    if not run.distributed:
        return received != 0
    flag = torch.tensor([received], device=run.device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())
