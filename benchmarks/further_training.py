"""Further steps of a model, with the default synthesis or without lesions and faults of images, in a given time.

    python benchmarks/further_training.py -l LABELS -i IMAGE -m MASK -o MODEL --minutes 8 [--whole] [--init MODEL]

LABELS is the label map of IMAGE and MASK, as `singlestrip fit-gmm` writes it. Begins with the shipped weights, or
those of --init. With --whole all brains and images are whole: the control, which shows what the steps alone do.
Measures again and again how long a step takes, and plans as many steps as fit, so that the rate has fallen when
the time is over. The model is written now and then, and at the end; provenance tells of the steps.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from singlestrip.configuration import TrainConfig
from singlestrip.io.checksum import checksum
from singlestrip.io.images.pairs import read_pair
from singlestrip.networks.checkpoint import load_model
from singlestrip.networks.device import choose_device
from singlestrip.networks.model_files import find_model
from singlestrip.space.scan import Scan
from singlestrip.synthesis.labelling import LabelledScan, read_label_map
from singlestrip.training.allocator import keep_memory
from singlestrip.training.cascade import CascadeTask, TrainingData, cascade_setup
from singlestrip.training.fitting import labelled_anatomy
from singlestrip.training.run import Run

PLAN_EVERY = 20  # steps
RESERVE_S = 25  # to draw the border and write the model
WRITE_EVERY_S = 100
REPORT_EVERY = 200  # steps


def make_run(args: argparse.Namespace) -> Run:
    """A run that has made no step yet."""
    path = find_model(args.init)
    init, header = load_model(path)
    image, mask = read_pair(args.image, args.mask)
    label_map = read_label_map(args.labels)
    data = TrainingData(
        [label_map],
        init,
        [LabelledScan(Scan(image.scaled(), image.vox2world), mask)],
        provenance={
            "labelled": [{"image": {"name": args.image.name, "sha256": checksum(args.image)},
                          "mask": {"name": args.mask.name, "sha256": checksum(args.mask)}}],
            "init": {"name": path.name, "provenance": header["provenance"]},
        },
        anatomy=labelled_anatomy([label_map]),
    )  # fmt: skip
    config = TrainConfig(lr=args.lr, decay=args.decay, seed=args.seed, warmup=100)
    if args.whole:
        config = replace(config, synth=config.synth.whole())
    return Run(CascadeTask(data, cascade_setup(data, init.config, config), choose_device(args.device)))


def write(run: Run, path: Path, seconds: float) -> None:
    """Write the average of the weights, its border drawn by the labelled scan."""
    model, provenance = run.task.finished_model(run.step)
    config = run.task.config
    synthesis = "whole" if config.synth == config.synth.whole() else "default"
    learning = {"lr": config.lr, "decay": config.decay, "warmup": config.warmup, "seed": config.seed}
    extra = {"step": run.step, "seconds": round(seconds), "synthesis": synthesis, **learning}
    run.task.write_model(path, model, provenance | extra)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-l", "--labels", type=Path, required=True)
    parser.add_argument("-i", "--image", type=Path, required=True)
    parser.add_argument("-m", "--mask", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--init", help="default: the shipped weights")
    parser.add_argument("--minutes", type=float, required=True, help="for all, from the start of the program")
    parser.add_argument("--whole", action="store_true", help="without lesions and faults of images")
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--decay", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    start = written = time.monotonic()
    stop = start + 60 * args.minutes - RESERVE_S
    keep_memory()
    run = make_run(args)
    task, losses = run.task, []
    planned = start
    while run.step < task.config.steps and time.monotonic() < stop:
        losses.append(run.update())
        now = time.monotonic()
        if run.step % PLAN_EVERY == 0:
            if run.step > PLAN_EVERY:  # the first steps are slower
                step_s = (now - planned) / PLAN_EVERY
                task.config = replace(task.config, steps=run.step + max(int((stop - now) / step_s), 0))
            planned = now
        if run.step % REPORT_EVERY == 0:
            means = {name: sum(each[name] for each in losses[-REPORT_EVERY:]) / REPORT_EVERY for name in losses[0]}
            print(f"{run.step} of {task.config.steps}, {now - start:.0f} s", means, flush=True)
        if now - written > WRITE_EVERY_S:
            write(run, args.out, now - start)
            written = now
    write(run, args.out, time.monotonic() - start)
    print(f"{run.step} steps, {torch.get_num_threads()} threads, {task.device}", flush=True)


if __name__ == "__main__":
    main()
