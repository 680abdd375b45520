"""Score a model of structures on images drawn from whole-head label maps: Dice of each structure.

    python benchmarks/segment.py --data DATA --out FOLDER [--model tissues] [--classes models/tissues.tsv]
        [--heads 02 03 ...] [--contrasts T1w T2w FLAIR random] [--slices 1 3 5]

DATA/label_maps holds whole heads of 1 mm as head-NN_dseg.nii.gz, with FreeSurfer's numbers for the brain and the
500-series for the rest. The model must have learned from none of those that are scored. The intensities of T1w,
T2w and FLAIR follow from the tissues' relaxation times and BrainWeb's sequences; those of `random` are drawn for
each head. Images have texture, a bias field, noise and partial volume, and do not come from the synthesis that
networks learn from. Thick slices are means of 1 mm slices; their true label is the one with the largest share of
the voxel. Structures outside the brain count in the whole image, beyond the network's window too.

Writes segment.csv (a row per image and structure) and segment.md (means), and prints the latter.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from singlestrip import SingleStripError
from singlestrip.configuration import TargetClass
from singlestrip.io.images import volume
from singlestrip.io.text.class_table import read_class_table
from singlestrip.space.grid import Grid
from singlestrip.space.metrics import dice
from singlestrip.space.scan import Scan
from singlestrip.stripping.segmenter import Segmenter

COLUMNS = (
    "head",
    "contrast",
    "slice_mm",
    "number",
    "structure",
    "dice",
    "volume_mm3",
    "volume_error_percent",
    "seconds",
)
HEADS = [f"{number:02d}" for number in range(2, 15)]  # the first is what `tissues` learned from
TEXTURE, NOISE, BLUR_MM = 0.03, 0.02, 0.5  # standard deviations; the first two as shares of the brightest tissue
BIAS, BIAS_MM = (
    0.15,
    60.0,
)  # standard deviation of the logarithm of the bias field, and of the Gaussian that smooths it


@dataclass(frozen=True)
class Tissue:
    """T1, T2 and T2* in ms and relative proton density at 1.5 T."""

    t1: float
    t2: float
    t2_star: float
    density: float


# BrainWeb: Kwan, Evans & Pike, IEEE TMI 18:1085 (1999); Collins et al., IEEE TMI 17:463 (1998).
FLUID = Tissue(2569, 329, 58, 1.0)
GREY = Tissue(833, 83, 69, 0.86)
WHITE = Tissue(500, 70, 61, 0.77)
FAT = Tissue(350, 70, 58, 1.0)
MUSCLE = Tissue(900, 47, 30, 1.0)
NONE = Tissue(1, 1, 1, 0.0)  # air and compact bone give no signal
# Deep nuclei hold myelin. Their T1 lies between grey and white matter (Wansapura et al., J Magn Reson Imaging
# 9:531, 1999; Gelman et al., Magn Reson Med 45:71, 2001): about so large is the share of white.
WHITE_SHARE = {10: 0.45, 13: 0.75, 12: 0.2, 11: 0.1, 28: 0.6, 16: 0.7, 17: 0.05, 18: 0.05, 26: 0.1, 8: 0.0, 3: 0.0}
LEFT_OF = {41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18, 57: 25}
LEFT_OF |= {58: 26, 60: 28, 62: 30, 163: 136, 164: 137}
FLUIDS, WHITES = (4, 5, 14, 15, 24, 72, 506), (2, 7, 85, 508, 512, 530)
# Of the head: arteries and veins flow and give no signal; marrow is fat, the skin holds much of it.
HEAD = {0: NONE, 515: NONE, 502: NONE, 514: NONE, 30: NONE, 516: FAT, 511: FAT, 507: MUSCLE, 509: GREY}
HEAD |= {25: GREY, 136: GREY, 137: GREY}


def flash(tissue: Tissue, tr: float = 18, te: float = 10, degrees: float = 30) -> float:
    """Signal of a spoiled gradient echo: BrainWeb's T1w."""
    recovered, angle = math.exp(-tr / tissue.t1), math.radians(degrees)
    steady = math.sin(angle) * (1 - recovered) / (1 - math.cos(angle) * recovered)
    return tissue.density * steady * math.exp(-te / tissue.t2_star)


