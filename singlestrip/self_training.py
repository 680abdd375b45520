"""Self-training: rounds of strip, score, select, fit and fine-tune, on record in one folder.

    run.json                    configuration, seeds, versions, inputs with checksums, validation of each round
    quality.safetensors         the quality network, where none was given
    round-0/model.safetensors   the model of the labelled example alone, where none was given
    round-N/scores.tsv          every unlabelled scan: its score, whether it was kept, and why not
    round-N/labels/             label maps of the pseudo-labels kept
    round-N/model.safetensors   the model after the round, with its metrics and curve beside it
    model.safetensors           the model of the last round, or of the best by validation
    index.html, pictures/       the page of the last round's masks

Scoring keeps no mask: those selected are stripped again, so that the folder does not grow with the
number of scans but for a line and a picture each.
"""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import __version__, volume
from .assessment import (
    Assessment,
    Case,
    draw,
    make_folder,
    name_cases,
    read_mask,
    worst_first,
    write_report,
)
from .cascade import Cascade
from .checkpoint import load_model, save_model
from .configuration import (
    AutoencoderConfig,
    AutoencoderTrainConfig,
    CascadeConfig,
    GMMConfig,
    SelfTrainConfig,
    TrainConfig,
)
from .errors import InputError, OutputError, SingleStripError, sentence
from .gmm import fit_label_map
from .labelling import checksum, fit_pair, read_label_map, read_pair
from .metrics import dice
from .output import whole
from .quality import MaskQuality, QualityModel, agreement, augmented_masks
from .quality_training import brain_mm, train_quality
from .stripping import Stripper
from .training import Progress, RunFiles, brain_extent_mm, train, validate

DECIMALS = 6  # of scores, from the start, so that those read back are the same
SCORE_COLUMNS = ("image", "score", "flag", "kept", "note", "sha256")


@dataclass(frozen=True)
class Inputs:
    """Files of a run. image, mask: the labelled example; unlabelled: images; references: their true masks,
    to rank by truth only; model, quality: to begin with, None to train them; validation: pairs of image, mask."""

    image: Path
    mask: Path
    unlabelled: tuple[Path, ...]
    references: tuple[Path, ...] = ()
    model: Path | None = None
    quality: Path | None = None
    validation: tuple[tuple[Path, Path], ...] = ()


@dataclass(frozen=True)
class Options:
    """How each part of a run works. first: training on the labelled example alone; later: of each round."""

    rounds: SelfTrainConfig = SelfTrainConfig()
    first: TrainConfig = TrainConfig()
    later: TrainConfig = TrainConfig()
    quality: AutoencoderTrainConfig = AutoencoderTrainConfig()
    gmm: GMMConfig = GMMConfig()


@dataclass(frozen=True)
class Score:
    """What a round found of one unlabelled scan; score None where it could not be stripped."""

    image: Path
    score: float | None
    flag: str = ""
    kept: bool = False
    note: str = ""
    sha256: str = ""

    def row(self) -> dict[str, str]:
        text = "" if self.score is None else f"{self.score:.{DECIMALS}f}"
        kept = str(int(self.kept))
        return dict(
            zip(SCORE_COLUMNS, (str(self.image), text, self.flag, kept, self.note, self.sha256), strict=True)
        )

    @staticmethod
    def of(row: dict[str, str]) -> Score:
        score = float(row["score"]) if row["score"] else None
        return Score(Path(row["image"]), score, row["flag"], row["kept"] == "1", row["note"], row["sha256"])


