"""One fold of the experiment of self-training: regimes of synthesis, arms, their training and scores."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from experiment_scans import ExperimentScan, Fold

from singlestrip.configuration import (
    INSIDE_BASE,
    CascadeConfig,
    GMMConfig,
    ShapeConfig,
    SynthConfig,
    TrainConfig,
    TransferConfig,
)
from singlestrip.errors import SingleStripError
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.checkpoint import load_model
from singlestrip.networks.losses import segmentation_loss
from singlestrip.networks.model_files import find_by_name
from singlestrip.quality.augmentation import agreement, augmented_masks
from singlestrip.quality.scores import QualityModel
from singlestrip.self_training.shapes import make_shape_bank
from singlestrip.space.metrics import dice, hausdorff95
from singlestrip.space.resample import conform_labels
from singlestrip.space.scan import Scan
from singlestrip.stripping.stripper import Stripper
from singlestrip.synthesis.gmm import NativeMap, fit_label_map, levels_of
from singlestrip.synthesis.label_map import LabelMap
from singlestrip.synthesis.streams import RandomStreams, whole_number
from singlestrip.training.cascade import CascadeTask, TrainingData, cascade_setup
from singlestrip.training.fitting import brain_extent_mm
from singlestrip.training.maps import ImageSource, WindowMaps
from singlestrip.training.run import Run

VOXEL_SIZE_MM = 4.0  # of the segmenter, where the regime trains it
GMM = GMMConfig(sample=20_000)
OUTLIER = 0.25  # a pseudo-label whose logarithm of volume lies further from the median is left out
SYNTHETIC = 24  # held-out synthetic images that a model is scored on

PAPER = SynthConfig(
    shape=ShapeConfig(rotation_deg=15.0, turn_probability=0.0, scaling=(0.95, 1.05), anisotropy=0.05, shear=0.012),
    smooth_classes_probability=0.0,
    joint_probability=0.0,
    region_probability=0.0,
    structures_probability=0.0,
    layer_probability=0.0,
    surroundings_probability=0.0,
    coil_probability=0.0,
    masked_probability=0.0,
)
# One head as it is: what other people and scanners show is not in the synthesis.
NARROW = replace(
    PAPER,
    shape=ShapeConfig(
        rotation_deg=5.0,
        turn_probability=0.0,
        scaling=(1.0, 1.0),
        anisotropy=0.0,
        shear=0.0,
        warp_mm=(0.0, 0.0, 0.0),
    ),
    slice_probability=0.0,
    crop_probability=0.0,
)
REGIMES = {"paper": PAPER, "narrow": NARROW, "ours": SynthConfig(), "fetal": TransferConfig().synth}
GIVEN = {"fetal": "fetus"}  # SL-1 of a regime that does not train its own: the name of a model


@dataclass(frozen=True)
class Arm:
    """What an arm learns from beside the labelled example, if it has a teacher.

    teacher: whose masks of the unlabelled scans are its pseudo-labels, "truth" for their true masks; rank: what
    the best of them are chosen by, "" to take all but outliers of volume; shapes: the masks only make a bank of
    shapes; careful: half of the images are of the example, and there is no loss within a voxel of the border of a
    pseudo-label; half: of the unlabelled scans, 0 or 1, None for both; scratch: it begins without weights.
    """

    teacher: str = ""
    rank: str = ""
    shapes: bool = False
    careful: bool = False
    half: int | None = None
    scratch: bool = False


ARMS = {
    "SL-1": Arm(scratch=True),
    "SL-1+": Arm(),
    "SL-N": Arm("truth"),
    "shapes-N": Arm("truth", shapes=True),
    "shapes": Arm("SL-1", shapes=True),
    "careful": Arm("SL-1+", careful=True),
    "half-0": Arm("SL-1", careful=True, half=0),
    "half-1": Arm("SL-1", careful=True, half=1),
    "halves": Arm("halves", careful=True),
    "estimate-k": Arm("SL-1", rank="estimate"),
    "oracle-k": Arm("SL-1", rank="truth"),
    "random-k": Arm("SL-1", rank="random"),
    "AE-k": Arm("SL-1", rank="shape"),
    "TTA-k": Arm("SL-1", rank="agreement"),
    "scratch-k": Arm("SL-1", rank="truth", scratch=True),
}


@dataclass(frozen=True)
class Schedule:
    """Steps from scratch and of each later arm; keep: pseudo-labels that a ranked arm takes."""

    first: int
    later: int
    keep: int = 6

    def config(self, regime: str, fold: int, scratch: bool, amp: str) -> TrainConfig:
        """How to train an arm. Later arms begin again at a fifth of the peak of the rate, all with one seed."""
        synth = REGIMES[regime]
        if scratch:
            return TrainConfig(steps=self.first, warmup=100, seed=fold, amp=amp, synth=synth)
        later = TrainConfig(steps=self.later, lr=2e-4, warmup=20, seed=fold + 1000, amp=amp)
        return replace(later, locator_draws=0, synth=synth)


@dataclass(frozen=True, eq=False)
class PseudoLabel:
    """A mask of an unlabelled scan with its classes.

    mask: boolean [X, Y, Z]; labels: uint8, conformed; levels: [256] of the classes, see `NativeMap`.
    """

    scan: ExperimentScan
    mask: np.ndarray
    labels: np.ndarray
    levels: np.ndarray

    @staticmethod
    def of(scan: ExperimentScan, mask: np.ndarray, spacing_mm: float) -> PseudoLabel:
        """Fit classes to a mask. Raises InputError where there is nothing to fit."""
        labels, record = fit_label_map(scan.scan.values(), mask, GMM)
        conformed = conform_labels(Scan(labels, scan.scan.vox2world), spacing_mm, INSIDE_BASE).array
        return PseudoLabel(scan, mask, conformed, levels_of(record))


def native_map(scan: ExperimentScan) -> NativeMap:
    """The label map of a labelled scan."""
    labelled = scan.labelled
    labels, record = fit_label_map(scan.scan.values(), labelled.mask, GMM)
    return NativeMap(labels, scan.scan.vox2world, levels_of(record))


def without_outliers(labels: Sequence[PseudoLabel]) -> list[PseudoLabel]:
    """Pseudo-labels whose volume is near the median of all."""
    volumes = [np.log(max(label.mask.sum(), 1) * np.prod(label.scan.scan.grid.voxel_sizes_mm)) for label in labels]
    near = np.abs(np.array(volumes) - np.median(volumes)) < OUTLIER
    return [label for label, keep in zip(labels, near, strict=True) if keep]


class ArmTask(CascadeTask):
    """Trains the cascade, or of a later arm the segmenter alone: the locator stays that of SL-1.

    The maps of a later arm are the example's and those of pseudo-labels. Each is drawn as often, but in a careful
    arm the example's as often as all others.
    """

    def __init__(
        self,
        data: TrainingData,
        config: TrainConfig,
        cascade: CascadeConfig,
        device: torch.device,
        pseudo: Sequence[LabelMap] = (),
        careful: bool = False,
    ) -> None:
        super().__init__(data, cascade_setup(data, cascade, config), device)
        self.pseudo, self.careful = list(pseudo), careful
        source: ImageSource = self.sources["segmenter"]
        own = source.views[0]
        examples = list(own.maps) * (max(1, len(self.pseudo)) if careful else 1)
        self.examples = len(examples)
        maps = WindowMaps(own.window, [*examples, *self.pseudo])
        self.sources["segmenter"] = replace(source, views=[maps])

    def losses(self, step: int) -> Iterator[tuple[str, torch.Tensor]]:
        yield "segmenter", self._masked_loss("segmenter", step)
        if self.config.locator_draws:
            yield "locator", self._masked_loss("locator", step)

    def _masked_loss(self, network: str, number: int) -> torch.Tensor:
        """Loss [] for one image, but for the voxels beside the border of a pseudo-label if the arm is careful."""
        source = self.sources[network]
        image, brain, weight = source.draw([number], number)
        if network == "segmenter" and self.careful and self._is_pseudo(source, number):
            inside = (brain > 0.5).float()
            around = F.max_pool3d(inside, 3, 1, 1) + F.max_pool3d(-inside, 3, 1, 1)
            weight = weight * (around == 0)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            logit = getattr(self.model, network)(image)
        return segmentation_loss(logit, brain, weight, self.config.cross_entropy)

    def _is_pseudo(self, source: ImageSource, number: int) -> bool:
        """Whether the image of this number is drawn from a pseudo-label, as `ImageSource.draw` chooses its map."""
        streams = RandomStreams((self.config.seed, source.network, number))
        return whole_number(streams("label map"), 0, len(source.views[0].maps) - 1) >= self.examples


class OutOfTimeError(Exception):
    """The time for the experiment is over."""


class FoldArms:
    """The arms of one fold in one regime. Models and masks lie in a folder, scores are returned as rows."""

    def __init__(
        self,
        regime: str,
        fold: Fold,
        folder: Path,
        schedule: Schedule,
        device: torch.device,
        ends: float,
        graphs: bool,
    ) -> None:
        """ends: `time.time` at which training gives up; graphs: capture the networks as CUDA graphs."""
        self.regime, self.fold, self.folder, self.schedule = regime, fold, folder, schedule
        self.device, self.ends, self.graphs = device, ends, graphs
        self.amp = "auto" if device.type == "cpu" else "off"  # small networks lose more by casts than they gain
        folder.mkdir(parents=True, exist_ok=True)
        self.example = native_map(fold.example)
        self.given = self._given()
        extent_mm = brain_extent_mm([self.example])
        self.cascade = self.given.config if self.given else CascadeConfig.fitting(extent_mm, VOXEL_SIZE_MM)
        self.spacing_mm = self.cascade.voxel_size_mm * TrainConfig().source_factor

    def _given(self) -> Cascade | None:
        """The model that SL-1 is, if the regime does not train its own."""
        name = GIVEN.get(self.regime)
        return None if name is None else load_model(find_by_name(name), self.device)[0]

    # Tasks

    def train(self, name: str) -> list[dict[str, Any]]:
        """Train an arm and score its model on all scans."""
        arm = ARMS[name]
        began = time.monotonic()
        config = self.schedule.config(self.regime, self.fold.number, arm.scratch, self.amp)
        if name == "SL-1" and self.given is not None:
            config = replace(config, steps=0)
        pseudo, example = self._materials(arm)
        init = self.given if arm.scratch else self.load("SL-1")
        data = TrainingData([example], init, [self.fold.example.labelled])
        task = ArmTask(data, config, self.cascade, self.device, pseudo, arm.careful)
        if self.graphs:
            capture(task)
        run = Run(task)
        while run.step < config.steps:
            run.update()
            if time.time() > self.ends:
                raise OutOfTimeError
        model, _ = task.finished_model(run.step)
        torch.save(model.state_dict(), self.folder / f"{name}.pt")
        trained = time.monotonic() - began
        rows = self._score(name, model, task)
        cost = {"steps": config.steps, "seconds": round(trained, 1)}
        return [{"regime": self.regime, "fold": self.fold.number, "arm": name} | row | cost for row in rows]

    def label(self, teacher: str) -> list[dict[str, Any]]:
        """Fit classes to a model's masks of the unlabelled scans, and rank those of SL-1."""
        labels = []
        for scan, mask in zip(self.fold.auxiliary, self._masks(teacher), strict=True):
            try:
                labels.append(PseudoLabel.of(scan, mask, self.spacing_mm))
            except SingleStripError as error:
                print(f"{self.regime} {self.fold.number} {teacher}: {scan.name}: {error}", flush=True)
        torch.save(labels, self.folder / f"labels-{teacher}.pt")
        rows = [self._describe(label) for label in labels]
        common = {"regime": self.regime, "fold": self.fold.number, "teacher": teacher}
        return [common | row for row in rows]

    def rank(self) -> list[dict[str, Any]]:
        """Scores of SL-1's masks by which arms choose."""
        stripper = Stripper(self.load("SL-1"))
        quality = QualityModel.load(None, str(self.device))
        generator = np.random.default_rng(self.fold.number)
        rows = []
        for label in self.labels("SL-1"):
            scan, mask = label.scan.scan, Scan(label.mask, label.scan.scan.vox2world)
            measured = quality.assess(mask, image=scan, field=stripper.field(scan))
            rows.append(
                {
                    "name": label.scan.name,
                    "random": float(generator.random()),
                    "estimate": measured.estimated_dice,
                    "shape": measured.shape_dice,
                    "agreement": agreement(augmented_masks(stripper, scan))[0],
                    "truth": -1.0 if label.scan.mask is None else dice(label.mask, label.scan.mask),
                }
            )
        torch.save(rows, self.folder / "ranks.pt")
        common = {"regime": self.regime, "fold": self.fold.number, "teacher": "SL-1"}
        return [common | row for row in rows]

    # What arms learn from

    def labels(self, teacher: str) -> list[PseudoLabel]:
        """The pseudo-labels of a teacher."""
        if teacher == "truth":
            known = [scan for scan in self.fold.auxiliary if scan.mask is not None]
            return [PseudoLabel.of(scan, scan.labelled.mask, self.spacing_mm) for scan in known]
        if teacher == "halves":  # each half from the model that learned from the other
            taught = [self._half(self.labels(f"half-{1 - half}"), half) for half in (0, 1)]
            return [*taught[0], *taught[1]]
        return torch.load(self.folder / f"labels-{teacher}.pt", weights_only=False)

    def _half(self, labels: Sequence[PseudoLabel], half: int) -> list[PseudoLabel]:
        """The pseudo-labels of every second person among the unlabelled."""
        people = list(dict.fromkeys((scan.dataset, scan.person) for scan in self.fold.auxiliary))
        return [each for each in labels if people.index((each.scan.dataset, each.scan.person)) % 2 == half]

    def _materials(self, arm: Arm) -> tuple[list[LabelMap], NativeMap]:
        """Label maps of pseudo-labels, and the example's, with a bank if the arm learns shapes."""
        if not arm.teacher:
            return [], self.example
        labels = self.labels(arm.teacher)
        if arm.half is not None:
            labels = self._half(labels, arm.half)
        if arm.rank:
            ranks = {
                row["name"]: row[arm.rank] for row in torch.load(self.folder / "ranks.pt", weights_only=False)
            }
            labels = sorted(labels, key=lambda label: -ranks[label.scan.name])[: self.schedule.keep]
        elif arm.teacher != "truth":
            labels = without_outliers(labels)
        if arm.shapes:
            own = Scan(self.fold.example.labelled.mask, self.fold.example.scan.vox2world)
            masks = [Scan(label.mask, label.scan.scan.vox2world) for label in labels]
            bank = make_shape_bank(own, masks, self.cascade.scale, device=self.device)
            return [], replace(self.example, bank=bank)
        of = [LabelMap.of(each.labels, self.spacing_mm, self.device, each.levels) for each in labels]
        return of, self.example

    def load(self, name: str) -> Cascade:
        """The model of an arm."""
        model = Cascade(self.cascade)
        model.load_state_dict(torch.load(self.folder / f"{name}.pt", map_location="cpu"))
        return model.to(self.device).eval()

    def _masks(self, name: str) -> list[np.ndarray]:
        """A model's masks of the unlabelled scans."""
        with np.load(self.folder / f"masks-{name}.npz") as file:
            return [file[str(number)] for number in range(len(self.fold.auxiliary))]

    # Scores

    def _score(self, name: str, model: Cascade, task: ArmTask) -> list[dict[str, Any]]:
        """Rows of scans and of held-out synthetic images. Writes the masks of the unlabelled scans."""
        stripper = Stripper(model)
        groups = {
            "labelled": [self.fold.example],
            "inductive": self.fold.scored,
            "transductive": self.fold.auxiliary,
        }
        rows, unlabelled = [], []
        for group, scans in groups.items():
            for scan in scans:
                mask = _strip(stripper, scan.scan)
                if group == "transductive":
                    unlabelled.append(mask)
                if scan.mask is None:
                    continue
                kind = "ID" if scan.subset == self.fold.example.subset else "OOD"
                values = _compare(mask, scan)
                rows.append({"group": group, "kind": kind, "subset": scan.subset, "image": scan.name} | values)
        np.savez_compressed(
            self.folder / f"masks-{name}.npz", **{str(n): mask for n, mask in enumerate(unlabelled)}
        )
        rows += [
            {"group": "synthetic", "kind": "", "subset": "", "image": str(number), "dice": value}
            for number, value in enumerate(self._synthetic_dice(model, task))
        ]
        return rows

    def _synthetic_dice(self, model: Cascade, task: ArmTask) -> list[float]:
        """Dice of the segmenter on synthetic images of the example that no arm learns from."""
        source = task.sources["segmenter"]
        config = self.schedule.config(self.regime, self.fold.number + 10_000, False, self.amp)
        example = replace(source.views[0].maps[0], bank=None)
        held_out = replace(source, views=[WindowMaps(source.views[0].window, [example])], config=config)
        found = []
        for number in range(SYNTHETIC):
            image, brain, weight = held_out.draw([number], number)
            with torch.inference_mode():
                inside = (model.segmenter(image) > 0) & (weight > 0)
            truth = (brain > 0.5) & (weight > 0)
            found.append(dice(inside.cpu().numpy(), truth.cpu().numpy()))
        return found

    def _describe(self, label: PseudoLabel) -> dict[str, Any]:
        """How good a pseudo-label is."""
        truth = label.scan.mask
        if truth is None:
            return {"name": label.scan.name}
        volume = 100 * (label.mask.sum() / truth.sum() - 1)
        return {
            "name": label.scan.name,
            "truth": dice(label.mask, truth),
            "volume_percent": round(float(volume), 2),
        }


