"""Estimated against true quality of masks: real predictions of uneven quality, true masks, and planted faults.

    python benchmarks/quality.py --data DATA --networks NETWORK ... --models NAME=QUALITY_MODEL ...
        [--judge MODEL] [--tta NETWORK ...] --out FOLDER

DATA holds scans.tsv with columns dataset, subject, contrast, image, mask (paths relative to DATA).
Every network strips every scan; every quality model scores every mask: by its shape (NAME) and, if the model has
an estimator, by the mask alone, by mask and image, by mask, image and the networks of --judge, and for
predictions by mask, image and the networks that made them. --tta: networks for whose predictions test-time
augmentation is computed, ten times the work. Rows accumulate in FOLDER/quality.csv, so that a run can be stopped,
resumed and added to; delete it to begin anew. Writes FOLDER/quality.md and FOLDER/quality.png.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from scans import Scan as ScanFiles
from scans import find_scans
from scipy import ndimage, stats

from singlestrip import SingleStripError, Stripper
from singlestrip.io.images import volume
from singlestrip.quality.augmentation import agreement, augmented_masks
from singlestrip.quality.scores import QualityModel
from singlestrip.space.grid import voxel_sizes
from singlestrip.space.metrics import dice
from singlestrip.space.resample import sample
from singlestrip.space.scan import Scan
from singlestrip.stripping.brain_field import FAR_LOGIT, BrainField
from singlestrip.stripping.stripper import promised_dice

COLUMNS = ("source", "image", "dice", "estimator", "estimate", "seconds")
KEYS = ("source", "image", "estimator")


def planted_faults(mask: np.ndarray, vox2world: np.ndarray) -> dict[str, np.ndarray]:
    """Masks [X, Y, Z] with one fault each, made from a true one; places in RAS mm about its middle."""
    size = voxel_sizes(vox2world)
    distance = ndimage.distance_transform_edt(~mask, sampling=size) - ndimage.distance_transform_edt(
        mask, sampling=size
    )
    where = np.argwhere(mask) @ vox2world[:3, :3].T + vox2world[:3, 3]
    middle, half = (where.max(0) + where.min(0)) / 2, (where.max(0) - where.min(0)) / 2
    index = np.indices(mask.shape).reshape(3, -1)
    right, front, up = (
        (vox2world[:3, :3] @ index + vox2world[:3, 3:] - middle[:, None])
        .reshape(3, *mask.shape)
        .astype(np.float32)
    )

    def ball(x: float, y: float, z: float, radius_mm: float) -> np.ndarray:
        return (right - x) ** 2 + (front - y) ** 2 + (up - z) ** 2 < radius_mm**2

    eyes = ball(-32, half[1] + 2, -0.45 * half[2], 13) | ball(32, half[1] + 2, -0.45 * half[2], 13)
    scalp = (distance > 7) & (distance < 13) & (up > 0)
    steps = np.round(np.linalg.inv(vox2world[:3, :3]) @ [0, 0, 20.0]).astype(int)
    return {
        "missing lobe": mask & (front < 0.45 * half[1]),
        "eyes and scalp": mask | eyes | scalp,
        "shifted 20 mm": ndimage.shift(mask, steps, order=0),
        "dilated 6 mm": distance < 6,
        "eroded 6 mm": distance < -6,
        "hole": mask & ~ball(0, 0, 0.2 * half[2], 28),
        "left only": mask & (right < 0),
        "whole image": np.ones_like(mask),
    }


class Table:
    """Rows of quality.csv; what is there is not done again."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict[str, str]] = []
        if path.is_file():
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))
        else:
            with path.open("w", newline="") as file:
                csv.DictWriter(file, COLUMNS).writeheader()
        self.seen = {tuple(row[key] for key in KEYS) for row in self.rows}

    def lacks(self, *key: str) -> bool:
        return key not in self.seen

    def add(self, source: str, image: str, true: float, estimator: str, estimate: float, seconds: float) -> None:
        values = (source, image, f"{true:.4f}", estimator, f"{estimate:.4f}", f"{seconds:.2f}")
        row = dict(zip(COLUMNS, values, strict=True))
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow(row)
        self.rows.append(row)
        self.seen.add((source, image, estimator))


