"""The record of a run of self-training: run.json, and the table of scores of each round.

run.json             what the run was given, with checksums, versions and the machine; which trainings ended; how
                     the model of each round compares with the one before; the validation Dice of each round
round-N/scores.tsv   every unlabelled scan: its score, whether it was kept, and why not
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from ..errors import EarlierRunError, InputError, OutputError
from ..io.checksum import checksum
from ..io.output import atomic_write, make_folder
from ..io.text import typed
from ..io.text.table import parse_table, table_line, write_table
from ..io.text.textfile import file_bytes
from ..io.versions import recorded_versions
from .decision import Decision
from .plan import Inputs, Options
from .select import Fraction, Score

DECIMALS = 6  # of scores, from the start, so that those read back are the same
DEFAULTS: dict[str, Any] = {"trust_voxels": False, "lesions": []}  # of what the run.json of older versions lacks
SCORE_COLUMNS = ("image", "score", "estimate", "flag", "kept", "note", "sha256", "reasons")
MAX_RECORD_BYTES = 256 * 2**20  # some 200 for each of a million scans


@dataclass(frozen=True)
class RunState:
    """Of run.json, what a resumed run goes by.

    finished: trainings that ended. validation_dice, decisions: by the round's number.
    """

    finished: Annotated[list[str], Meta(max_length=10_000)]
    validation_dice: dict[str, Fraction]
    decisions: dict[str, Decision] = field(default_factory=dict)


class RunRecord:
    """run.json: what a run was given, checked when it is resumed, and how far it has come."""

    def __init__(self, folder: Path, inputs: Inputs, options: Options, resume: bool) -> None:
        """Raises EarlierRunError, OutputError or InputError unless the run can begin, or go on, in the folder."""
        self.path = folder / "run.json"
        _check_folder(folder, self.path, resume)
        given = _describe_run(inputs, options)
        self.values: dict[str, Any] = given | {"finished": [], "validation_dice": {}}
        self.decisions: dict[int, Decision] = {}
        if self.path.exists():
            self.values, self.decisions = _read_record(self.path, options.rounds.rounds, bool(inputs.validation))
            changed = [name for name, value in given.items() if self.values.get(name, DEFAULTS.get(name)) != value]
            if changed:
                raise InputError(
                    f"{folder}: the run began with another {', '.join(changed)}; resume with the same"
                )

    @property
    def labelled(self) -> dict[str, Any]:
        """Names and checksums of the labelled example's files."""
        return self.values["labelled"]

    @property
    def lesions(self) -> list[dict[str, Any]]:
        """Names and checksums of the scans with lesions, and of their lesion masks."""
        return self.values["lesions"]

    @property
    def validation_dice(self) -> dict[str, float]:
        """Validation Dice by the round's number."""
        return self.values["validation_dice"]

    def begin(self) -> None:
        """Make the folder and the file, unless the run is resumed."""
        if self.path.exists():
            return
        make_folder(self.path.parent)
        machine = f"{platform.machine()}, python {platform.python_version()}"
        self.values |= {"versions": recorded_versions("torch", "numpy"), "machine": machine}
        self._write()

    def is_finished(self, training: str) -> bool:
        """Whether a training, by the name of its folder, has ended."""
        return training in self.values["finished"]

    def add_finished(self, training: str) -> None:
        """Put on record that a training has ended."""
        self.values["finished"].append(training)
        self._write()

    def add_validation(self, number: int, dice: float) -> None:
        """Put the validation Dice of a round on record."""
        self.validation_dice[str(number)] = dice
        self._write()

    def add_decision(self, number: int, decision: Decision) -> None:
        """Put on record what became of the model of a round."""
        self.decisions[number] = decision
        self.values["decisions"] = {str(n): asdict(each) for n, each in self.decisions.items()}
        self._write()

    def _write(self) -> None:
        with atomic_write(self.path) as (partial,):
            partial.write_text(json.dumps(self.values, indent=2) + "\n")


def _describe_run(inputs: Inputs, options: Options) -> dict[str, Any]:
    """What a run is given, as JSON has it."""
    given = {
        "configuration": asdict(options),
        "labelled": _describe_pair(inputs.image, inputs.mask),
        "models": {
            "first": _describe_file(inputs.model),
            "quality": _describe_file(inputs.quality),
            "init": _describe_file(inputs.init),
        },
        "validation": [_describe_pair(*pair) for pair in inputs.validation],
        "lesions": [_describe_pair(*pair) for pair in inputs.lesions],
        "unlabelled": [str(path) for path in inputs.unlabelled],
        "references": [str(path) for path in inputs.references],
        "trust_voxels": inputs.grids.trust_voxels,
    }
    return json.loads(json.dumps(given))


