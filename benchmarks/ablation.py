"""What each choice of the method brings: short runs at 4 mm, one change at a time, scored on real scans.

    python benchmarks/ablation.py --data DATA --steps 1500 [--variants default dice-only] --out ablation.csv

The labelled example is adults/sub-01_T1w; scores are mean Dice over all other scans of `adults` and
`clinical`. Rows are added to the file, so that it can be run in pieces. Short coarse runs rank
choices; they do not say what a full run would reach.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from singlestrip import labelling, training
from singlestrip.configuration import HEAD_BRAIN_MM, CascadeConfig, GMMConfig, TrainConfig
from singlestrip.device import choose_device

COARSE = CascadeConfig.fitting(HEAD_BRAIN_MM, voxel_size_mm=4.0)


def _synth(**changes) -> Callable:
    def change(cascade, config):
        return cascade, replace(config, synth=replace(config.synth, **changes))

    return change


VARIANTS: dict[str, Callable] = {
    "default": lambda cascade, config: (cascade, config),
    "dice-only": lambda cascade, config: (cascade, replace(config, cross_entropy=0.0)),
    "no-norm": lambda cascade, config: (
        replace(
            cascade,
            segmenter=replace(cascade.segmenter, norm="none"),
            locator=replace(cascade.locator, norm="none"),
        ),
        config,
    ),
    "independent-classes": _synth(smooth_classes_probability=0.0),
    "no-dark-air": _synth(dark_probability=0.0),
    "no-slices": _synth(slice_probability=0.0),
    "no-warp": _synth(warp_mm=(0.0, 0.0, 0.0)),
    "no-average": lambda cascade, config: (cascade, replace(config, average=0.0)),
}


def scans(data: Path) -> dict[str, list]:
    """Images, masks and vox2world by dataset, but for the labelled example."""
    found: dict[str, list] = {}
    with (data / "scans.tsv").open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["dataset"] in ("adults", "clinical") and row["subject"] != "sub-01":
                image, mask = labelling.read_pair(data / row["image"], data / row["mask"])
                key = f"{row['dataset']} {row['contrast']}" if row["dataset"] == "adults" else row["dataset"]
                found.setdefault(key, []).append((image.scaled(), mask, image.vox2world))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    training.keep_memory()
    device = choose_device(args.device)
    example = args.data / "adults" / "sub-01_T1w"
    example_map = labelling.native_map(Path(f"{example}.nii.gz"), Path(f"{example}_mask.nii.gz"), GMMConfig())
    groups = scans(args.data)
    for name in args.variants:
        cascade, config = VARIANTS[name](COARSE, TrainConfig(steps=args.steps))
        run = training.Run(cascade, config, training.prepare_maps([example_map], cascade, device), device)
        start = time.monotonic()
        while run.step < config.steps:
            run.update()
        row = {"variant": name, "steps": args.steps, "seconds": round(time.monotonic() - start)}
        row |= {key: f"{training.validate(run.averaged, group):.4f}" for key, group in groups.items()}
        new = not args.out.is_file()
        with args.out.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(row, torch.get_num_threads(), "threads", flush=True)


if __name__ == "__main__":
    main()