def spin_echo(tissue: Tissue, tr: float = 3300, te: float = 120) -> float:
    """Signal of a late spin echo: BrainWeb's T2w."""
    return tissue.density * (1 - math.exp(-tr / tissue.t1)) * math.exp(-te / tissue.t2)


def flair(tissue: Tissue, tr: float = 9000, te: float = 120, ti: float = 1700) -> float:
    """Signal of an inversion recovery that nulls fluid, without its sign."""
    recovered = 1 - 2 * math.exp(-ti / tissue.t1) + math.exp(-tr / tissue.t1)
    return tissue.density * abs(recovered) * math.exp(-te / tissue.t2)


SEQUENCES: dict[str, Callable[[Tissue], float]] = {"T1w": flash, "T2w": spin_echo, "FLAIR": flair}


def signal_of(label: int, signal: Callable[[Tissue], float]) -> float:
    """The signal of a label's tissue."""
    label = LEFT_OF.get(label, label)
    if label in FLUIDS or label in WHITES:
        return signal(FLUID if label in FLUIDS else WHITE)
    if label in WHITE_SHARE:
        share = WHITE_SHARE[label]
        return share * signal(WHITE) + (1 - share) * signal(GREY)
    return signal(HEAD[label])


def intensities(labels: Sequence[int], contrast: str, rng: np.random.Generator) -> np.ndarray:
    """The mean of each label [N], the brightest near 1; both sides of a structure are alike."""
    if contrast in SEQUENCES:
        values = np.array([signal_of(label, SEQUENCES[contrast]) for label in labels])
        return values / values.max()
    drawn = {label: rng.random() for label in sorted({LEFT_OF.get(label, label) for label in labels})}
    drawn[0] *= 0.1  # air is dark
    return np.array([drawn[LEFT_OF.get(label, label)] for label in labels])


