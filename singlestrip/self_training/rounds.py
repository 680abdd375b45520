"""The rounds of self-training: strip, score, select, fit and fine-tune, in one folder.

    run.json, scores.tsv, pages   see `record`
    quality.safetensors           the quality network, where none was given
    round-0/model.safetensors     the model of the labelled example alone, where none was given
    round-N/labels/               label maps of the pseudo-labels kept
    round-N/model.safetensors     the model after the round, with its metrics and curve beside it
    model.safetensors             the model of the last round, or of the best by validation

Scoring keeps no masks: scans that are selected are stripped again. The folder grows with the number of scans by a
line and a picture each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..configuration import CascadeConfig, TrainConfig
from ..errors import InputError
from ..io.images import volume
from ..io.images.pairs import check_exist
from ..io.output import atomic_write, make_folder
from ..networks.autoencoder import Autoencoder
from ..networks.cascade import Cascade
from ..networks.checkpoint import load_model
from ..quality.scores import QualityModel
from ..quality.training import QualityProgress, QualityRecipe, train_quality
from ..space.scan import Scan
from ..stripping.stripper import Stripper
from ..synthesis.gmm import NativeMap
from ..synthesis.labelling import labelled_example, labelled_scan
from ..training.cascade import TrainingData, train_cascade, validate
from ..training.fitting import fitting_cascade, labelled_anatomy
from ..training.run_files import RunFiles
from ..training.trainer import Progress
from .plan import Inputs, Options
from .record import RunRecord, append_score, read_scores, write_round_page, write_scores
from .scans import Scorer, fit_pseudo_labels, read_pseudo_labels, unlabelled_scans
from .select import Score, best_round, describe_best, select

__all__ = ["Inputs", "Listeners", "Options", "SelfTraining"]

log = logging.getLogger(__name__)


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

    folder: Path

    @property
    def name(self) -> str:
        """The name of the folder, by which the record knows the training."""
        return self.folder.name

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
        self.record.begin()

    def run(self) -> Path:
        """Do all that is not done yet. Returns the path of the final model."""
        models = [self._first_model()]
        self._validate(0, models[0])
        quality = self._quality_model()
        last = self.options.rounds.rounds
        for number in range(1, last + 1):
            models.append(self._run_round(number, models[-1], quality))
            self._validate(number, models[-1])
        best = best_round(self.record.validation_dice, last)
        if best != last:
            log.info("validation fell after round %d: its model is kept", best)
        return self._write_final(models[best])

    def _first_model(self) -> Path:
        """The model that was given, or one trained on the labelled example alone."""
        if self.inputs.model is not None:
            return self.inputs.model
        return self._train(
            self._files(0), [self.example], fitting_cascade([self.example]), self.options.first, None
        )

    def _quality_model(self) -> QualityModel:
        """The quality model that was given, or one trained on the labelled mask."""
        path = self.inputs.quality
        if path is None:
            path = self.folder / "quality.safetensors"
            if not path.is_file():
                log.info("training the quality network on the labelled mask")
                train_quality(
                    self.inputs.mask,
                    path,
                    QualityRecipe(self.options.quality),
                    self.device,
                    mask=Scan(self.labelled.mask, self.labelled.scan.vox2world),
                    resume=True,
                    progress=self.listeners.quality,
                )
            RunFiles(path).checkpoint.unlink(missing_ok=True)  # of a run that was killed here, too
        return QualityModel.load(path, str(self.device))

    def _run_round(self, number: int, model: Path, quality: QualityModel) -> Path:
        """Score all scans with the model, and train it on with the best. Returns the path of the new model."""
        files = self._files(number)
        make_folder(files.labels)
        if self._is_finished(files):
            return files.model
        networks = load_model(model, self.device)[0]
        stripper = Stripper(networks)
        scores = self._selected_scores(files, stripper, quality)
        kept = [self._label_map_path(files, score) for score in scores if score.kept]
        label_maps = [self.example, *read_pseudo_labels(kept)]
        init = None if self.options.rounds.from_scratch else networks
        return self._train(files, label_maps, stripper.config, self.options.later, init)

    def _selected_scores(self, files: RoundFiles, stripper: Stripper, quality: QualityModel) -> list[Score]:
        """The scores of all scans, best first, with the best kept; their label maps are written."""
        if files.scores.exists():
            return read_scores(files.scores, self.inputs.unlabelled, self.options.rounds.keep)
        page_folder = self.folder if files == self._files(self.options.rounds.rounds) else None
        scorer = Scorer(stripper, quality, self.options.rounds.rank, page_folder, self.inputs.grids)
        scores = self._select(files, self._score_all(files, scorer), stripper)
        if page_folder is not None:
            write_round_page(page_folder, scores, {scan.image: scan.name for scan in self.scans})
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

        Raises InputError if no scan is left.
        """
        config = self.options.rounds
        unusable: dict[Path, str] = {}
        while True:
            selected = select(scores, config, unusable)
            kept = {score.image: self._label_map_path(files, score) for score in selected if score.kept}
            faults = fit_pseudo_labels(kept, stripper, self.options.gmm)
            if not faults:
                break
            unusable |= faults
        if not kept:
            raise InputError(
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
            },
            anatomy=labelled_anatomy([self.example]),
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

    def _write_final(self, model: Path) -> Path:
        """Copy a model to the top of the folder."""
        out = self.folder / "model.safetensors"
        with atomic_write(out) as (partial,):
            partial.write_bytes(model.read_bytes())
        return out

    def _files(self, number: int) -> RoundFiles:
        return RoundFiles(self.folder / f"round-{number}")

    def _label_map_path(self, files: RoundFiles, score: Score) -> Path:
        """Where the label map of a scan lies, by the scan's place in the list."""
        return files.labels / f"{self.inputs.unlabelled.index(score.image):05d}.nii.gz"


def _check_inputs(inputs: Inputs, options: Options) -> None:
    """Raise InputError where files are missing or do not go together."""
    images, references = len(inputs.unlabelled), len(inputs.references)
    if options.rounds.rank == "truth" and references != images:
        raise InputError(f"{images} images and {references} references to rank by")
    volume.check_named_once(inputs.unlabelled)
    if not any(image.is_file() for image in inputs.unlabelled):
        raise InputError(f"{inputs.unlabelled[0]}: no such file, nor any other of the unlabelled images")
    check_exist([path for pair in ((inputs.image, inputs.mask), *inputs.validation) for path in pair])


def _check_models(inputs: Inputs) -> None:
    """Raise ModelError where a model that was given cannot be used."""
    if inputs.model is not None:
        load_model(inputs.model)
    if inputs.quality is not None:
        load_model(inputs.quality, kind=Autoencoder)
