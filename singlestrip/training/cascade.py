"""Train the cascade, the two networks that strip, on synthetic images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..configuration import CascadeConfig, StudentTrainConfig, TrainConfig
from ..errors import InputError
from ..networks.cascade import Cascade
from ..networks.checkpoint import save_model
from ..networks.device import fast_in_bfloat16
from ..networks.evidence import add_evidence
from ..networks.losses import class_loss, distillation_loss, segmentation_loss
from ..networks.model_header import Anatomy
from ..space.metrics import dice
from ..stripping.stripper import Stripper
from ..synthesis.found_lesions import LesionBank
from ..synthesis.gmm import NativeMap
from ..synthesis.labelling import LabelledScan
from .calibration import calibrated
from .fitting import check_memory
from .maps import MapUse, fingerprint, image_sources
from .moving_average import MovingAverage
from .processes import process_count, process_number
from .run_files import RunFiles
from .task import Plan, Setup, Task
from .trainer import Progress, Trainer, state_to_resume

LOSSES = ("segmenter", "locator")
CHANGEABLE = ("steps", "validate_every", "save_every", "report_every", "amp")  # between the parts of one run

CascadeSetup = Setup[Cascade, CascadeConfig, TrainConfig]


@dataclass(frozen=True)
class TrainingData:
    """What a cascade learns from and is measured by.

    maps: label maps; uses: how each is learned from, empty to draw each as often; init: a cascade to begin with,
    and the teacher of a student;
    scans: the labelled scans of the maps, which are not learned from but say where the border is drawn, see
    `calibration`; validation: scans to score during training; provenance, anatomy: what the model file tells of
    all this; lesions: found in scans, None to make all by hand.
    """

    maps: Sequence[NativeMap]
    init: Cascade | None = None
    scans: Sequence[LabelledScan] = ()
    validation: Sequence[LabelledScan] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    anatomy: Anatomy | None = None
    uses: Sequence[MapUse] = ()
    lesions: LesionBank | None = None


class CascadeTask(Task[Cascade, CascadeConfig, TrainConfig]):
    """Each step draws an image for each network and takes the gradient of its loss: of the brain or of classes, or
    for a student of what the teacher says of the whole image."""

    validates = True
    average: MovingAverage[Cascade]

    def __init__(self, data: TrainingData, setup: CascadeSetup, device: torch.device) -> None:
        """Raises InputError if nothing is left of a label map at a network's voxel size."""
        config, cascade = setup.config, setup.network
        self.setup, self.config, self.data, self.device = setup, config, data, device
        self.sources = image_sources(data.maps, cascade, config, device, data.uses, data.lesions)
        torch.manual_seed(config.seed)
        self.model = Cascade(cascade)
        if data.init is not None:
            begin_with(self.model, data.init)
        self.model.to(device)
        teacher = teacher_of(data, config)
        self.teacher = None if teacher is None else copy.deepcopy(teacher).to(device).requires_grad_(False)
        self.average = MovingAverage(self.model, config.average)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.amp = mixed_precision(device, config.amp)

    def rate(self, step: int) -> float:
        return self.config.rate(step)

    def losses(self, step: int) -> Iterator[tuple[str, torch.Tensor]]:
        for name, times in (("locator", self.config.locator_draws), ("segmenter", 1)):
            batches = range(step * times, (step + 1) * times)
            yield name, torch.stack([self._loss(name, batch) for batch in batches]).mean()

    def _loss(self, network: str, batch: int) -> torch.Tensor:
        """Loss [] of a network for this process's images of the batch of this number."""
        first = (batch * process_count() + process_number()) * self.config.batch
        numbers = range(first, first + self.config.batch)
        if self.teacher is not None:
            return self._distance_to(self.teacher, network, numbers, batch)
        image, shares, weight = self.sources[network].draw(numbers, batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            logits = getattr(self.model, network)(image)
        logits = self._with_evidence(image, logits) if network == "segmenter" else logits
        loss = segmentation_loss if logits.shape[1] == 1 else class_loss
        return loss(logits, shares, weight, self.config.cross_entropy)

    def _distance_to(self, teacher: Cascade, network: str, numbers: range, batch: int) -> torch.Tensor:
        """Loss [] of a network that sees images, against what the teacher's sees in them as they are whole."""
        image, whole, weight = self.sources[network].draw_pairs(numbers, batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            target = getattr(teacher, network)(whole)
            logits = getattr(self.model, network)(image)
        return distillation_loss(logits, target, weight)

    def _with_evidence(self, images: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Logits [B, C, X, Y, Z] of images [B, 1, X, Y, Z]; those of classes with the evidence of each image."""
        cascade = self.setup.network
        if cascade.evidence is None:
            return logits
        pairs = zip(images[:, 0], logits, strict=True)
        told = [add_evidence(*pair, cascade.mirrored_channels, cascade.evidence) for pair in pairs]
        return torch.stack(told)

    def clip_gradients(self) -> None:
        for network in (self.model.locator, self.model.segmenter):
            torch.nn.utils.clip_grad_norm_(network.parameters(), self.config.clip)

    def finished_model(self, step: int) -> tuple[Cascade, dict[str, Any]]:
        """The average of the weights, its border drawn by the labelled scans."""
        model, level = calibrated(self.average.model, self.data.scans, self.config.largest_level)
        images = step * self.config.batch * process_count()
        return model, self.data.provenance | {"images_seen": images, "border_level": round(level, 4)}

    def write_model(self, path: Path, model: Cascade, provenance: dict[str, Any]) -> None:
        """Write a finished model and its anatomy."""
        save_model(path, model, provenance, half=True, anatomy=self.data.anatomy)

    def validate(self, model: Cascade) -> float:
        return validate(model, self.data.validation)


def begin_with(model: Cascade, init: Cascade) -> None:
    """Give networks the weights of others.

    The last layer of a segmenter that tells other classes apart keeps its own.
    """
    weights, own = init.state_dict(), model.state_dict()
    if model.config.classes != init.config.classes:
        weights = {name: own[name] if name.startswith("segmenter.head.") else weights[name] for name in own}
    model.load_state_dict(weights)


def train_cascade(
    data: TrainingData,
    out: Path,
    cascade: CascadeConfig,
    config: TrainConfig,
    *,
    device: torch.device,
    resume: bool = False,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train networks of the shape `cascade` and write the model to `out`, which is returned.

    The model is the average of the weights at the last step, or with validation scans at the step where they
    scored best. Beside it lie a checkpoint, from which `resume` continues exactly, metrics.csv and a picture of
    the curves.

    Raises Interrupted after SIGINT or SIGTERM, with a checkpoint written; EarlierRunError if a checkpoint is there
    and `resume` is not asked for; InputError, ModelError, OutputError and DivergedError.
    """
    files = RunFiles(out)
    files.check(resume)
    setup = cascade_setup(data, cascade, config)
    state = state_to_resume(files, setup)
    check_memory(data.maps, cascade, config, device)
    Trainer(CascadeTask(data, setup, device), files, state, progress).train()
    return out


def cascade_setup(data: TrainingData, cascade: CascadeConfig, config: TrainConfig) -> CascadeSetup:
    """What a run of the cascade is: known before label maps are conformed and networks built."""
    validate_every = config.validate_every if data.validation else None
    plan = Plan(config.steps, config.report_every, config.save_every, validate_every)
    learned = fingerprint(data.maps, data.uses, data.lesions, teacher_of(data, config))
    return Setup(Cascade, cascade, config, CHANGEABLE, learned, LOSSES, True, plan)


def teacher_of(data: TrainingData, config: TrainConfig) -> Cascade | None:
    """The networks that a student learns from, which it begins with; None for all but students."""
    if not isinstance(config, StudentTrainConfig):
        return None
    assert data.init is not None, "a student has a teacher"
    return data.init


def mixed_precision(device: torch.device, amp: str) -> bool:
    """Whether to train in bfloat16. amp: "on", "off", or "auto": if that is fast."""
    return fast_in_bfloat16(device) if amp == "auto" else amp == "on"


def validate(model: Cascade, scans: Sequence[LabelledScan]) -> float:
    """Mean Dice of stripping labelled scans against their masks. A scan in which no brain is found counts as 0."""
    return float(np.mean([each.dice for each in strip_labelled(model, scans)]))


@dataclass(frozen=True, eq=False)
class StrippedLabelled:
    """A labelled scan. mask: predicted, boolean [X, Y, Z], empty if no brain is found; dice: with its own mask."""

    labelled: LabelledScan
    mask: np.ndarray
    dice: float


def strip_labelled(model: Cascade, scans: Sequence[LabelledScan]) -> list[StrippedLabelled]:
    """Strip labelled scans and compare with their masks."""
    stripper = Stripper(model)
    stripped = []
    for labelled in scans:
        try:
            mask = stripper.strip(labelled.scan).mask
        except InputError:
            mask = np.zeros_like(labelled.mask)
        stripped.append(StrippedLabelled(labelled, mask, dice(mask, labelled.mask)))
    return stripped
