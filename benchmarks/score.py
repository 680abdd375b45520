"""Score a model on every scan that has a mask: Dice, HD95 and volume error, and pictures of the worst.

    python benchmarks/score.py --data DATA [--model MODEL] [--datasets adults clinical] --out FOLDER

DATA holds scans.tsv with columns dataset, subject, contrast, image, mask (paths relative to DATA).
Writes scores.csv (a row per scan), scores.md (means and worst per dataset and contrast) and worst.png.
"""

from __future__ import annotations

import argparse
import csv
import platform
import time
from pathlib import Path

import numpy as np
from scans import Scan as ScanFiles
from scans import find_scans

from singlestrip import SingleStripError, Stripper
from singlestrip.io.images import volume
from singlestrip.io.pictures import figures
from singlestrip.space.metrics import dice, hausdorff95, volume_ml
from singlestrip.space.scan import Scan

COLUMNS = ("dataset", "subject", "contrast", "image", "dice", "hd95_mm", "volume_error_percent", "seconds")
WORST = 5


def score_scan(stripper: Stripper, scan: ScanFiles) -> dict:
    """One row of the table; a scan in which no brain is found scores 0."""
    image = volume.read(scan.image)
    truth = volume.read(scan.mask).stored[..., 0] > 0
    start = time.monotonic()
    try:
        mask = stripper.strip(image.scan()).mask
    except SingleStripError:
        mask = np.zeros_like(truth)
    seconds = time.monotonic() - start
    true_ml = volume_ml(truth, image.vox2world)
    return {
        "dataset": scan.dataset,
        "subject": scan.subject,
        "contrast": scan.contrast,
        "image": scan.name,
        "dice": dice(mask, truth),
        "hd95_mm": hausdorff95(mask, truth, image.vox2world),
        "volume_error_percent": 100 * (volume_ml(mask, image.vox2world) - true_ml) / true_ml,
        "seconds": seconds,
        "scan": scan,
        "mask": mask,
    }


def summary(scores: list[dict], title: str) -> str:
    """A Markdown table: a line per dataset and contrast, and per dataset."""
    lines = [
        title,
        "",
        "| dataset | contrast | scans | Dice mean | Dice worst | HD95 mean mm | HD95 worst mm | volume error % |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    groups: dict[tuple[str, str], list[dict]] = {}
    for score in scores:
        groups.setdefault((score["dataset"], score["contrast"]), []).append(score)
        groups.setdefault((score["dataset"], "all"), []).append(score)
    for (dataset, contrast), members in sorted(groups.items()):
        dices = [m["dice"] for m in members]
        distances = [m["hd95_mm"] for m in members]
        errors = [m["volume_error_percent"] for m in members]
        lines.append(
            f"| {dataset} | {contrast} | {len(members)} | {np.mean(dices):.4f} | {min(dices):.4f} "
            f"| {np.mean(distances):.2f} | {max(distances):.2f} | {np.mean(errors):+.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="default: the shipped weights")
    parser.add_argument("--datasets", nargs="+", help="default: all")
    parser.add_argument("--skip", nargs="+", default=[], help="images left out, such as the labelled example")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    stripper = Stripper.load(args.model)
    scores = []
    for scan in find_scans(args.data, args.datasets, args.skip):
        scores.append(score_scan(stripper, scan))
        print(f"{scan.name}: Dice {scores[-1]['dice']:.4f}, HD95 {scores[-1]['hd95_mm']:.2f} mm", flush=True)
    with (args.out / "scores.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in score.items()} for score in scores
        )
    device = stripper.engine.device
    title = f"Model `{args.model or 'shipped'}`, {platform.machine()}, {device}, {len(scores)} scans."
    (args.out / "scores.md").write_text(summary(scores, title))
    pictures = []
    for score in sorted(scores, key=lambda s: s["dice"])[:WORST]:
        image = volume.read(score["scan"].image)
        truth = volume.read(score["scan"].mask)
        title = f"{score['image']}: Dice {score['dice']:.3f}, HD95 {score['hd95_mm']:.1f} mm"
        shown = Scan(image.scaled(), image.vox2world)
        pictures.append((shown, score["mask"], truth.stored[..., 0] > 0, title))
    figures.comparison_figure(pictures, args.out / "worst.png")
    print((args.out / "scores.md").read_text())


if __name__ == "__main__":
    main()
