"""Masks of brains with lesions: Dice of the whole brain and within 10 mm of the lesion, before and after pasting.

    python benchmarks/lesions.py --data DATA --out FOLDER [--model MODEL] [--scans NAME ...] [--ml 5 20 60]

Pastes lesions of `pasted_lesions.py` into scans of DATA/scans.tsv: inside the brain, at its border, a cavity open
to the border, and one below a craniotomy. DATA is laid out as for score.py. Writes lesions.csv (a row per scan and
lesion), lesions.md (means by kind and volume) and worst.png (the cases with the least Dice near the lesion).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scans
from pasted_lesions import KINDS, Pasted, paste

from singlestrip import Scan, SingleStripError, Stripper
from singlestrip.io.images import volume
from singlestrip.io.pictures import figures
from singlestrip.space.metrics import dice

SCANS = (
    *("sub-02_T1w", "sub-05_T1w", "sub-08_T1w", "sub-03_T2w", "sub-06_T2w", "sub-09_T2w"),
    *("patient01_study1_FLAIR", "patient04_study1_FLAIR"),
)
COLUMNS = ("image", "kind", "ml", "dice", "dice_before", "near", "near_before")
WORST = 6


@dataclass(frozen=True)
class Case:
    """A pasted lesion and what became of the mask, for pictures. row: by COLUMNS."""

    row: dict
    scan: Scan
    mask: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class Example:
    """A scan with a reference mask. image: float32 [X, Y, Z]; brain: boolean [X, Y, Z]."""

    name: str
    contrast: str
    image: np.ndarray
    brain: np.ndarray
    vox2world: np.ndarray

    @staticmethod
    def read(listed: scans.Scan) -> Example:
        """From the files of a scan."""
        file = volume.read(listed.image)
        brain = volume.read(listed.mask).stored[..., 0] > 0
        image = file.scaled().astype(np.float32)
        return Example(name_of(listed), listed.contrast, image, brain, file.vox2world)

    @property
    def scan(self) -> Scan:
        """The scan as it is."""
        return Scan(self.image, self.vox2world)

    def with_lesions(self, volumes: Sequence[float]) -> Iterator[tuple[dict[str, Any], Scan, Pasted]]:
        """The scan with a lesion of each kind and volume in ml: its row, the scan, and the lesion."""
        for number, kind in enumerate(KINDS):
            for ml in volumes:
                seed = sum(self.name.encode()) * 100 + number * 10 + int(ml)
                pasted = paste(self.image, self.brain, self.vox2world, self.contrast, kind, ml, seed)
                yield {"image": self.name, "kind": kind, "ml": ml}, Scan(pasted.image, self.vox2world), pasted


def name_of(listed: scans.Scan) -> str:
    """The name of a scan's image without its suffix."""
    return listed.image.name.split(".")[0]


def strip(stripper: Stripper, scan: Scan) -> np.ndarray:
    """Brain mask, boolean [X, Y, Z]; empty if no brain is found."""
    try:
        return stripper.strip(scan).mask
    except SingleStripError:
        return np.zeros(scan.shape, dtype=bool)


def cases_of(stripper: Stripper, example: Example, volumes: Sequence[float]) -> list[Case]:
    """All lesions of one scan."""
    truth = example.brain
    before = strip(stripper, example.scan)
    cases = []
    for lesion, scan, pasted in example.with_lesions(volumes):
        mask = strip(stripper, scan)
        near = pasted.near
        row = {
            **lesion,
            "dice": dice(mask, truth),
            "dice_before": dice(before, truth),
            "near": dice(mask & near, truth & near),
            "near_before": dice(before & near, truth & near),
        }
        cases.append(Case(row, scan, mask, truth))
    return cases


def by_kind_and_volume(rows: list[dict]) -> Iterator[tuple[list[str], list[dict]]]:
    """The rows of each kind and volume, and of all of a kind, with the first cells of their line in a table."""
    volumes = sorted({row["ml"] for row in rows})
    for kind in KINDS:
        for name, chosen in [*((f"{ml:g}", [ml]) for ml in volumes), ("all", volumes)]:
            members = [row for row in rows if row["kind"] == kind and row["ml"] in chosen]
            yield [kind, name, str(len(members))], members


def table(rows: list[dict]) -> str:
    """A Markdown line for each kind and volume, and for all of a kind."""
    lines = [
        "| lesion | ml | cases | Dice | without lesion | least | Dice near it | without lesion | least |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cells, members in by_kind_and_volume(rows):
        for after, before in (("dice", "dice_before"), ("near", "near_before")):
            cells += [f"{np.mean([row[key] for row in members]):.4f}" for key in (after, before)]
            cells.append(f"{min(row[after] for row in members):.4f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_rows(path: Path, columns: Sequence[str], rows: list[dict], exact: int) -> None:
    """Write a CSV table. exact: number of columns, the first ones, that are not rounded to 4 digits."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({k: f"{v:.4f}" if k in columns[exact:] else v for k, v in row.items()} for row in rows)


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments of benchmarks with pasted lesions."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scans", nargs="+", default=list(SCANS), help="names of images without suffix")
    parser.add_argument("--ml", nargs="+", type=float, default=[5, 20, 60], help="volumes of lesions")
    return parser


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", help="default: the shipped weights")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    stripper = Stripper.load(args.model)
    listed = {name_of(scan): scan for scan in scans.find_scans(args.data)}
    rows: list[dict] = []
    worst: list[Case] = []
    for name in args.scans:
        cases = cases_of(stripper, Example.read(listed[name]), args.ml)
        rows += [case.row for case in cases]
        worst = sorted([*worst, *cases], key=lambda case: case.row["near"])[:WORST]
        print(f"{name}: done", flush=True)
    write_rows(args.out / "lesions.csv", COLUMNS, rows, exact=3)
    text = table(rows)
    (args.out / "lesions.md").write_text(text)
    pictures = [
        (case.scan, case.mask, case.truth, "{image}, {kind}, {ml:g} ml: {near:.3f} near it".format(**case.row))
        for case in worst
    ]
    figures.comparison_figure(pictures, args.out / "worst.png")
    print(text)


if __name__ == "__main__":
    main()
