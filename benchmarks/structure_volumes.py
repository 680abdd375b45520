"""Volumes of structures in two scans of the same people: do T1w and T2w agree?

    python benchmarks/structure_volumes.py --data DATA --out FOLDER [--model tissues] [--pictures SUBJECT ...]

Segments the T1w and T2w scans of DATA's `adults`, which have no labels of structures: agreement says nothing of
what both get wrong alike. The sides of a structure are added up. Also strips each scan with the model, with and
without the fluid around the brain, and compares these volumes with those of the structures. Writes volumes.csv (a
row per scan and structure), volumes.md (means, bias, spread and correlation over people), agreement.png
(Bland-Altman plots) and a picture of each scan of the subjects named.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scans import find_scans

from singlestrip.io.images import volume
from singlestrip.io.pictures import figures
from singlestrip.space.grid import voxel_volume_ml
from singlestrip.space.scan import Scan
from singlestrip.stripping.segmenter import Segmented, Segmenter
from singlestrip.stripping.stripper import Stripper

COLUMNS = ("subject", "contrast", "structure", "ml")
CONTRASTS = ("T1w", "T2w")
STRIPPED, TIGHT, REFERENCE = "mask", "mask without fluid", "reference mask"
PLOTTED = ("Cerebral-White-Matter", "Cerebral-Cortex", "Lateral-Ventricle", "Thalamus", "Hippocampus", "Putamen")


def volumes_ml(segmented: Segmented) -> dict[str, float]:
    """The soft volume of each structure that is brain, both sides together."""
    total: dict[str, float] = {}
    volumes_mm3 = segmented.volumes_mm3
    for each in segmented.classes:
        if each.brain:
            name = each.name.removeprefix("Left-").removeprefix("Right-")
            total[name] = total.get(name, 0.0) + volumes_mm3[each.number] / 1000
    return total


def tables(rows: Sequence[dict]) -> tuple[str, dict[str, np.ndarray]]:
    """Markdown, and for each structure the volumes [people, 2] of both contrasts in ml."""
    values = {(row["subject"], row["contrast"], row["structure"]): row["ml"] for row in rows}
    people = sorted({row["subject"] for row in rows})
    pairs = {}
    for name in dict.fromkeys(row["structure"] for row in rows):
        both = [[values.get((person, contrast, name), np.nan) for contrast in CONTRASTS] for person in people]
        pairs[name] = np.array([pair for pair in both if np.isfinite(pair).all()])
    lines = [
        "| structure | people | T1w ml | T2w ml | T2w - T1w % | spread of it % | correlation |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, pair in pairs.items():
        first, second = pair.T
        difference = 100 * (second - first) / pair.mean(1).clip(1e-9)
        correlation = np.corrcoef(first, second)[0, 1] if len(pair) > 2 else np.nan
        lines.append(
            f"| {name} | {len(pair)} | {first.mean():.1f} | {second.mean():.1f} | {difference.mean():+.1f} | "
            f"{difference.std(ddof=1) if len(pair) > 1 else np.nan:.1f} | {correlation:.2f} |"
        )
    return "\n".join(lines) + "\n", pairs


def agreement_figure(pairs: dict[str, np.ndarray], path: Path) -> None:
    """Bland-Altman plots: the difference of both scans of a person over their mean, with limits of agreement."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    shown = [name for name in PLOTTED if name in pairs]
    for axis, name in zip(figure.subplots(2, 3).flat, shown, strict=False):
        pair = pairs[name]
        mean, difference = pair.mean(1), pair[:, 1] - pair[:, 0]
        middle, spread = difference.mean(), 1.96 * difference.std(ddof=1)
        axis.scatter(mean, difference, s=18)
        axis.axhline(middle, color="black", linewidth=1)
        for level in (middle - spread, middle + spread):
            axis.axhline(level, color="grey", linewidth=1, linestyle="--")
        axis.set(title=name, xlabel="mean of both, ml", ylabel="T2w - T1w, ml")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="tissues")
    parser.add_argument("--pictures", nargs="+", default=[], metavar="SUBJECT")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    segmenter = Segmenter.load(args.model)
    strippers = {STRIPPED: Stripper.load(args.model), TIGHT: Stripper.load(args.model, fluid=False)}
    rows: list[dict] = []
    for listed in find_scans(args.data, ["adults"]):
        file = volume.read(listed.image)
        scan = Scan(file.scaled().astype(np.float32), file.vox2world)
        ml = voxel_volume_ml(scan.vox2world)
        segmented = segmenter.segment(scan)
        masks = {name: stripper.strip(scan).mask for name, stripper in strippers.items()}
        masks[REFERENCE] = volume.read(listed.mask).stored[..., 0] > 0
        found = volumes_ml(segmented) | {name: ml * np.count_nonzero(mask) for name, mask in masks.items()}
        told = {"subject": listed.subject, "contrast": listed.contrast}
        rows += [told | {"structure": name, "ml": value} for name, value in found.items()]
        if listed.subject in args.pictures:
            picture = args.out / f"{listed.subject}_{listed.contrast}.png"
            figures.structure_figure(scan, segmented.found.channels, segmented.classes, picture)
            tight = args.out / f"{listed.subject}_{listed.contrast}_tight.png"
            figures.mask_figure(scan, masks[TIGHT], tight)
        print(f"{listed.image.name}: done", flush=True)
    with (args.out / "volumes.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS)
        writer.writeheader()
        writer.writerows(row | {"ml": f"{row['ml']:.3f}"} for row in rows)
    text, pairs = tables(rows)
    (args.out / "volumes.md").write_text(f"Model `{args.model}`.\n\n{text}")
    agreement_figure(pairs, args.out / "agreement.png")
    print(text)


if __name__ == "__main__":
    main()
