"""Scans of the experiment of self-training: reduced to one small file, and dealt out to folds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scans import Scan as ScanFile
from scans import find_scans

from singlestrip.io.images import volume
from singlestrip.space.resample import block_mean
from singlestrip.space.scan import Scan
from singlestrip.synthesis.labelling import LabelledScan

# Whole blocks of voxels of about this size become one: somewhat finer than what the networks see.
REDUCED_MM = {"adults": 3.0, "clinical": 3.0, "fetal": 1.0, "fetal_unlabelled": 1.0}
BRIGHTEST = 99.9  # percentile that becomes 255


@dataclass(frozen=True, eq=False)
class ExperimentScan:
    """A reduced scan, its brain mask if it has one, and what it is, as in `scans.Scan`."""

    dataset: str
    contrast: str
    person: str
    name: str
    scan: Scan
    mask: np.ndarray | None

    @property
    def subset(self) -> str:
        """Dataset and contrast."""
        return f"{self.dataset} {self.contrast}"

    @property
    def labelled(self) -> LabelledScan:
        """The scan with its mask, which it must have."""
        assert self.mask is not None, f"{self.name} has no mask"
        return LabelledScan(self.scan, self.mask)


@dataclass(frozen=True, eq=False)
class Fold:
    """The labelled example, scans for self-training and scans to score. No person is in two of them, but for the
    fetus, of which all stacks are."""

    number: int
    example: ExperimentScan
    auxiliary: tuple[ExperimentScan, ...]
    scored: tuple[ExperimentScan, ...]


def adult_fold(number: int, scans: Sequence[ExperimentScan]) -> Fold:
    """The fold whose example is the T1w of one adult. The other people are dealt out in turn to both halves."""
    used = [scan for scan in scans if scan.dataset in ("adults", "clinical")]
    example = [scan for scan in used if scan.subset == "adults T1w"][number]
    halves: list[list[ExperimentScan]] = [[], []]
    for dataset in ("adults", "clinical"):
        people = dict.fromkeys(s.person for s in used if s.dataset == dataset and s.person != example.person)
        for index, person in enumerate(people):
            halves[(index + number) % 2] += [s for s in used if s.person == person and s.dataset == dataset]
    return Fold(number, example, *(tuple(half) for half in halves))


def fetal_fold(number: int, scans: Sequence[ExperimentScan]) -> Fold:
    """One of two folds whose example is the stack of a fetus that the model `fetus` has learned from.

    One of its other stacks and those of other fetuses are unlabelled; the last is scored.
    """
    example, *stacks = (scan for scan in scans if scan.dataset == "fetal")
    others = tuple(scan for scan in scans if scan.dataset == "fetal_unlabelled")
    return Fold(number, example, (stacks[number], *others), (stacks[1 - number],))


def write_inputs(data: Path, out: Path) -> None:
    """Reduce the scans of a data folder to one file."""
    arrays: dict[str, np.ndarray] = {}
    known = []
    files = find_scans(data, ["adults", "clinical", "fetal"])
    for name in sorted((data / "fetal_unlabelled").glob("*_T2w.nii.gz")):
        subject = name.name.split("_")[0]
        files.append(ScanFile("fetal_unlabelled", "T2w", subject, str(name.relative_to(data)), name, Path()))
    for number, file in enumerate(files):
        image = volume.read_single(file.image)
        reduced_mm = REDUCED_MM[file.dataset]
        scan = block_mean(Scan(image.scaled(), image.vox2world), reduced_mm)
        low, high = scan.array.min(), np.percentile(scan.array, BRIGHTEST)
        arrays[f"image_{number}"] = np.rint(((scan.array - low) / (high - low)).clip(0, 1) * 255).astype(np.uint8)
        arrays[f"vox2world_{number}"] = scan.vox2world
        if file.mask.is_file():
            mask = Scan(volume.read(file.mask).stored[..., 0] > 0, image.vox2world)
            arrays[f"mask_{number}"] = block_mean(mask, reduced_mm).array >= 0.5
        known.append([file.dataset, file.contrast, file.person, file.name])
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, known=np.array(json.dumps(known)), **arrays)


def read_inputs(path: Path) -> list[ExperimentScan]:
    """The scans of a file of `write_inputs`."""
    with np.load(path) as file:
        return [
            ExperimentScan(
                *parts,
                scan=Scan(file[f"image_{number}"], file[f"vox2world_{number}"]),
                mask=file.get(f"mask_{number}"),
            )
            for number, parts in enumerate(json.loads(str(file["known"])))
        ]