def timed(work):
    start = time.monotonic()
    return work(), time.monotonic() - start


def score_scan(files: ScanFiles, networks, models, judge: Stripper, tta, table: Table) -> None:
    scan = volume.read(files.image).scan()
    truth = volume.read(files.mask).stored[..., 0] > 0
    name, vox2world = files.name, scan.vox2world
    judged = judge.field(scan)
    for source, stripper in networks.items():
        scores = [*models, "expected Dice"] + ["TTA", "TTA median"] * (source in tta)
        if not any(table.lacks(source, name, score) for score in scores):
            continue
        own = None
        try:
            stripped = stripper.strip(scan)
            mask, own = stripped.mask, stripped.field
        except SingleStripError:
            mask = np.zeros_like(truth)
        true = dice(mask, truth)
        score_mask(table, models, source, name, Scan(mask, vox2world), true, scan, judged, own)
        if own is not None and table.lacks(source, name, "expected Dice"):
            value, seconds = timed(lambda f=own, m=mask: expected_dice(f, scan, m))
            table.add(source, name, true, "expected Dice", value, seconds)
        if source in tta and table.lacks(source, name, "TTA median"):
            masks, seconds = timed(lambda s=stripper: augmented_masks(s, scan))
            score, median = agreement(masks)
            table.add(source, name, true, "TTA", score, seconds)
            table.add(source, name, true, "TTA median", dice(mask, median), seconds)
        print(f"{source} {name}: Dice {true:.3f}", flush=True)
    for fault, mask in {"none": truth, **planted_faults(truth, vox2world)}.items():
        true = dice(mask, truth)
        score_mask(table, models, f"planted: {fault}", name, Scan(mask, vox2world), true, scan, judged)


def score_mask(
    table: Table, models, source: str, name: str, mask: Scan, true: float, image: Scan, judged, own=None
) -> None:
    """Score a mask with all that may be known of it. judged, own: output of the networks that judge, and of those
    that made the mask."""
    for label, model in models.items():
        if not table.lacks(source, name, label):
            continue
        known = {f"{label}: mask": (), f"{label}: mask, image": (image,)}
        known[f"{label}: mask, image, networks"] = (image, judged)
        if own is not None:
            known[f"{label}: mask, image, own networks"] = (image, own)
        for estimator, given in known.items() if model.engine.estimator is not None else ():
            quality, seconds = timed(lambda m=model, g=given: m.assess(mask, None, *g))
            table.add(source, name, true, estimator, quality.estimated_dice, seconds)
        quality, seconds = timed(lambda m=model: m.assess(mask))
        table.add(source, name, true, label, quality.shape_dice, seconds)


def expected_dice(field: BrainField, scan: Scan, mask: np.ndarray) -> float:
    """Dice that the network expects of its mask, were its probabilities right."""
    return promised_dice(sample(field.logit, field.grid.index_of(scan.grid), mask.shape, FAR_LOGIT).numpy(), mask)


def pairs(rows, estimator: str, sources) -> tuple[np.ndarray, np.ndarray]:
    chosen = [row for row in rows if row["estimator"] == estimator and row["source"] in sources]
    return np.array([[float(row[k]) for row in chosen] for k in ("dice", "estimate")]).reshape(2, -1)


def figures(true: np.ndarray, estimate: np.ndarray) -> dict[str, float]:
    """Mean absolute error, correlations, and the share of the worst tenth among the tenth scored worst."""
    tenth = max(1, round(len(true) / 10))
    worst, scored = set(np.argsort(true)[:tenth]), set(np.argsort(estimate)[:tenth])
    return {
        "MAE": float(np.abs(true - estimate).mean()),
        "Pearson": float(stats.pearsonr(true, estimate)[0]),
        "Spearman": float(stats.spearmanr(true, estimate)[0]),
        "caught": len(worst & scored) / tenth,
    }