class _Record:
    """run.json: what the run is, checked when it is resumed, and what each round came to."""

    def __init__(self, folder: Path, inputs: Inputs, options: Options, resume: bool):
        self.path = folder / "run.json"
        given = {
            "configuration": asdict(options),
            "labelled": {p.name: checksum(p) for p in (inputs.image, inputs.mask)},
            "models": {p.name: checksum(p) for p in (inputs.model, inputs.quality) if p is not None},
            "validation": [{p.name: checksum(p) for p in pair} for pair in inputs.validation],
            "unlabelled": [str(path) for path in inputs.unlabelled],
            "references": [str(path) for path in inputs.references],
        }
        given = json.loads(json.dumps(given))
        self.values: dict[str, Any] = {}
        if self.path.is_file():
            if not resume:
                raise OutputError(
                    f"{folder}: holds an earlier run; continue with --resume, or name another folder"
                )
            try:
                self.values = json.loads(self.path.read_text())
            except ValueError as error:
                raise InputError(f"{self.path}: damaged ({error}); begin in another folder") from error
            changed = [name for name, value in given.items() if self.values.get(name) != value]
            if changed:
                raise InputError(
                    f"{folder}: the run began with another {', '.join(changed)}; resume with the same"
                )
        else:
            make_folder(folder)
            versions = {"singlestrip": __version__, "torch": torch.__version__, "numpy": np.__version__}
            machine = f"{platform.machine()}, python {platform.python_version()}"
            self.values = given | {"versions": versions, "machine": machine, "validation_dice": {}}
            self.write()

    def write(self) -> None:
        with whole(self.path) as (partial,):
            partial.write_text(json.dumps(self.values, indent=2) + "\n")


