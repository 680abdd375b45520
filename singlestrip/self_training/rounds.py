"""The rounds of self-training: strip, score, select, fit, fine-tune and compare, in one folder.

    run.json, scores.tsv          see `record`
    index.html, pictures/         the masks that the last round chose from
    round-0/model.safetensors     the model that the rounds begin with, with its quality network, unless both were
                                  given
    round-N/labels/               label maps of the pseudo-labels kept
    round-N/model.safetensors     the model after the round, with its metrics and curve beside it
    round-N/index.html            what the round changed in scans that it did not learn from
    model.safetensors             the model of the last round, or of the best by validation, with the quality
                                  network

A round whose model is worse than the one before (see `guard`) ends the run: the next would be the same again.

Scoring keeps no masks: scans that are selected are stripped again. The folder grows with the number of scans by a
line and a picture each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..configuration import CascadeConfig, TrainConfig
from ..errors import InputError
from ..io.images import volume
from ..io.images.pairs import check_exist
from ..io.output import atomic_write, make_folder
from ..networks.autoencoder import Autoencoder
from ..networks.cascade import Cascade
from ..networks.checkpoint import QualityPart, add_quality, load_model
from ..networks.model_header import AUTOENCODER, CASCADE, read_header
from ..quality.scores import QualityModel
from ..quality.training import QualityProgress, quality_part_task, train_quality_part
from ..space.scan import Scan
from ..stripping.stripper import Stripper
from ..synthesis.found_lesions import LesionBank, read_lesion_bank
from ..synthesis.gmm import NativeMap, is_inside
from ..synthesis.labelling import labelled_example, labelled_scan
from ..training.cascade import TrainingData, train_cascade, validate
from ..training.fitting import continued_cascade, fitting_cascade, labelled_anatomy
from ..training.maps import MapUse
from ..training.run_files import QUALITY_PART, RunFiles
from ..training.trainer import Progress
from .cost import Work, foresee_cost
from .decision import Decision
from .guard import Guard
from .pages import write_changes_page, write_scores_page
from .plan import Inputs, Options
from .record import RunRecord, append_score, read_scores, write_scores
from .scans import Scorer, fit_pseudo_labels, read_pseudo_labels, unlabelled_scans
from .select import Score, best_round, compared_images, describe_best, images_left_out, select
from .shapes import make_shape_bank

__all__ = ["Inputs", "Listeners", "Options", "SelfTraining"]

log = logging.getLogger(__name__)


class NoPseudoLabelError(InputError):
    """No unlabelled scan of a round can be learned from."""


def _ignore(progress: Progress | QualityProgress) -> None:
    pass


@dataclass(frozen=True)
class Listeners:
    """What is called while networks train: `training` for those that strip, `quality` for the one that scores."""

    training: Callable[[Progress], None] = _ignore
    quality: Callable[[QualityProgress], None] = _ignore


@dataclass(frozen=True)
class RoundFiles:
    """The files of one round in its folder."""

    run: Path
    number: int

    @property
    def name(self) -> str:
        """The name of the folder, by which the record knows the training."""
        return f"round-{self.number}"

    @property
    def folder(self) -> Path:
        """The folder of the round in that of the run."""
        return self.run / self.name

    @property
    def model(self) -> Path:
        """The model after the round."""
        return self.folder / "model.safetensors"

    @property
    def scores(self) -> Path:
        """The table of scores, once the best are selected."""
        return self.folder / "scores.tsv"

    @property
    def partial_scores(self) -> Path:
        """The table of scores while scans are scored."""
        return self.folder / "scores.partial.tsv"

    @property
    def labels(self) -> Path:
        """The folder of label maps."""
        return self.folder / "labels"


class SelfTraining:
    """One run in one folder, which is made when the inputs are found to be usable.

    Raises SingleStripError, before any work is done, where an input is missing or damaged, or the folder cannot be
    used; EarlierRunError where it holds a run and `resume` is False.
    """

    def __init__(
        self,
        folder: Path,
        inputs: Inputs,
        options: Options,
        device: torch.device,
        resume: bool = False,
        listeners: Listeners = Listeners(),
    ) -> None:
        self.folder, self.inputs, self.options = folder, inputs, options
        self.device, self.listeners = device, listeners
        _check_inputs(inputs, options)
        self.scans = unlabelled_scans(inputs)
        self.record = RunRecord(folder, inputs, options, resume)
        _check_models(inputs)
        self.validation = [labelled_scan(*pair, inputs.grids) for pair in inputs.validation]
        self.example, self.labelled = labelled_example(inputs.image, inputs.mask, options.gmm, inputs.grids)
        self.lesions = self._lesion_bank()
        compared = compared_images(inputs.unlabelled, options.rounds)
        scans = [scan for scan in self.scans if scan.image in compared]
        self.guard = Guard(self.example, self.labelled, scans, options.later, options.rounds.guard, device)
        self.record.begin()

    def run(self) -> Path:
        """Do all that is not done yet. Returns the path of the final model."""
        self._say_cost()
        models = [self._first_model()]
        self._validate(0, models[0])
        quality_file = self._quality_file(models[0])
        quality = QualityModel.load(quality_file, str(self.device))
        for number in range(1, self.options.rounds.rounds + 1):
            try:
                model = self._run_round(number, models[-1], quality)
            except NoPseudoLabelError as error:
                if number == 1:
                    raise
                log.warning("%s; the model before stays", error)
                break
            decision = self._decide(number, models[-1], model, quality)
            if decision.faults and not self.options.rounds.accept_worse:
                break
            models.append(model)
            self._validate(number, model)
        last = len(models) - 1
        best = best_round(self.record.validation_dice, last)
        if best != last:
            log.info("validation fell after round %d: its model is kept", best)
        return self._write_final(models[best], quality_file)

    def _say_cost(self) -> None:
        """Say what is still to do and how long it takes, unless all is done."""
        options, inputs, files = self.options, self.inputs, self._files(0)
        finishes = [self.record.is_finished(self._files(n).name) for n in range(1, options.rounds.rounds + 1)]
        trainings = [options.later] * finishes.count(False)
        if inputs.model is None and not self.record.is_finished(files.name):
            trainings.insert(0, options.first)
        if not trainings:
            return
        start = inputs.model or (files.model if files.model.exists() else inputs.init)
        model = Cascade(self._cascade()) if start is None else load_model(start, self.device)[0]
        rounds, kept = finishes.count(False), min(options.rounds.keep, len(self.scans))
        compared = len(self.guard.scans)
        work = Work(
            trainings,
            epochs=options.quality.epochs if inputs.quality is None and not files.model.exists() else 0,
            masks=rounds * (len(self.scans) + kept + 2 * compared),
            pictures=len(self.scans) + rounds * compared,
            label_maps=rounds * kept,
        )
        cascade = self._cascade() if inputs.model is None else model.config
        cost = foresee_cost(work, self.example, self.labelled.scan, model, cascade, self.device)
        log.info("%s: %s", self.folder, cost.describe())

    def _cascade(self) -> CascadeConfig:
        """The networks of the first model, if none was given."""
        if self.inputs.init is None:
            return fitting_cascade([self.example])
        return continued_cascade([self.example], load_model(self.inputs.init)[0].config)

    def _lesion_bank(self) -> LesionBank | None:
        """The lesions of the scans that were given for that; None if there are none."""
        if not self.inputs.lesions:
            return None
        networks = self._cascade() if self.inputs.model is None else load_model(self.inputs.model)[0].config
        return read_lesion_bank(self.inputs.lesions, networks.scale, self.inputs.grids)

    def _first_model(self) -> Path:
        """The model that was given, or one trained on the labelled example alone."""
        if self.inputs.model is not None:
            return self.inputs.model
        init = None if self.inputs.init is None else load_model(self.inputs.init, self.device)[0]
        return self._train(self._files(0), [self.example], self._cascade(), self.options.first, init)

    def _quality_file(self, model: Path) -> Path:
        """The file of the quality network that was given, or of one trained on the labelled mask.

        model: the first model. The network that is trained goes into its file, or into a copy if it was given.
        """
        if self.inputs.quality is not None:
            return self.inputs.quality
        path = self._files(0).model
        if not path.is_file():
            make_folder(path.parent)
            _copy(model, path)
        if not _has_quality(path):
            log.info("training the quality network on the labelled mask")
            mask = Scan(self.labelled.mask, self.labelled.scan.vox2world)
            provenance = {"labelled": [{"mask": self.record.labelled["mask"]}]}
            task = quality_part_task(mask, provenance, self.options.quality, self.device)
            train_quality_part(task, path, resume=True, progress=self.listeners.quality)
        RunFiles(path, QUALITY_PART).checkpoint.unlink(missing_ok=True)  # of a run that was killed here, too
        return path

    def _run_round(self, number: int, model: Path, quality: QualityModel) -> Path:
        """Score all scans with the model, and train it on with the best. Returns the path of the new model."""
        files = self._files(number)
        make_folder(files.labels)
        if self._is_finished(files):
            return files.model
        stripper = Stripper.load(model, str(self.device))
        scores = self._selected_scores(files, stripper, quality)
        kept = [self._label_map_path(files, score) for score in scores if score.kept]
        label_maps = self._label_maps(read_pseudo_labels(kept), stripper.config.scale)
        init = None if self.options.rounds.from_scratch else load_model(model, self.device)[0]
        return self._train(files, label_maps, stripper.config, self.options.later, init)

    def _label_maps(self, pseudo_labels: list[NativeMap], scale: float) -> list[NativeMap]:
        """What a round learns from: the example and the pseudo-labels, or the example with the shapes of these.

        scale: size of the anatomy over that of an adult human head.
        """
        if not self.options.rounds.shapes:
            return [self.example, *pseudo_labels]
        log.info("registering the labelled mask to %d others", len(pseudo_labels))
        masks = [Scan(is_inside(each.labels), each.vox2world) for each in pseudo_labels]
        own = Scan(self.labelled.mask, self.labelled.scan.vox2world)
        return [replace(self.example, bank=make_shape_bank(own, masks, scale, device=self.device))]

    def _decide(self, number: int, before: Path, after: Path, quality: QualityModel) -> Decision:
        """Whether the model of a round may replace the one before. Writes the pages of the round."""
        files = self._files(number)
        if number not in self.record.decisions:
            log.info("%s: comparing its model with the one before", files.name)
            decision, changes = self.guard.decide(before, after, quality, files.folder)
            outcome = self._outcome(decision)
            write_changes_page(files.folder, changes, f"Before and after {files.name}. {outcome}")
            scores = read_scores(files.scores, self.inputs.unlabelled, self.options.rounds.keep)
            names = {scan.image: scan.name for scan in self.scans}
            write_scores_page(self.folder, scores, names, f"Masks that {files.name} chose from. {outcome}")
            self.record.add_decision(number, decision)
            log.log(logging.WARNING if decision.faults else logging.INFO, "%s: %s", files.name, outcome)
        return self.record.decisions[number]

    def _outcome(self, decision: Decision) -> str:
        """What becomes of the model of a round, and why, in words."""
        if not decision.faults:
            return f"Its model is no worse: {decision.describe()}."
        fate = "is kept all the same" if self.options.rounds.accept_worse else "is dropped, the one before stays"
        return f"Its model {fate}: {'; '.join(decision.faults)}."

    def _selected_scores(self, files: RoundFiles, stripper: Stripper, quality: QualityModel) -> list[Score]:
        """The scores of all scans, best first, with the best kept; their label maps are written."""
        if files.scores.exists():
            return read_scores(files.scores, self.inputs.unlabelled, self.options.rounds.keep)
        scorer = Scorer(stripper, quality, self.options.rounds, self.folder, self.inputs.grids)
        scores = self._select(files, self._score_all(files, scorer), stripper)
        write_scores(files.scores, scores)
        files.partial_scores.unlink()
        return scores

    def _score_all(self, files: RoundFiles, scorer: Scorer) -> list[Score]:
        """The scores of all scans, those from before an interruption among them."""
        path = files.partial_scores
        scores = read_scores(path, self.inputs.unlabelled, None) if path.exists() else []
        write_scores(path, scores)  # without a last line that was cut short
        scored = {score.image for score in scores}
        for number, scan in enumerate(self.scans, start=1):
            if scan.image not in scored:
                log.info("%s: scoring %d/%d", files.name, number, len(self.scans))
                scores.append(scorer.score(scan))
                append_score(path, scores[-1])
        return scores

    def _select(self, files: RoundFiles, scores: Sequence[Score], stripper: Stripper) -> list[Score]:
        """Select the best scans and write their label maps; one that allows none makes way for the next best.

        Raises NoPseudoLabelError if no scan is left.
        """
        config = self.options.rounds
        unusable = images_left_out(self.inputs.unlabelled, files.number, config)
        while True:
            selected = select(scores, config, unusable)
            kept = {score.image: self._label_map_path(files, score) for score in selected if score.kept}
            faults = fit_pseudo_labels(kept, stripper, self.options.gmm)
            if not faults:
                break
            unusable |= faults
        if not kept:
            raise NoPseudoLabelError(
                f"{files.folder}: no unlabelled scan gives a pseudo-label; {describe_best(selected)}, see "
                f"{files.partial_scores.name}"
            )
        if len(kept) < config.keep:
            log.warning(
                "%s: only %d of the %d pseudo-labels wanted; going on with those",
                files.name,
                len(kept),
                config.keep,
            )
        lost = sum(score.ranking_score is None for score in selected)
        if lost:
            log.warning("%s: %d scans could not be used; see %s", files.name, lost, files.scores.name)
        return selected

    def _train(
        self,
        files: RoundFiles,
        label_maps: list[NativeMap],
        cascade: CascadeConfig,
        config: TrainConfig,
        init: Cascade | None,
    ) -> Path:
        """Train in a folder of the run, go on with what was interrupted, or take what has ended."""
        if self._is_finished(files):
            return files.model
        make_folder(files.folder)
        log.info("%s: training on %d label maps, %d steps", files.name, len(label_maps), config.steps)
        data = TrainingData(
            label_maps,
            init=init,
            scans=[self.labelled],
            validation=self.validation,
            provenance={
                "self_training": files.name,
                "labelled": self.record.labelled,
                "label_maps": len(label_maps),
            }
            | ({"lesions": self.record.lesions} if self.lesions else {}),
            anatomy=labelled_anatomy([self.example]),
            uses=self._uses(len(label_maps) - 1),
            lesions=self.lesions,
        )
        train_cascade(
            data,
            files.model,
            cascade,
            config,
            device=self.device,
            resume=True,
            progress=self.listeners.training,
        )
        self.record.add_finished(files.name)
        self._is_finished(files)
        return files.model

    def _uses(self, pseudo_labels: int) -> list[MapUse]:
        """How the label maps of the example and of so many pseudo-labels are learned from."""
        config = self.options.rounds
        if not pseudo_labels:
            return []
        weight = (1 - config.example_share) / pseudo_labels
        return [MapUse(config.example_share), *[MapUse(weight, config.spared_voxels)] * pseudo_labels]

    def _is_finished(self, files: RoundFiles) -> bool:
        """Whether the training of a round has ended; then its checkpoint is removed."""
        finished = self.record.is_finished(files.name)
        if finished:
            RunFiles(files.model).checkpoint.unlink(missing_ok=True)
        return finished

    def _validate(self, number: int, model: Path) -> None:
        """Put the validation Dice of a round on record, if there are scans to validate on."""
        if self.validation and str(number) not in self.record.validation_dice:
            dice = validate(load_model(model, self.device)[0], self.validation)
            log.info("round %d: validation Dice %.4f", number, dice)
            self.record.add_validation(number, dice)

    def _write_final(self, model: Path, quality_file: Path) -> Path:
        """Copy a model to the top of the folder, with the quality network of the run if it has none."""
        out = self.folder / "model.safetensors"
        _copy(model, out)
        if not _has_quality(out):
            network, header = load_model(quality_file, kind=Autoencoder)
            add_quality(out, QualityPart(network, header["provenance"]), half=True)
        return out

    def _files(self, number: int) -> RoundFiles:
        return RoundFiles(self.folder, number)

    def _label_map_path(self, files: RoundFiles, score: Score) -> Path:
        """Where the label map of a scan lies, by the scan's place in the list."""
        return files.labels / f"{self.inputs.unlabelled.index(score.image):05d}.nii.gz"


