"""Self-training: rounds of strip, score, select, fit and fine-tune, on record in one folder.

    run.json                    configuration, seeds, versions, inputs with checksums, validation of each round
    quality.safetensors         the quality network, if none was given, with its metrics and curve beside it
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
import math
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from msgspec import Meta

from .._version import __version__
from ..batch.assess import Assessment, Case, draw, name_cases, worst_first, write_report
from ..configuration import (
    AutoencoderTrainConfig,
    CascadeConfig,
    FlagConfig,
    GMMConfig,
    RoundTrainConfig,
    SelfTrainConfig,
    TrainConfig,
)
from ..errors import InputError, OutputError, describe_error
from ..io import memory, typed, volume
from ..io.checksum import checksum
from ..io.escaping import from_cell, to_cell
from ..io.masks import read_mask_on
from ..io.output import atomic_write, make_folder
from ..io.textfile import file_bytes
from ..networks.autoencoder import Autoencoder
from ..networks.cascade import Cascade
from ..networks.checkpoint import load_model
from ..quality.scores import MaskQuality, QualityModel, agreement, augmented_masks
from ..quality.training import QualityProgress, QualityRecipe, train_quality
from ..space.metrics import dice
from ..stripping.stripper import Stripper
from ..synthesis.gmm import NativeMap, fit_label_map
from ..synthesis.labelling import (
    check_exist,
    labelled_example,
    labelled_scan,
    read_label_map,
    record_path,
    write_record,
)
from ..training.cascade import TrainingData, train_cascade, validate
from ..training.fitting import fitting_cascade
from ..training.run_files import RunFiles
from ..training.trainer import Progress

DECIMALS = 6  # of scores, from the start, so that those read back are the same
SCORE_COLUMNS = ("image", "score", "estimate", "flag", "kept", "note", "sha256")


PATHS = "surrogateescape"  # how text holds the bytes of paths that are not UTF-8
Share = Annotated[float, Meta(ge=0, le=1)]
MAX_RECORD_BYTES = 256 * 2**20  # some 200 for each of a million scans


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
    later: TrainConfig = RoundTrainConfig()
    quality: AutoencoderTrainConfig = AutoencoderTrainConfig()
    gmm: GMMConfig = GMMConfig()


@dataclass(frozen=True)
class Score:
    """What a round found of one unlabelled scan: its score by the rank chosen, None where it could not be
    stripped, and estimated Dice, the same when ranked by that."""

    image: Path
    score: Share | None
    estimate: Share | None = None
    flag: Literal["", "pass", "look", "fail"] = ""
    kept: bool = False
    note: str = ""
    sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""

    def row(self) -> dict[str, str]:
        numbers = ("" if n is None else f"{n:.{DECIMALS}f}" for n in (self.score, self.estimate))
        note = " ".join(self.note.split())
        texts = (to_cell(str(self.image)), *numbers, self.flag, str(int(self.kept)), to_cell(note), self.sha256)
        return dict(zip(SCORE_COLUMNS, texts, strict=True))

    @staticmethod
    def of(row: dict[str, str]) -> Score:
        """From what `row` gives. Raises ValueError."""
        numbers = {name: float(row[name]) if row[name] else None for name in ("score", "estimate")}
        kept = {"0": False, "1": True}.get(row["kept"])
        texts = {"image": Path(from_cell(row["image"])), "note": from_cell(row["note"])}
        return typed.convert(row | numbers | texts | {"kept": kept}, Score)


def _named(path: Path | None) -> dict[str, str] | None:
    return None if path is None else {"name": path.name, "sha256": checksum(path)}


@dataclass(frozen=True)
class Progressed:
    """Of run.json, what a resumed run goes by: trainings that ended, and the validation Dice of rounds."""

    finished: Annotated[list[str], Meta(max_length=10_000)]
    validation_dice: dict[str, Share]


class _Record:
    """run.json: what the run is, checked when it is resumed, and what each round came to."""

    def __init__(self, folder: Path, inputs: Inputs, options: Options, resume: bool):
        """Raises OutputError or InputError unless the run can begin, or go on, in the folder."""
        self.path = folder / "run.json"
        _check_folder(folder, self.path, resume)
        given = {
            "configuration": asdict(options),
            "labelled": {"image": _named(inputs.image), "mask": _named(inputs.mask)},
            "models": {"first": _named(inputs.model), "quality": _named(inputs.quality)},
            "validation": [{"image": _named(image), "mask": _named(mask)} for image, mask in inputs.validation],
            "unlabelled": [str(path) for path in inputs.unlabelled],
            "references": [str(path) for path in inputs.references],
        }
        given = json.loads(json.dumps(given))
        self.values: dict[str, Any] = given | {"finished": [], "validation_dice": {}}
        if self.path.exists():
            self.values = self._read(options, bool(inputs.validation))
            changed = [name for name, value in given.items() if self.values.get(name) != value]
            if changed:
                raise InputError(
                    f"{folder}: the run began with another {', '.join(changed)}; resume with the same"
                )

    def begin(self) -> None:
        """Make the folder and the file, unless the run is resumed."""
        if self.path.exists():
            return
        make_folder(self.path.parent)
        versions = {"singlestrip": __version__, "torch": torch.__version__, "numpy": np.__version__}
        machine = f"{platform.machine()}, python {platform.python_version()}"
        self.values |= {"versions": versions, "machine": machine}
        self.write()

    def _read(self, options: Options, validated: bool) -> dict[str, Any]:
        """What the file holds. Raises InputError where it cannot be of such a run."""
        try:
            values = typed.parse(file_bytes(self.path, limit=MAX_RECORD_BYTES))
            progressed = typed.convert(values, Progressed)
            rounds = [str(number) for number in range(options.rounds.rounds + 1)]
            if not set(progressed.finished) <= {f"round-{number}" for number in rounds}:
                raise ValueError("finished: a round that there is not")
            if not progressed.validation_dice.keys() <= set(rounds if validated else []):
                raise ValueError("validation_dice: a round that there is not")
        except ValueError as error:
            raise InputError(f"{self.path}: damaged ({error}); begin in another folder") from error
        return values

    def write(self) -> None:
        with atomic_write(self.path) as (partial,):
            partial.write_text(json.dumps(self.values, indent=2) + "\n")


def _check_folder(folder: Path, record: Path, resume: bool) -> None:
    """Raise OutputError unless a run can begin, or go on, in a folder: before any work is done."""
    try:
        if record.exists():
            if not resume:
                raise OutputError(
                    f"{folder}: holds an earlier run; continue with --resume, or name another folder"
                )
        elif folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise OutputError(f"{folder}: not empty, and not a run of self-training; name a new folder")
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: {there} is not a folder that can be written to")


class SelfTraining:
    """One run in one folder. `say` is called with sentences for the user, `progress` while networks train that
    strip, `quality_progress` while the one trains that scores."""

    def __init__(
        self,
        folder: Path,
        inputs: Inputs,
        options: Options,
        device: torch.device,
        resume: bool = False,
        say: Callable[[str], None] = lambda text: None,
        progress: Callable[[Progress], None] = lambda progress: None,
        quality_progress: Callable[[QualityProgress], None] = lambda progress: None,
    ):
        if options.rounds.rank == "truth" and len(inputs.references) != len(inputs.unlabelled):
            raise InputError(f"{len(inputs.unlabelled)} images and {len(inputs.references)} references to rank by")
        self.folder, self.inputs, self.options, self.device = folder, inputs, options, device
        self.say, self.progress, self.quality_progress = say, progress, quality_progress
        volume.check_named_once(inputs.unlabelled)
        self.remarks: set[str] = set()  # on the scans, said once and not in every round
        references = inputs.references or (None,) * len(inputs.unlabelled)
        pairs = zip(inputs.unlabelled, references, strict=True)
        self.cases = name_cases([Case(image, image, reference) for image, reference in pairs])
        if not any(case.image.is_file() for case in self.cases):
            raise InputError(f"{inputs.unlabelled[0]}: no such file, nor any other of the unlabelled images")
        check_exist([path for pair in ((inputs.image, inputs.mask), *inputs.validation) for path in pair])
        self.record = _Record(folder, inputs, options, resume)
        if inputs.model is not None:
            load_model(inputs.model)
        if inputs.quality is not None:
            load_model(inputs.quality, kind=Autoencoder)
        self.validation = [labelled_scan(*pair, say) for pair in inputs.validation]
        self.example, self.scan = labelled_example(inputs.image, inputs.mask, options.gmm, say)
        self.record.begin()

    def run(self) -> Path:
        """All that is not done yet; returns the path of the final model."""
        model = self._first_model()
        self._validate(0, model)
        quality = self._quality_model()
        rounds = self.options.rounds.rounds
        for number in range(1, rounds + 1):
            model = self._round(number, model, quality, last=number == rounds)
            self._validate(number, model)
        return self._finish()

    def _first_model(self) -> Path:
        if self.inputs.model is not None:
            return self.inputs.model
        cascade = fitting_cascade([self.example])
        return self._train("round-0", [self.example], cascade, self.options.first, None)

    def _quality_model(self) -> QualityModel:
        path = self.inputs.quality
        if path is None:
            path = self.folder / "quality.safetensors"
            if not path.is_file():
                self.say("training the quality network on the labelled mask")
                recipe = QualityRecipe(self.options.quality)
                progress = self.quality_progress
                train_quality(self.inputs.mask, path, recipe, self.device, resume=True, progress=progress)
            RunFiles(path).checkpoint.unlink(missing_ok=True)
        return QualityModel.load(path, str(self.device))

    def _train(self, name: str, labels, cascade: CascadeConfig, config: TrainConfig, init: Cascade | None) -> Path:
        """Train in a folder of the run, go on, or take what is finished."""
        out = self.folder / name / "model.safetensors"
        if self._is_finished(name):
            return out
        make_folder(out.parent)
        self.say(f"{name}: training on {len(labels)} label maps, {config.steps} steps")
        provenance = {"self_training": name, "labelled": self.record.values["labelled"], "label_maps": len(labels)}
        data = TrainingData(labels, init, [self.scan], self.validation, provenance)
        train_cascade(data, out, cascade, config, device=self.device, resume=True, progress=self.progress)
        self.record.values["finished"].append(name)
        self.record.write()
        self._is_finished(name)
        return out

    def _is_finished(self, name: str) -> bool:
        """Whether a training has ended; then its checkpoint can go."""
        finished = name in self.record.values["finished"]
        if finished:
            RunFiles(self.folder / name / "model.safetensors").checkpoint.unlink(missing_ok=True)
        return finished

    def _round(self, number: int, model: Path, quality: QualityModel, last: bool) -> Path:
        name = f"round-{number}"
        folder = self.folder / name
        make_folder(folder / "labels")
        if self._is_finished(name):
            return folder / "model.safetensors"
        stripper = Stripper(load_model(model, self.device)[0])
        scores = self._scores(folder, stripper, quality, last)
        maps = [self._pseudo_label(folder, score) for score in scores if score.kept]
        init = None if self.options.rounds.from_scratch else stripper.model
        return self._train(name, [self.example, *maps], stripper.model.config, self.options.later, init)

    def _scores(self, folder: Path, stripper: Stripper, quality: QualityModel, last: bool) -> list[Score]:
        """Every scan's score, the best kept with their label maps written."""
        final = folder / "scores.tsv"
        if final.exists():
            return self._read_scores(final, finished=True)
        partial = folder / "scores.partial.tsv"
        scores = self._read_scores(partial, finished=False) if partial.exists() else []
        _write_scores(partial, scores)  # without a last line that was cut short
        done = {score.image for score in scores}
        for number, case in enumerate(self.cases, start=1):
            if case.image in done:
                continue
            self.say(f"{folder.name}: scoring {number}/{len(self.cases)}")
            scores.append(self._score(case, stripper, quality, last))
            with partial.open("a", newline="", encoding="utf-8", errors=PATHS) as file:
                csv.DictWriter(file, SCORE_COLUMNS, delimiter="\t").writerow(scores[-1].row())
        scores = self._select(folder, scores, stripper)
        if last:
            self._write_page(scores)
        _write_scores(final, scores)
        partial.unlink()
        return scores

    def _read_scores(self, path: Path, finished: bool) -> list[Score]:
        """Rows of a score table of this run; a last line cut short by a kill does not count.

        finished: whether all scans are in it, and the best are kept. Raises InputError for any other table.
        """
        try:
            text = file_bytes(path, limit=MAX_RECORD_BYTES).decode(errors=PATHS)
            rows = list(csv.DictReader(text.rpartition("\n")[0].split("\n"), delimiter="\t"))
            if any(tuple(row) != SCORE_COLUMNS or None in row.values() for row in rows):
                raise ValueError("other columns")
            scores = [Score.of(row) for row in rows]
            images = {score.image for score in scores}
            if len(images) != len(scores):
                raise ValueError("an image is there twice")
            if not images <= set(self.inputs.unlabelled):
                raise ValueError("an image that is not among the unlabelled ones")
            kept = [score for score in scores if score.kept]
            if any(score.score is None for score in kept):
                raise ValueError("a scan without a score is kept")
            if finished and len(images) != len(self.inputs.unlabelled):
                raise ValueError("an image is missing")
            if len(kept) not in (range(1, self.options.rounds.keep + 1) if finished else [0]):
                raise ValueError(f"{len(kept)} scans are kept")
        except (ValueError, csv.Error) as error:
            raise InputError(f"{path}: damaged ({error}); remove it to score the scans again") from error
        return scores

    def _score(self, case: Case, stripper: Stripper, quality: QualityModel, last: bool) -> Score:
        """Strip and score one scan; one that cannot be is listed with the reason."""
        try:
            header = volume.read_header(case.image)
            memory.check(header, sdt=False, window_mm=stripper.config.window_mm)
            scan = volume.read_single(case.image, self._say_once)
            mask = _strip(stripper, scan)
            rebuilt = quality.reconstruct(mask, scan.vox2world)
            found = quality.judge(mask, scan.vox2world, rebuilt)
            value = self._rank(case, scan, mask, found, stripper)
            if last:
                expected = rebuilt.on_grid(mask.shape, scan.vox2world)
                draw(self.folder, case, scan.scaled(), mask, expected, scan.vox2world)
            if not (math.isfinite(value) and math.isfinite(found.estimate)):
                raise InputError(f"{case.image}: its score is no number; is the quality model damaged?")
            numbers = (round(value, DECIMALS), round(found.estimate, DECIMALS))
            return Score(case.image, *numbers, found.flag, sha256=checksum(case.image))
        except OutputError:
            raise
        except Exception as error:  # a fault in one scan must not stop the run
            return Score(case.image, None, note=describe_error(error))

    def _say_once(self, remark: str) -> None:
        if remark not in self.remarks:
            self.remarks.add(remark)
            self.say(remark)

    def _rank(self, case: Case, scan: volume.Volume, mask, found: MaskQuality, stripper: Stripper) -> float:
        if self.options.rounds.rank == "tta":
            masks = augmented_masks(stripper, scan.frame(0), scan.vox2world, scan.slope, scan.intercept)
            return agreement(masks)[0]
        if self.options.rounds.rank == "truth":
            return dice(mask, read_mask_on(case.reference, scan, self.say))
        return found.estimate

    def _select(self, folder: Path, scores: list[Score], stripper: Stripper) -> list[Score]:
        """Best first, with what is kept and why others are not; label maps of those kept are written."""
        wanted, threshold = self.options.rounds.keep, self.options.rounds.threshold
        if threshold is None:
            threshold = FlagConfig().look_from if self.options.rounds.rank == "ae" else 0.0
        ranked = sorted(scores, key=lambda found: (found.score is None, -(found.score or 0), str(found.image)))
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
                except InputError as error:
                    result.append(replace(score, note=describe_error(error)))
                    continue
                kept += 1
                result.append(replace(score, kept=True))
        if not kept:
            found = max((score.score for score in result if score.score is not None), default=None)
            best = "none could be stripped" if found is None else f"the best score is {found:.3f}"
            raise InputError(f"{folder}: no unlabelled scan gives a pseudo-label; {best}, see scores.partial.tsv")
        if kept < wanted:
            self.say(f"{folder.name}: only {kept} of the {wanted} pseudo-labels wanted; going on with those")
        unread = [score for score in result if score.score is None]
        if unread:
            self.say(f"{folder.name}: {len(unread)} scans could not be used; see scores.tsv")
        return result

    def _label_path(self, folder: Path, score: Score) -> Path:
        number = self.inputs.unlabelled.index(score.image)
        return folder / "labels" / f"{number:05d}.nii.gz"

    def _pseudo_label(self, folder: Path, score: Score) -> NativeMap:
        path = self._label_path(folder, score)
        found = read_label_map(path)
        if found.levels is None:
            raise InputError(
                f"{record_path(path)}: the record of a label map is gone; remove scores.tsv beside its folder to "
                "select the scans again"
            )
        return found

    def _write_labels(self, folder: Path, score: Score, stripper: Stripper) -> None:
        path = self._label_path(folder, score)
        if volume.is_complete(path) and record_path(path).exists():
            return
        scan = volume.read_single(score.image)
        mask = _strip(stripper, scan)
        try:
            labels, record = fit_label_map(scan.scaled(), mask, self.options.gmm)
        except InputError as error:
            raise InputError(f"{score.image}: {error}") from error
        write_record(path, record)
        volume.write_like(scan, path, labels[..., None], label="GMM classes")

    def _write_page(self, scores: list[Score]) -> None:
        cases = {case.image: case for case in self.cases}
        shown = []
        for score in scores:
            values = {} if score.estimate is None else {"estimated_dice": score.estimate}
            note = score.note or ("kept as a pseudo-label" if score.kept else "")
            shown.append(Assessment(cases[score.image], score.flag or "fail", values, note=note))
        write_report(self.folder, worst_first(shown), self.folder.resolve().name, "Masks of the last round.")

    def _validate(self, number: int, model: Path) -> None:
        done = self.record.values["validation_dice"]
        if self.validation and str(number) not in done:
            done[str(number)] = validate(load_model(model, self.device)[0], self.validation)
            self.say(f"round {number}: validation Dice {done[str(number)]:.4f}")
            self.record.write()

    def _finish(self) -> Path:
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
        with atomic_write(out) as (partial,):
            partial.write_bytes(model.read_bytes())
        return out


def _strip(stripper: Stripper, scan: volume.Volume) -> np.ndarray:
    try:
        return stripper.strip(scan.frame(0), scan.vox2world, slope=scan.slope, intercept=scan.intercept).mask
    except InputError as error:
        raise InputError(f"{scan.path}: {error}") from error


def _write_scores(path: Path, scores: list[Score]) -> None:
    with atomic_write(path) as (partial,), partial.open("w", newline="", encoding="utf-8", errors=PATHS) as file:
        writer = csv.DictWriter(file, SCORE_COLUMNS, delimiter="\t")
        writer.writeheader()
        writer.writerows(score.row() for score in scores)