def draw_image(values: np.ndarray, contrast: str, rng: np.random.Generator) -> np.ndarray:
    """An image float32 of a label map [X, Y, Z] of 1 mm."""
    labels, where = np.unique(values, return_inverse=True)
    image = intensities(labels.tolist(), contrast, rng)[where.reshape(values.shape)].astype(np.float32)
    tissue = image > 0.02
    image += TEXTURE * tissue * rng.standard_normal(image.shape, dtype=np.float32)
    image = ndimage.gaussian_filter(image, BLUR_MM)
    coarse = ndimage.gaussian_filter(rng.standard_normal([n // 8 for n in image.shape]), BIAS_MM / 8)
    field = ndimage.zoom(coarse * (BIAS / coarse.std()), np.array(image.shape) / coarse.shape, order=1)
    image *= np.exp(field, dtype=np.float32)
    noise = NOISE * rng.standard_normal((2, *image.shape), dtype=np.float32)
    return np.hypot(image + noise[0], noise[1])  # Rician


def thick_slices(scan: Scan, mm: int, mean: bool) -> Scan:
    """A scan of 1 mm in axial slices of whole millimetres: the mean of a slice, or its most frequent value."""
    axis = scan.grid.axial_axis
    array = np.moveaxis(scan.array, axis, 0)
    slices = array[: len(array) // mm * mm].reshape(-1, mm, *array.shape[1:])
    thick = slices.mean(1) if mean else _most_frequent(slices)
    scale = np.eye(4)
    scale[axis, axis], scale[axis, 3] = mm, (mm - 1) / 2
    return Scan(np.ascontiguousarray(np.moveaxis(thick, 0, axis)), scan.vox2world @ scale)


def _most_frequent(slices: np.ndarray) -> np.ndarray:
    """The most frequent value along the second axis of [N, mm, X, Y]."""
    counts = (slices[:, :, None] == slices[:, None]).sum(2)
    return np.take_along_axis(slices, counts.argmax(1)[:, None], 1)[:, 0]


def score(found: np.ndarray, truth: np.ndarray, classes: Sequence[TargetClass], grid: Grid) -> list[dict]:
    """A row for each structure that the truth has."""
    voxel_mm3, rows = float(np.prod(grid.voxel_sizes_mm)), []
    for each in classes:
        true, predicted = truth == each.number, found == each.number
        if true.any():
            true_mm3 = voxel_mm3 * np.count_nonzero(true)
            error = 100 * (voxel_mm3 * np.count_nonzero(predicted) / true_mm3 - 1)
            row = {"number": each.number, "structure": each.name, "dice": dice(predicted, true)}
            rows.append(row | {"volume_mm3": true_mm3, "volume_error_percent": error})
    return rows


def summary(rows: Sequence[dict], brain: set[int]) -> str:
    """Markdown: the mean Dice of brain structures for each contrast and thickness, then that of each structure."""
    kinds = list(dict.fromkeys((row["contrast"], row["slice_mm"]) for row in rows))
    lines = [
        "| contrast | slices mm | heads | brain structures | all structures | worst head |",
        "|---|---|---|---|---|---|",
    ]
    for contrast, mm in kinds:
        chosen = [row for row in rows if (row["contrast"], row["slice_mm"]) == (contrast, mm)]
        heads: dict[str, list[float]] = {}
        for row in chosen:
            if row["number"] in brain:
                heads.setdefault(row["head"], []).append(row["dice"])
        means = [np.mean(values) for values in heads.values()]
        everything = np.mean([row["dice"] for row in chosen])
        lines.append(
            f"| {contrast} | {mm} | {len(heads)} | {np.mean(means):.3f} | {everything:.3f} | {min(means):.3f} |"
        )
    header = " | ".join(f"{contrast} {mm} mm" for contrast, mm in kinds)
    lines += ["", f"| structure | {header} |", "|---" * (1 + len(kinds)) + "|"]
    for name in dict.fromkeys(row["structure"] for row in rows):
        cells = []
        for kind in kinds:
            chosen = [row for row in rows if (row["structure"], row["contrast"], row["slice_mm"]) == (name, *kind)]
            cells.append(f"{np.mean([row['dice'] for row in chosen]):.3f}" if chosen else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="tissues")
    parser.add_argument("--classes", type=Path, default=Path(__file__).parents[1] / "models/tissues.tsv")
    parser.add_argument("--heads", nargs="+", default=HEADS)
    parser.add_argument("--contrasts", nargs="+", default=[*SEQUENCES, "random"])
    parser.add_argument("--slices", nargs="+", type=int, default=[1, 3, 5])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    segmenter, table = Segmenter.load(args.model), read_class_table(args.classes)
    rows: list[dict] = []
    for head in args.heads:
        file = volume.read_single(args.data / f"label_maps/head-{head}_dseg.nii.gz")
        values = file.frame(0)
        present = np.unique(values)
        target_of = table.targets_of(present.tolist())
        targets = np.array([target_of[label] for label in present.tolist()])[np.searchsorted(present, values)]
        for contrast in args.contrasts:
            rng = np.random.default_rng([int(head), sum(map(ord, contrast))])
            image = Scan(draw_image(values, contrast, rng), file.vox2world)
            for mm in args.slices:
                shown, truth = (
                    thick_slices(image, mm, True),
                    thick_slices(Scan(targets, file.vox2world), mm, False),
                )
                start = time.monotonic()
                try:
                    found = segmenter.segment(shown).labels
                except SingleStripError:  # no brain is found
                    found = np.zeros_like(truth.array)
                seconds = time.monotonic() - start
                told = {"head": head, "contrast": contrast, "slice_mm": mm, "seconds": seconds}
                new = [told | row for row in score(found, truth.array, segmenter.classes, truth.grid)]
                rows += new
                mean = np.mean([row["dice"] for row in new])
                print(f"head-{head} {contrast} {mm} mm: mean Dice {mean:.3f}, {seconds:.1f} s", flush=True)
    with (args.out / "segment.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS)
        writer.writeheader()
        writer.writerows({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    text = summary(rows, {each.number for each in segmenter.classes if each.brain})
    (args.out / "segment.md").write_text(f"Model `{args.model}`.\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