def _strip(stripper: Stripper, scan: Scan) -> np.ndarray:
    """The mask of a scan, empty where no brain is found."""
    try:
        return stripper.strip(scan).mask
    except SingleStripError:
        return np.zeros(scan.shape, dtype=bool)


def _compare(mask: np.ndarray, scan: ExperimentScan) -> dict[str, float]:
    """Scores of a mask against the true one."""
    truth = scan.labelled.mask
    return {
        "dice": dice(mask, truth),
        "hd95_mm": hausdorff95(mask, truth, scan.scan.vox2world),
        "volume_percent": 100 * float(mask.sum() / truth.sum() - 1),
    }


def capture(task: ArmTask) -> None:
    """Capture the networks of a task as CUDA graphs: such small networks take longer to launch than to compute."""
    for name in ("segmenter", *(["locator"] if task.config.locator_draws else [])):
        size = getattr(task.model.config, f"{name}_size")
        image = torch.rand((1, 1, size, size, size), device=task.device)
        setattr(task.model, name, torch.cuda.make_graphed_callables(getattr(task.model, name), (image,)))


def time_step(arms: FoldArms, steps: int) -> dict[str, float]:
    """Milliseconds of a step of SL-1 and of a later arm, and of both as CUDA graphs if these learn the same."""
    measured: dict[str, float] = {}
    losses: dict[str, list[float]] = {}
    for graphed in (False, True) if arms.device.type == "cuda" else (False,):
        for scratch in (True, False):
            config = replace(arms.schedule.config(arms.regime, 0, scratch, arms.amp), warmup=1)
            task = ArmTask(TrainingData([arms.example]), config, arms.cascade, arms.device)
            name = ("first" if scratch else "later") + ("_graphed" if graphed else "")
            try:
                if graphed:
                    capture(task)
                run = Run(task)
                learned = [run.update()["segmenter"] for _ in range(3)]
                began = time.monotonic()
                learned += [run.update()["segmenter"] for _ in range(steps)]
            except RuntimeError as error:
                print(f"{name}: {error}", flush=True)
                continue
            losses[name] = learned
            if graphed and not np.allclose(learned[:3], losses[name.removesuffix("_graphed")][:3], atol=0.02):
                print(f"{name}: other losses, {learned[:3]}", flush=True)
                continue
            measured[name] = 1000 * (time.monotonic() - began) / steps
    return measured
