"""What each choice of the method brings: short runs at 4 mm, one change at a time, scored on real scans.

    python benchmarks/ablation.py --data DATA --steps 600 [--variants default no-warp] --out ablation.csv

The labelled example is adults/sub-01_T1w; scores are mean Dice over all other scans of `adults` and
`clinical`. Rows are added to the file, so that it can be run in pieces. Short coarse runs rank
choices; they do not say what a full run would reach.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from scans import find_scans

from singlestrip.configuration import HEAD_BRAIN_MM, CascadeConfig, GMMConfig, TrainConfig, UNetConfig
from singlestrip.io.images.pairs import read_pair
from singlestrip.networks.device import choose_device
from singlestrip.synthesis import labelling
from singlestrip.training.allocator import keep_memory
from singlestrip.training.cascade import CascadeTask, TrainingData, cascade_setup, validate
from singlestrip.training.run import Run


@dataclass(frozen=True)
class Setup:
    """All that a run is made of."""

    cascade: CascadeConfig = CascadeConfig.fitting(HEAD_BRAIN_MM, voxel_size_mm=4.0)
    config: TrainConfig = TrainConfig()
    gmm: GMMConfig = GMMConfig()


def synth(**changes) -> Callable[[Setup], Setup]:
    return lambda setup: replace(setup, config=replace(setup.config, synth=replace(setup.config.synth, **changes)))


def shape(**changes) -> Callable[[Setup], Setup]:
    return lambda setup: synth(shape=replace(setup.config.synth.shape, **changes))(setup)


def schedule(**changes) -> Callable[[Setup], Setup]:
    return lambda setup: replace(setup, config=replace(setup.config, **changes))


def classes(**changes) -> Callable[[Setup], Setup]:
    return lambda setup: replace(setup, gmm=replace(setup.gmm, **changes))


def networks(change: Callable[[UNetConfig], UNetConfig]) -> Callable[[Setup], Setup]:
    def of(setup: Setup) -> Setup:
        both = {name: change(getattr(setup.cascade, name)) for name in ("segmenter", "locator")}
        return replace(setup, cascade=replace(setup.cascade, **both))

    return of


def widths(factor: float) -> Callable[[Setup], Setup]:
    return networks(lambda network: replace(network, widths=tuple(int(w * factor) for w in network.widths)))


WARP_MM = TrainConfig().synth.shape.warp_mm
VARIANTS: dict[str, Callable[[Setup], Setup]] = {
    "default": lambda setup: setup,
    "another-seed": schedule(seed=1),
    "cross-entropy": schedule(cross_entropy=0.5),
    "no-norm": networks(lambda network: replace(network, norm="none")),
    "wider": widths(1.5),
    "narrower": widths(0.5),
    "no-average": schedule(average=0.0),
    "rate-halved": schedule(lr=5e-4),
    "rate-doubled": schedule(lr=2e-3),
    "falls-from-start": schedule(decay=1.0),
    "independent-classes": synth(smooth_classes_probability=0.0),
    "no-joint-contrast": synth(joint_probability=0.0),
    "all-joint-contrast": synth(joint_probability=1.0),
    "no-regions": synth(region_probability=0.0),
    "no-layer": synth(layer_probability=0.0),
    "no-dark-air": synth(dark_probability=0.0),
    "inside-5": classes(inside=5),
    "inside-20": classes(inside=20),
    "outside-12": classes(outside=12),
    "no-warp": shape(warp_mm=(0.0, 0.0, 0.0)),
    "warp-halved": shape(warp_mm=tuple(mm / 2 for mm in WARP_MM)),
    "warp-doubled": shape(warp_mm=tuple(mm * 2 for mm in WARP_MM)),
    "no-turns": shape(turn_probability=0.0),
    "no-slices": synth(slice_probability=0.0),
    "no-bias": synth(bias=(0.0, 0.0)),
    "no-noise": synth(noise=(0.0, 0.0), class_noise=(0.0, 0.0)),
    "no-crop": synth(crop_probability=0.0),
}


def scans(data: Path) -> dict[str, list]:
    """Images, masks and vox2world by dataset, but for the labelled example."""
    found: dict[str, list] = {}
    for scan in find_scans(data, ("adults", "clinical")):
        if scan.subject != "sub-01":
            image, mask = read_pair(scan.image, scan.mask)
            key = scan.subset if scan.dataset == "adults" else scan.dataset
            found.setdefault(key, []).append((image.scaled(), mask, image.vox2world))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    keep_memory()
    device = choose_device(args.device)
    example = args.data / "adults" / "sub-01_T1w"
    pair = Path(f"{example}.nii.gz"), Path(f"{example}_mask.nii.gz")
    groups = scans(args.data)
    for name in args.variants:
        setup = VARIANTS[name](Setup(config=TrainConfig(steps=args.steps)))
        data = TrainingData([labelling.labelled_example(*pair, setup.gmm)[0]])
        run = Run(CascadeTask(data, cascade_setup(data, setup.cascade, setup.config), device))
        start = time.monotonic()
        while run.step < args.steps:
            run.update()
        row = {"variant": name, "steps": args.steps, "seconds": round(time.monotonic() - start)}
        row |= {key: f"{validate(run.task.average.model, group):.4f}" for key, group in groups.items()}
        new = not args.out.is_file()
        with args.out.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(row, torch.get_num_threads(), "threads", flush=True)


if __name__ == "__main__":
    main()