def with_both(rows, first: str, second: str = "TTA") -> list[dict[str, str]]:
    """The rows, and where both estimators scored a mask their mean as a third."""
    scores = {tuple(row[key] for key in KEYS): row for row in rows}
    joined = []
    for (source, image, estimator), row in scores.items():
        other = scores.get((source, image, second))
        if estimator == first and other is not None:
            mean = (float(row["estimate"]) + float(other["estimate"])) / 2
            joined.append({**row, "estimator": f"{first} and {second}", "estimate": f"{mean:.4f}"})
    return [*rows, *joined]


def summary(rows) -> str:
    estimators = list(dict.fromkeys(row["estimator"] for row in rows))
    sources = list(dict.fromkeys(row["source"] for row in rows))
    real = [s for s in sources if not s.startswith("planted")]
    augmented = {row["source"] for row in rows if row["estimator"] == "TTA"}
    lines = []
    for title, chosen in (("all real predictions", set(real)), ("those with TTA", augmented)):
        lines += [
            f"\nReal predictions, {title}:\n",
            "| estimator | masks | MAE | Pearson | Spearman | worst tenth caught |",
        ]
        lines.append("|---|---|---|---|---|---|")
        for estimator in estimators:
            true, estimate = pairs(rows, estimator, chosen)
            if len(true) < 10:
                continue
            f = figures(true, estimate)
            lines.append(
                f"| {estimator} | {len(true)} | {f['MAE']:.3f} | {f['Pearson']:.3f} | {f['Spearman']:.3f} "
                f"| {f['caught']:.0%} |"
            )
    lines += ["\nMean Dice, true and estimated, of each source:\n"]
    lines.append("| source | masks | true | " + " | ".join(estimators) + " |")
    lines.append("|---" * (3 + len(estimators)) + "|")
    for source in sources:
        found = {estimator: pairs(rows, estimator, {source}) for estimator in estimators}
        cells = [f"{estimate.mean():.3f}" if len(estimate) else "" for _, estimate in found.values()]
        true = max((true for true, _ in found.values()), key=len)
        lines.append(f"| {source} | {len(true)} | {true.mean():.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(rows, path: Path) -> None:
    from matplotlib.figure import Figure

    estimators = list(dict.fromkeys(row["estimator"] for row in rows))
    drawing = Figure(figsize=(3.2 * len(estimators), 3.4), layout="constrained")
    for axis, estimator in zip(drawing.subplots(1, len(estimators), squeeze=False)[0], estimators, strict=True):
        for planted, colour in ((True, "#ff9f0a"), (False, "#1f6fb4")):
            sources = {row["source"] for row in rows if row["source"].startswith("planted") == planted}
            true, estimate = pairs(rows, estimator, sources)
            axis.plot(true, estimate, ".", ms=3, color=colour, label="planted" if planted else "predictions")
        axis.plot([0, 1], [0, 1], color="grey", lw=0.5)
        axis.set(title=estimator, xlabel="true Dice", ylabel="estimate", xlim=(0, 1), ylim=(0, 1.01))
    axis.legend(frameon=False, loc="upper left")
    drawing.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="*", default=[])
    parser.add_argument("--models", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--judge", help="model whose networks judge the masks (default: the shipped one)")
    parser.add_argument("--tta", nargs="*", default=[], help="those of --networks to augment")
    parser.add_argument("--datasets", nargs="+", default=["adults", "clinical"])
    parser.add_argument("--skip", nargs="+", default=[], help="images left out, such as the labelled example")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    table = Table(args.out / "quality.csv")
    networks = {Path(path).stem: Stripper.load(path) for path in args.networks}
    models = dict(entry.split("=", 1) for entry in args.models)
    models = {name: QualityModel.load(path) for name, path in models.items()}
    judge = Stripper.load(args.judge)
    tta = {Path(path).stem for path in args.tta}
    for scan in find_scans(args.data, args.datasets, args.skip):
        score_scan(scan, networks, models, judge, tta, table)
    rows = with_both(table.rows, next(iter(models), ""))
    (args.out / "quality.md").write_text(summary(rows))
    figure(rows, args.out / "quality.png")
    print(summary(rows))


if __name__ == "__main__":
    main()