def _has_quality(path: Path) -> bool:
    """Whether the model file of a cascade holds a quality network."""
    return AUTOENCODER in read_header(path, CASCADE).parts


def _copy(source: Path, out: Path) -> None:
    """Copy a file, whole or not at all."""
    with atomic_write(out) as (partial,):
        partial.write_bytes(source.read_bytes())


def _check_inputs(inputs: Inputs, options: Options) -> None:
    """Raise InputError where files are missing or do not go together."""
    images, references = len(inputs.unlabelled), len(inputs.references)
    if options.rounds.rank == "truth" and references != images:
        raise InputError(f"{images} images and {references} references to rank by")
    volume.check_named_once(inputs.unlabelled)
    if not any(image.is_file() for image in inputs.unlabelled):
        raise InputError(f"{inputs.unlabelled[0]}: no such file, nor any other of the unlabelled images")
    pairs = [(inputs.image, inputs.mask), *inputs.validation, *inputs.lesions]
    check_exist([path for pair in pairs for path in pair])


def _check_models(inputs: Inputs) -> None:
    """Raise ModelError where a model that was given cannot be used."""
    if inputs.model is not None and load_model(inputs.model)[0].config.classes:
        raise InputError(
            f"{inputs.model}: tells structures apart, and rounds learn from masks of the whole brain; begin the "
            "training of a first model with its weights instead"
        )
    if inputs.init is not None:
        load_model(inputs.init)
    if inputs.quality is not None:
        load_model(inputs.quality, kind=Autoencoder)
