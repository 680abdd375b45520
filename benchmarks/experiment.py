"""The experiment of the paper: one labelled example, with and without self-training, on unseen scans.

    python benchmarks/experiment.py --data DATA --labelled "adults T1w" --others "adults T2w" clinical \\
        --out FOLDER [--folds 0 1] [--arms SL-1 SSL-AE ...] [--voxel-size MM] [--steps N] [--later N]

DATA holds scans.tsv with columns dataset, subject, contrast, image, mask (paths relative to DATA), or
the folders of the SynthStrip data set, <subset>_<contrast>_<id>/{image,mask}.nii.gz. A subset is
named "dataset contrast", or "dataset" for all of its contrasts.

Fold k takes the k-th scan of --labelled as the labelled example. The other subjects are dealt out in
turn: one half gives its images, unlabelled, to self-training (and with its masks to SL-N), the other
is scored. In distribution (ID) is --labelled, out of distribution (OOD) are --others.

Arms: SL-1, from the labelled example; SL-1+, as many more steps of the same, the fair control;
SSL-AE, SSL-TTA and SSL-T, self-training from SL-1 with pseudo-labels ranked by the quality model, by
test-time augmentation and by truth; SSL-T-scratch; SL-N, from all labelled scans of the first half.

FOLDER/results.csv grows by arm and fold, so that the experiment can be run in pieces and resumed.
Writes FOLDER/results.md and FOLDER/results.png.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scans import Scan, find_scans

from singlestrip import SingleStripError, Stripper
from singlestrip.configuration import INSIDE_BASE, CascadeConfig, GMMConfig, SelfTrainConfig, TrainConfig
from singlestrip.io.images import volume
from singlestrip.networks.checkpoint import load_model
from singlestrip.self_training.rounds import Inputs, Options, SelfTraining
from singlestrip.space.metrics import dice, hausdorff95
from singlestrip.synthesis.labelling import labelled_example
from singlestrip.training.cascade import TrainingData, train_cascade
from singlestrip.training.fitting import brain_extent_mm

COLUMNS = ("fold", "arm", "group", "subset", "image", "dice", "hd95_mm")
ARMS = ("SL-1", "SL-1+", "SSL-AE", "SSL-TTA", "SSL-T", "SSL-T-scratch", "SL-N")
RANKS = {"SSL-AE": "ae", "SSL-TTA": "tta", "SSL-T": "truth", "SSL-T-scratch": "truth"}
# Dice / HD95 in mm of the paper (arXiv 2508.10464), ID and OOD.
PAPER = {
    "SL-1": ("0.950 / 5.5", "0.897 / 12.8"),
    "SSL-AE": ("0.950 / 5.5", "0.924 / 7.0"),
    "SSL-TTA": ("0.863", "0.624"),
    "SSL-T": ("0.953 / 4.8", "0.936 / 6.0"),
    "SSL-T-scratch": ("0.943", "0.895"),
}


@dataclass(frozen=True)
class Fold:
    """The labelled example, scans for self-training and scans to score; no subject is in two of them."""

    number: int
    example: Scan
    auxiliary: tuple[Scan, ...]
    scored: tuple[Scan, ...]

    @staticmethod
    def of(number: int, scans: list[Scan], labelled: str, others: list[str]) -> Fold:
        example = [scan for scan in scans if scan.within([labelled])][number]
        used = [s for s in scans if s.within([labelled, *others]) and s.person != example.person]
        halves: list[list[Scan]] = [[], []]
        for dataset in dict.fromkeys(scan.dataset for scan in used):
            subjects = list(dict.fromkeys(scan.person for scan in used if scan.dataset == dataset))
            for index, subject in enumerate(subjects):
                halves[(index + number) % 2] += [s for s in used if s.person == subject and s.dataset == dataset]
        return Fold(number, example, *(tuple(half) for half in halves))


class Experiment:
    def __init__(self, args: argparse.Namespace):
        self.args, self.out = args, args.out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.results = args.out / "results.csv"
        self.rows: list[dict[str, str]] = []
        if self.results.is_file():
            with self.results.open(newline="") as file:
                self.rows = list(csv.DictReader(file))

    def config(self, steps: int, fold: int) -> TrainConfig:
        return TrainConfig(steps=steps, seed=fold, save_every=100)

    def run_fold(self, fold: Fold) -> None:
        done = {row["arm"] for row in self.rows if int(row["fold"]) == fold.number}
        for arm in self.args.arms:
            if arm not in done:
                print(f"fold {fold.number}, {arm}", flush=True)
                self.score(fold, arm, Stripper.load(self.train_arm(fold, arm), str(self.device)))

    def train_arm(self, fold: Fold, arm: str) -> Path:
        folder = self.out / f"fold-{fold.number}"
        folder.mkdir(parents=True, exist_ok=True)
        first = folder / "SL-1.safetensors"
        self.train_supervised(fold, first, [fold.example], self.args.steps, None)
        if arm == "SL-1":
            return first
        if arm == "SL-N":
            path = folder / "SL-N.safetensors"
            return self.train_supervised(fold, path, [fold.example, *fold.auxiliary], self.args.steps, None)
        if arm == "SL-1+":
            steps = self.args.later * self.args.rounds
            return self.train_supervised(fold, folder / "SL-1+.safetensors", [fold.example], steps, first)
        scratch = arm == "SSL-T-scratch"
        rounds = SelfTrainConfig(
            self.args.rounds, self.args.keep, threshold=0.0, rank=RANKS[arm], from_scratch=scratch
        )
        later = self.config(self.args.steps if scratch else self.args.later, fold.number + 1000)
        inputs = Inputs(
            fold.example.image,
            fold.example.mask,
            tuple(scan.image for scan in fold.auxiliary),
            tuple(scan.mask for scan in fold.auxiliary) if rounds.rank == "truth" else (),
            model=first,
            quality=self.quality_model(fold),
        )
        return SelfTraining(folder / arm, inputs, Options(rounds, later=later), self.device, resume=True).run()

    def quality_model(self, fold: Fold) -> Path | None:
        """Trained in the first arm that needs it, from the fold's example, and used by the others."""
        path = self.out / f"fold-{fold.number}" / "quality.safetensors"
        if not path.is_file():
            from singlestrip.cli.main import main

            epochs = ["--epochs", str(self.args.epochs)]
            if main(["qc", "--train", str(path), "-m", str(fold.example.mask), *epochs, "-q"]):
                sys.exit("the quality model could not be trained")
        return path

    def train_supervised(self, fold: Fold, out: Path, scans: list[Scan], steps: int, init: Path | None) -> Path:
        checkpoint = out.with_suffix(".checkpoint")
        if out.is_file() and not checkpoint.is_file():
            return out
        examples = [labelled_example(scan.image, scan.mask, GMMConfig()) for scan in scans]
        maps = [labels for labels, _ in examples]
        network = None if init is None else load_model(init, self.device)[0]
        cascade = CascadeConfig.fitting(brain_extent_mm(maps[:1]), self.args.voxel_size)
        config = self.config(steps, fold.number + 1000 * (init is not None))
        # The labelled scans draw the border, as in the arms of self-training.
        data = TrainingData(maps, network, [labelled for _, labelled in examples])
        cascade = cascade if network is None else network.config
        train_cascade(data, out, cascade, replace(config, save_every=100), device=self.device, resume=True)
        checkpoint.unlink()
        return out

    def score(self, fold: Fold, arm: str, stripper: Stripper) -> None:
        found = []
        for scan in fold.scored:
            image = volume.read(scan.image)
            truth = volume.read(scan.mask).stored[..., 0] > 0
            scaling = {"slope": image.slope, "intercept": image.intercept}
            try:
                mask = stripper.strip(image.frame(0), image.vox2world, **scaling).mask
            except SingleStripError:
                mask = np.zeros_like(truth)
            group = "ID" if scan.within([self.args.labelled]) else "OOD"
            values = (dice(mask, truth), hausdorff95(mask, truth, image.vox2world))
            texts = (str(fold.number), arm, group, scan.subset, scan.image.name, *(f"{v:.4f}" for v in values))
            found.append(dict(zip(COLUMNS, texts, strict=True)))
        self.rows += found
        new = not self.results.is_file()
        with self.results.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerows(found)

    def summary(self) -> str:
        arms = [arm for arm in ARMS if any(row["arm"] == arm for row in self.rows)]
        groups = sorted({row["group"] for row in self.rows}) + sorted({row["subset"] for row in self.rows})
        folds = sorted({int(row["fold"]) for row in self.rows})
        lines = [f"Folds {', '.join(map(str, folds))}; Dice / HD95 mm, means over scans.", ""]
        lines.append("| arm | " + " | ".join(groups) + " | paper ID | paper OOD |")
        lines.append("|---" * (len(groups) + 3) + "|")
        for arm in arms:
            cells = []
            for group in groups:
                members = [r for r in self.rows if r["arm"] == arm and group in (r["group"], r["subset"])]
                means = [np.mean([float(r[name]) for r in members]) for name in ("dice", "hd95_mm")]
                cells.append(f"{means[0]:.4f} / {means[1]:.1f}" if members else "")
            lines.append(f"| {arm} | " + " | ".join([*cells, *PAPER.get(arm, ("", ""))]) + " |")
        return "\n".join([*lines, "", *self.quality_table()]) + "\n"

    def scores(self, fold: int, arm: str) -> dict[str, dict[str, str]]:
        """What the first round of an arm found of each image, {} if it did not run."""
        path = self.out / f"fold-{fold}" / arm / "round-1/scores.tsv"
        if not path.is_file():
            return {}
        with path.open(newline="") as file:
            return {row["image"]: row for row in csv.DictReader(file, delimiter="\t") if row["score"]}

    def quality_table(self) -> list[str]:
        """Scores of the masks that SL-1 makes of the unlabelled scans against their true Dice, all folds together;
        and the volume error of the pseudo-labels that each arm took."""
        lines = ["Masks of SL-1 on the unlabelled scans: score against true Dice; pseudo-labels taken.", ""]
        lines.append(
            "| score | masks | mean absolute error | Pearson | taken | Dice of taken | their volume errors % |"
        )
        lines.append("|---" * 7 + "|")
        truths = {scan.image: scan.mask for scan in find_scans(self.args.data)}
        for arm, rank in RANKS.items():
            pairs, taken, errors = [], [], []
            for fold in sorted({int(row["fold"]) for row in self.rows}):
                true, found = self.scores(fold, "SSL-T"), self.scores(fold, arm)
                pairs += [(float(found[i]["score"]), float(true[i]["score"])) for i in found if i in true]
                taken += [float(true[i]["score"]) for i in found if found[i]["kept"] == "1" and i in true]
                errors += self.volume_errors(fold, arm, truths)
            if pairs:
                estimate, truth = np.array(pairs).T
                numbers = f"{np.abs(estimate - truth).mean():.3f} | {np.corrcoef(estimate, truth)[0, 1]:.2f}"
                ends = f"{min(errors):+.0f} to {max(errors):+.0f}" if errors else ""
                lines.append(
                    f"| {rank} ({arm}) | {len(pairs)} | {numbers} | {len(taken)} | {np.mean(taken):.3f} | {ends} |"
                )
        return lines

    def volume_errors(self, fold: int, arm: str, truths: dict[Path, Path]) -> list[float]:
        """Per cent by which each pseudo-label that an arm took is too large."""
        folder = self.out / f"fold-{fold}" / arm
        images = json.loads((folder / "run.json").read_text())["unlabelled"] if folder.is_dir() else []
        errors = []
        for path in sorted(folder.glob("round-1/labels/[!.]*.nii.gz")):
            truth = volume.read(truths[Path(images[int(path.name.split(".")[0])])]).stored > 0
            labels = volume.read(path).stored > INSIDE_BASE
            errors.append(100 * (labels.sum() / truth.sum() - 1))
        return errors

    def figure(self, path: Path) -> None:
        """Bars of the mean Dice and boxes over scans, ID and OOD, per arm."""
        from matplotlib.figure import Figure

        arms = [arm for arm in ARMS if any(row["arm"] == arm for row in self.rows)]
        drawing = Figure(figsize=(10, 6), layout="constrained")
        axes = drawing.subplots(2, 2)
        for column, group in enumerate(("ID", "OOD")):
            values = [
                [float(r["dice"]) for r in self.rows if r["arm"] == arm and r["group"] == group] for arm in arms
            ]
            axes[0, column].bar(arms, [np.mean(v) if v else 0 for v in values], color="#1f6fb4")
            lowest = min((np.mean(v) for v in values if v), default=0)
            axes[0, column].set(title=group, ylabel="mean Dice", ylim=(max(0, lowest - 0.05), 1))
            axes[1, column].boxplot(values, tick_labels=arms)
            axes[1, column].set(ylabel="Dice of each scan")
            for row in range(2):
                axes[row, column].tick_params(axis="x", rotation=30)
        drawing.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labelled", required=True, help="subset of the labelled examples, in distribution")
    parser.add_argument("--others", nargs="+", required=True, help="subsets out of distribution")
    parser.add_argument("--folds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--voxel-size", type=float, help="mm (default: 2 for an adult brain)")
    parser.add_argument("--steps", type=int, default=8000, help="from scratch (default 8000)")
    parser.add_argument("--later", type=int, default=3000, help="of each round (default 3000)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--keep", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=500, help="of the quality model (default 500)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    args.out.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(args)
    scans = find_scans(args.data)
    for number in args.folds:
        experiment.run_fold(Fold.of(number, scans, args.labelled, args.others))
        (args.out / "results.md").write_text(experiment.summary())
        experiment.figure(args.out / "results.png")
    print(experiment.summary())


if __name__ == "__main__":
    main()