class SelfTraining:
    """One run in one folder. `say` is called with sentences for the user, `progress` during training."""

    def __init__(
        self,
        folder: Path,
        inputs: Inputs,
        options: Options,
        device: torch.device,
        resume: bool = False,
        say: Callable[[str], None] = lambda text: None,
        progress: Callable[[Progress], None] = lambda progress: None,
    ):
        if len(set(inputs.unlabelled)) < len(inputs.unlabelled):
            raise InputError("an unlabelled image is named more than once")
        if options.rounds.rank == "truth" and len(inputs.references) != len(inputs.unlabelled):
            raise InputError(f"{len(inputs.unlabelled)} images and {len(inputs.references)} references to rank by")
        self.folder, self.inputs, self.options, self.device = folder, inputs, options, device
        self.say, self.progress = say, progress
        image, labels, _ = fit_pair(inputs.image, inputs.mask, options.gmm)
        self.example = (labels, image.vox2world)
        self.validation = []
        for image_path, mask_path in inputs.validation:
            scan, mask = read_pair(image_path, mask_path)
            self.validation.append((scan.scaled(), mask, scan.vox2world))
        self.record = _Record(folder, inputs, options, resume)

    def run(self) -> Path:
        """All that is not done yet; returns the path of the final model."""
        model = self._first_model()
        self._validate(0, model)
        quality = self._quality_model()
        rounds = self.options.rounds.rounds
        for number in range(1, rounds + 1):
            model = self._round(number, model, quality, last=number == rounds)
            self._validate(number, model)
        return self._finish(model)

    def _first_model(self) -> Path:
        if self.inputs.model is not None:
            return self.inputs.model
        extent = brain_extent_mm([self.example])
        return self._train("round-0", [self.example], CascadeConfig.fitting(extent), self.options.first, None)

    def _quality_model(self) -> QualityModel:
        path = self.inputs.quality
        if path is None:
            path = self.folder / "quality.safetensors"
            if not path.is_file():
                self.say("training the quality network on the labelled mask")
                scan, mask = read_mask(self.inputs.mask)
                config = AutoencoderConfig.fitting(brain_mm(mask, scan.vox2world))
                network = train_quality(mask, scan.vox2world, config, self.options.quality, self.device)
                save_model(path, network, {"configuration": asdict(self.options.quality)}, half=True)
        return QualityModel.load(path, str(self.device))

    def _train(self, name: str, labels, cascade: CascadeConfig, config: TrainConfig, init: Cascade | None) -> Path:
        """Train in a folder of the run, or go on; a model without a checkpoint beside it is finished."""
        out = self.folder / name / "model.safetensors"
        make_folder(out.parent)
        files = RunFiles(out)
        if out.is_file() and not files.checkpoint.is_file():
            return out
        self.say(f"{name}: training on {len(labels)} label maps, {config.steps} steps")
        provenance = {"self_training": name, "labelled": self.record.values["labelled"], "label_maps": len(labels)}
        train(
            labels,
            out,
            cascade,
            config,
            device=self.device,
            init=init,
            resume=True,
            validation=self.validation,
            provenance=provenance,
            progress=self.progress,
        )
        files.checkpoint.unlink()
        return out

    def _round(self, number: int, model: Path, quality: QualityModel, last: bool) -> Path:
        name = f"round-{number}"
        folder = self.folder / name
        make_folder(folder / "labels")
        out = folder / "model.safetensors"
        if not out.is_file() or RunFiles(out).checkpoint.is_file() or not (folder / "scores.tsv").is_file():
            stripper = Stripper(load_model(model, self.device)[0])
            scores = self._scores(folder, stripper, quality, last)
            maps = [read_label_map(self._label_path(folder, score)) for score in scores if score.kept]
            network = stripper.model
            init = None if self.options.rounds.from_scratch else network
            self._train(name, [self.example, *maps], network.config, self.options.later, init)
        return out

    def _scores(self, folder: Path, stripper: Stripper, quality: QualityModel, last: bool) -> list[Score]:
        """Every scan's score, the best kept with their label maps written."""
        final = folder / "scores.tsv"
        if final.is_file():
            return _read_scores(final)
        partial = folder / "scores.partial.tsv"
        scores = _read_scores(partial) if partial.is_file() else []
        _write_scores(partial, scores)  # without a last line that was cut short
        done = {score.image for score in scores}
        total = len(self.inputs.unlabelled)
        for index, case in enumerate(self._cases()):
            if case.image in done:
                continue
            self.say(f"{folder.name}: scoring {index + 1}/{total}")
            scores.append(self._score(case, stripper, quality, last))
            with partial.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, SCORE_COLUMNS, delimiter="\t").writerow(scores[-1].row())
        scores = self._select(folder, scores, stripper)
        if last:
            self._write_page(scores)
        _write_scores(final, scores)
        partial.unlink()
        return scores

    def _cases(self) -> list[Case]:
        references = self.inputs.references or (None,) * len(self.inputs.unlabelled)
        pairs = zip(self.inputs.unlabelled, references, strict=True)
        return name_cases([Case(image, image, reference) for image, reference in pairs])

    def _score(self, case: Case, stripper: Stripper, quality: QualityModel, last: bool) -> Score:
        """Strip and score one scan; one that cannot be is listed with the reason."""
        try:
            scan = volume.read_single(case.image)
            mask = _strip(stripper, scan)
            rebuilt = quality.reconstruct(mask, scan.vox2world)
            found = quality.judge(mask, scan.vox2world, rebuilt)
            value = self._rank(case, scan, mask, found, stripper)
            if last:
                expected = rebuilt.on_grid(mask.shape, scan.vox2world)
                draw(self.folder, case, scan.scaled(), mask, expected, scan.vox2world)
            return Score(case.image, round(value, DECIMALS), found.flag, sha256=checksum(case.image))
        except SingleStripError as error:
            return Score(case.image, None, note=sentence(error))

    def _rank(self, case: Case, scan: volume.Volume, mask, found: MaskQuality, stripper: Stripper) -> float:
        if self.options.rounds.rank == "tta":
            masks = augmented_masks(stripper, scan.frame(0), scan.vox2world, scan.slope, scan.intercept)
            return agreement(masks)[0]
        if self.options.rounds.rank == "truth":
            reference, truth = read_mask(case.reference)
            if not volume.same_grid(reference, scan):
                raise InputError(f"{case.reference}: not on the grid of {case.image}")
            return dice(mask, truth)
        return found.estimate

    def _select(self, folder: Path, scores: list[Score], stripper: Stripper) -> list[Score]:
        """Best first, with what is kept and why others are not; label maps of those kept are written."""
        wanted, threshold = self.options.rounds.keep, self.options.rounds.threshold
        ranked = sorted(
            scores, key=lambda score: (-1.0 if score.score is None else -score.score, str(score.image))
        )
        ranked = sorted(ranked, key=lambda score: score.score is None)
        kept, result = 0, []
        for score in ranked:
            if score.score is None:
                result.append(score)
            elif kept == wanted:
                result.append(replace(score, note=f"not among the best {wanted}"))
            elif score.score < threshold:
                result.append(replace(score, note=f"score below {threshold:g}"))
            else:
                try:
                    self._write_labels(folder, score, stripper)
                except SingleStripError as error:
                    result.append(replace(score, note=sentence(error)))
                    continue
                kept += 1
                result.append(replace(score, kept=True))
        if kept < wanted:
            self.say(f"{folder.name}: only {kept} of the {wanted} pseudo-labels wanted; going on with those")
        unread = [score for score in result if score.score is None]
        if unread:
            self.say(f"{folder.name}: {len(unread)} scans could not be used; see scores.tsv")
        return result

    def _label_path(self, folder: Path, score: Score) -> Path:
        number = self.inputs.unlabelled.index(score.image)
        return folder / "labels" / f"{number:05d}.nii.gz"

    def _write_labels(self, folder: Path, score: Score, stripper: Stripper) -> None:
        path = self._label_path(folder, score)
        if volume.is_whole(path):
            return
        scan = volume.read_single(score.image)
        mask = _strip(stripper, scan)
        try:
            labels, _ = fit_label_map(scan.scaled(), mask, self.options.gmm)
        except InputError as error:
            raise InputError(f"{score.image}: {error}") from error
        volume.write_like(scan, path, labels[..., None], label="GMM classes")

    def _write_page(self, scores: list[Score]) -> None:
        cases = {case.image: case for case in self._cases()}
        shown = []
        for score in scores:
            values = {} if score.score is None else {"estimated_dice": score.score}
            note = score.note or ("kept as a pseudo-label" if score.kept else "")
            shown.append(Assessment(cases[score.image], score.flag or "fail", values, note=note))
        write_report(self.folder, worst_first(shown), self.folder.resolve().name, "Masks of the last round.")

    def _validate(self, number: int, model: Path) -> None:
        done = self.record.values["validation_dice"]
        if self.validation and str(number) not in done:
            done[str(number)] = validate(load_model(model, self.device)[0], self.validation)
            self.say(f"round {number}: validation Dice {done[str(number)]:.4f}")
            self.record.write()

    def _finish(self, model: Path) -> Path:
        """Copy the last round's model, or with validation the best round's, to the top."""
        done = self.record.values["validation_dice"]
        last = self.options.rounds.rounds
        best = max(range(last + 1), key=lambda number: (done[str(number)], number)) if done else last
        if best != last:
            self.say(f"validation fell after round {best}: its model is kept")
        if best == 0 and self.inputs.model is not None:
            model = self.inputs.model
        else:
            model = self.folder / f"round-{best}" / "model.safetensors"
        out = self.folder / "model.safetensors"
        with whole(out) as (partial,):
            partial.write_bytes(model.read_bytes())
        return out


def _strip(stripper: Stripper, scan: volume.Volume) -> np.ndarray:
    try:
        return stripper.strip(scan.frame(0), scan.vox2world, slope=scan.slope, intercept=scan.intercept).mask
    except InputError as error:
        raise InputError(f"{scan.path}: {error}") from error


def _read_scores(path: Path) -> list[Score]:
    """Rows of a score table; a row cut short by a kill has no checksum column and does not count."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Score.of(row) for row in csv.DictReader(file, delimiter="\t") if row["sha256"] is not None]


def _write_scores(path: Path, scores: list[Score]) -> None:
    with whole(path) as (partial,), partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, SCORE_COLUMNS, delimiter="\t")
        writer.writeheader()
        writer.writerows(score.row() for score in scores)