def _describe_pair(image: Path, mask: Path) -> dict[str, Any]:
    return {"image": _describe_file(image), "mask": _describe_file(mask)}


def _describe_file(path: Path | None) -> dict[str, str] | None:
    return None if path is None else {"name": path.name, "sha256": checksum(path)}


def _read_record(path: Path, rounds: int, validated: bool) -> tuple[dict[str, Any], dict[int, Decision]]:
    """The values of a run.json, and the decisions by the round's number.

    Raises InputError where it cannot be of a run of so many rounds.
    """
    try:
        values = typed.parse(file_bytes(path, limit=MAX_RECORD_BYTES))
        state = typed.convert(values, RunState)
        numbers = [str(number) for number in range(rounds + 1)]
        if not set(state.finished) <= {f"round-{number}" for number in numbers}:
            raise ValueError("finished: a round that there is not")
        if not state.validation_dice.keys() <= set(numbers if validated else []):
            raise ValueError("validation_dice: a round that there is not")
        if not state.decisions.keys() <= set(numbers[1:]):
            raise ValueError("decisions: a round that there is not")
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); begin in another folder") from error
    return values, {int(number): decision for number, decision in state.decisions.items()}


def _check_folder(folder: Path, record: Path, resume: bool) -> None:
    """Raise OutputError unless a run can begin, or go on, in a folder: before any work is done."""
    try:
        if record.exists():
            if not resume:
                raise EarlierRunError(f"{folder}: holds an earlier run; name another folder, or resume the run")
        elif folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise OutputError(f"{folder}: not empty, and not a run of self-training; name a new folder")
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: {there} is not a folder that can be written to")


# Scores


def score_row(score: Score) -> dict[str, str]:
    """The cells of a score by column of the table."""
    numbers = ("" if n is None else f"{n:.{DECIMALS}f}" for n in (score.ranking_score, score.estimated_dice))
    note = " ".join(score.note.split())
    cells = (str(score.image), *numbers, score.flag, str(int(score.kept)), note, score.sha256, score.reasons)
    return dict(zip(SCORE_COLUMNS, cells, strict=True))


def _parse_score(cells: Sequence[str]) -> Score:
    """The score that the cells of a row tell. Raises ValueError."""
    image, ranking_score, estimated_dice, flag, kept, note, sha256, reasons = cells
    values = {
        "image": Path(image),
        "ranking_score": float(ranking_score) if ranking_score else None,
        "estimated_dice": float(estimated_dice) if estimated_dice else None,
        "flag": flag,
        "kept": {"0": False, "1": True}.get(kept),
        "note": note,
        "sha256": sha256,
        "reasons": reasons,
    }
    return typed.convert(values, Score)


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """Write a table of scores."""
    write_table(path, SCORE_COLUMNS, map(score_row, scores))


def append_score(path: Path, score: Score) -> None:
    """Add a row to the table of a round that goes on."""
    with path.open("a", encoding="utf-8") as file:
        file.write(table_line(score_row(score).values()))


def read_scores(path: Path, unlabelled: Collection[Path], most_kept: int | None) -> list[Score]:
    """The scores of a table. A last line that a kill cut short does not count.

    unlabelled: images that may be there. most_kept: how many may be kept in a finished table, which has all
    images; None for the table of a round that goes on, in which none is kept.
    Raises InputError for any other table.
    """
    try:
        text = file_bytes(path, limit=MAX_RECORD_BYTES).decode(errors="surrogateescape")
        columns, rows = parse_table(text.rpartition("\n")[0])
        if tuple(columns) != SCORE_COLUMNS or any(len(cells) != len(columns) for cells in rows.values()):
            raise ValueError("other columns")
        scores = [_parse_score(cells) for cells in rows.values()]
        fault = _fault_of(scores, set(unlabelled), most_kept)
        if fault:
            raise ValueError(fault)
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); remove it to score the scans again") from error
    return scores


def _fault_of(scores: Sequence[Score], unlabelled: set[Path], most_kept: int | None) -> str:
    """Why scores are not those of a round, or ""; see `read_scores`."""
    images = {score.image for score in scores}
    kept = [score for score in scores if score.kept]
    wanted = [0] if most_kept is None else range(1, most_kept + 1)
    faults = {
        "an image is there twice": len(images) != len(scores),
        "an image that is not among the unlabelled ones": not images <= unlabelled,
        "a scan without a score is kept": any(score.ranking_score is None for score in kept),
        "an image is missing": most_kept is not None and images != unlabelled,
        f"{len(kept)} scans are kept": len(kept) not in wanted,
    }
    return next((fault for fault, is_there in faults.items() if is_there), "")
