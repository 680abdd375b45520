"""Masks of brains with lesions: Dice of the whole brain and within 10 mm of the lesion, before and after pasting.

    python benchmarks/lesions.py --data DATA --out FOLDER [--model MODEL] [--scans NAME ...] [--ml 5 20 60]

Pastes lesions of `pasted_lesions.py` into scans of DATA/scans.tsv: inside the brain, at its border, a cavity open
to the border, and one below a craniotomy. DATA is laid out as for score.py. Writes lesions.csv (a row per scan and
lesion), lesions.md (means by kind and volume) and worst.png (the cases with the least Dice near the lesion).
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pasted_lesions import KINDS, paste
from scans import find_scans

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


def strip(stripper: Stripper, scan: Scan) -> np.ndarray:
    """Brain mask, boolean [X, Y, Z]; empty if no brain is found."""
    try:
        return stripper.strip(scan).mask
    except SingleStripError:
        return np.zeros(scan.shape, dtype=bool)


def cases_of(
    stripper: Stripper, image_path: Path, mask_path: Path, contrast: str, volumes: list[float]
) -> list[Case]:
    """All lesions of one scan."""
    file = volume.read(image_path)
    image, vox2world = file.scaled().astype(np.float32), file.vox2world
    truth = volume.read(mask_path).stored[..., 0] > 0
    before = strip(stripper, Scan(image, vox2world))
    name = image_path.name.split(".")[0]
    cases = []
    for number, kind in enumerate(KINDS):
        for ml in volumes:
            seed = sum(name.encode()) * 100 + number * 10 + int(ml)
            pasted = paste(image, truth, vox2world, contrast, kind, ml, seed)
            scan = Scan(pasted.image, vox2world)
            mask = strip(stripper, scan)
            near = pasted.near
            row = {
                "image": name,
                "kind": kind,
                "ml": ml,
                "dice": dice(mask, truth),
                "dice_before": dice(before, truth),
                "near": dice(mask & near, truth & near),
                "near_before": dice(before & near, truth & near),
            }
            cases.append(Case(row, scan, mask, truth))
    return cases


def table(rows: list[dict]) -> str:
    """A Markdown line for each kind and volume, and for all of a kind."""
    lines = [
        "| lesion | ml | cases | Dice | without lesion | least | Dice near it | without lesion | least |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        volumes = sorted({row["ml"] for row in rows})
        for name, chosen in [*((f"{ml:g}", [ml]) for ml in volumes), ("all", volumes)]:
            members = [row for row in rows if row["kind"] == kind and row["ml"] in chosen]
            cells = [kind, name, str(len(members))]
            for after, before in (("dice", "dice_before"), ("near", "near_before")):
                cells += [f"{np.mean([row[key] for row in members]):.4f}" for key in (after, before)]
                cells.append(f"{min(row[after] for row in members):.4f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="default: the shipped weights")
    parser.add_argument("--scans", nargs="+", default=list(SCANS), help="names of images without suffix")
    parser.add_argument("--ml", nargs="+", type=float, default=[5, 20, 60], help="volumes of lesions")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    stripper = Stripper.load(args.model)
    listed = {scan.image.name.split(".")[0]: scan for scan in find_scans(args.data)}
    rows: list[dict] = []
    worst: list[Case] = []
    for name in args.scans:
        scan = listed[name]
        cases = cases_of(stripper, scan.image, scan.mask, scan.contrast, args.ml)
        rows += [case.row for case in cases]
        worst = sorted([*worst, *cases], key=lambda case: case.row["near"])[:WORST]
        print(f"{name}: done", flush=True)
    with (args.out / "lesions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({k: f"{v:.4f}" if k in COLUMNS[3:] else v for k, v in row.items()} for row in rows)
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
