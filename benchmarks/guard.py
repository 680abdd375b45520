"""What the guard of self-training sees in harmless and in poisoned rounds, beside the true Dice.

    python benchmarks/guard.py --data DATA --labelled "adults T1w" --others "adults T2w" clinical --out FOLDER
        [--model MODEL] [--steps N] [--arms ARM ...] [--minutes M] [--device NAME]

DATA holds scans.tsv, see scans.py. The first scan of --labelled is the labelled example. The other people are
dealt out in turn: the scans of one half are unlabelled, those of the other are scored with their masks. Each arm
is one round that begins with --model:

    control-N   no pseudo-labels, seed N: what chance does
    own         the masks that the model makes, as self-train takes them
    shift-N     these masks, shifted to the right by N mm, and all taken: poisoned
    grow-N      these masks, grown by N mm (shrunk if N is below 0)
    other       each scan with the mask of the one before, on the voxels of the same number

FOLDER/guard.csv grows by a row an arm: what is measured before and after the round, whether the guard refuses the
model, and the true Dice of the scored scans before and after.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from scans import Scan, find_scans
from scipy import ndimage

from singlestrip import Stripper
from singlestrip.configuration import RoundTrainConfig, SelfTrainConfig
from singlestrip.errors import SingleStripError
from singlestrip.networks.model_files import find_model
from singlestrip.self_training import scans as self_training_scans
from singlestrip.self_training.plan import Inputs, Options
from singlestrip.self_training.rounds import SelfTraining
from singlestrip.space.distance import signed_distance
from singlestrip.space.metrics import dice
from singlestrip.synthesis.labelling import labelled_scan

ARMS = ("control-0", "shift-8", "own", "other", "control-1", "grow-4", "shift-4", "grow--4", "control-2")
strip_image = self_training_scans.strip_image
last_mask: list[np.ndarray] = []


def poisoned(kind: str, size_mm: float):
    """A function in place of `strip_image`, whose masks are wrong in this way."""

    def strip(stripper, image):
        stripped = strip_image(stripper, image)
        mask, vox2world = stripped.mask, image.vox2world
        if kind == "shift":
            axis = int(np.argmax(np.abs(vox2world[0, :3])))
            voxels = round(size_mm / np.linalg.norm(vox2world[:3, axis]))
            mask = np.roll(mask, voxels, axis)
        elif kind == "grow":
            mask = signed_distance(np.where(mask, 0.5, -0.5), mask, vox2world) < size_mm
        elif kind == "other":
            before = last_mask[-1] if last_mask else np.flip(mask)
            last_mask.append(mask)
            zoom = np.array(mask.shape) / before.shape
            mask = ndimage.zoom(before.astype(float), zoom, order=1) > 0.5
        return replace(stripped, mask=mask)

    return strip


def true_dice(model: Path, scored: list[Scan], device: str) -> dict[str, float]:
    """Mean Dice of a model by subset."""
    stripper = Stripper.load(model, device)
    scores: dict[str, list[float]] = {}
    for scan in scored:
        labelled = labelled_scan(scan.image, scan.mask)
        try:
            mask = stripper.strip(labelled.scan).mask
        except SingleStripError:
            mask = np.zeros_like(labelled.mask)
        scores.setdefault(scan.subset, []).append(dice(mask, labelled.mask))
    return {subset: float(np.mean(values)) for subset, values in scores.items()}


def run_arm(arm: str, args: argparse.Namespace, example: Scan, unlabelled: list[Scan]) -> tuple[Path, dict]:
    """One round. Returns the file of its model, and what is measured before and after."""
    kind, _, number = arm.partition("-")
    control = kind == "control"
    chosen = strip_image if kind in ("control", "own") else poisoned(kind, float(number or 0))
    self_training_scans.strip_image = chosen
    self_training_scans.draw_picture = lambda *arguments: None  # they take long
    rounds = SelfTrainConfig(
        rounds=1,
        threshold=None if kind in ("control", "own") else 0.0,
        usual_volumes=kind in ("control", "own"),
        example_share=1.0 if control else SelfTrainConfig.example_share,
    )
    later = RoundTrainConfig(steps=args.steps, seed=int(number) if control else 0)
    inputs = Inputs(
        example.image,
        example.mask,
        tuple(scan.image for scan in unlabelled),
        model=args.model,
        quality=args.quality,
    )
    task = SelfTraining(args.out / arm, inputs, Options(rounds, later=later), args.device)
    task.run()
    decision = task.record.decisions[1]
    row = {"refused": "; ".join(decision.faults)}
    for name in asdict(decision.before):
        row[f"{name} before"], row[name] = (getattr(each, name) for each in (decision.before, decision.after))
    return args.out / arm / "round-1" / "model.safetensors", row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labelled", required=True)
    parser.add_argument("--others", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=find_model(None))
    parser.add_argument("--quality", type=Path, default=find_model("quality"))
    parser.add_argument("--steps", type=int, default=RoundTrainConfig.steps)
    parser.add_argument("--arms", nargs="+", default=ARMS)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no arm that would end later")
    parser.add_argument("--device", type=torch.device, default="cpu")
    args = parser.parse_args()
    start = time.monotonic()
    given = find_scans(args.data, [args.labelled, *args.others])
    example = next(scan for scan in given if scan.within([args.labelled]))
    people = list(dict.fromkeys(scan.person for scan in given if scan.person != example.person))
    halves = ([scan for scan in given if scan.person in people[half::2]] for half in (0, 1))
    unlabelled, scored = halves
    args.out.mkdir(parents=True, exist_ok=True)
    before = true_dice(args.model, scored, str(args.device))
    longest = 0.0
    for arm in args.arms:
        begun = time.monotonic()
        if begun - start + longest > 60 * args.minutes:
            break
        last_mask.clear()
        model, row = run_arm(arm, args, example, unlabelled)
        after = true_dice(model, scored, str(args.device))
        row = {"arm": arm, "steps": args.steps} | row
        for subset, value in before.items():
            row |= {f"{subset} before": value, subset: after[subset]}
        path = args.out / "guard.csv"
        is_new = not path.is_file()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if is_new:
                writer.writeheader()
            writer.writerow(
                {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in row.items()}
            )
        longest = max(longest, time.monotonic() - begun)


if __name__ == "__main__":
    main()
