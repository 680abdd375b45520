"""Steps per second of training, and the share that synthesis takes.

    python benchmarks/training_speed.py -i IMAGE -m MASK [--steps 30] [--no-keep-memory]

Prints medians over the steps after a warm-up of five. Memory kept by the allocator, as `train`
does, can be switched off to see what it brings.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path

import torch

from singlestrip.configuration import CascadeConfig, GMMConfig, TrainConfig
from singlestrip.networks.device import choose_device
from singlestrip.synthesis.labelling import labelled_example
from singlestrip.training.allocator import keep_memory
from singlestrip.training.cascade import CascadeTask, TrainingData, cascade_setup
from singlestrip.training.run import Run

WARM_UP = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--image", type=Path, required=True)
    parser.add_argument("-m", "--mask", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-keep-memory", action="store_true")
    args = parser.parse_args()
    if not args.no_keep_memory:
        keep_memory()
    example, _ = labelled_example(args.image, args.mask, GMMConfig())
    cascade, config, device = CascadeConfig(), TrainConfig(batch=args.batch), choose_device(args.device)
    data = TrainingData([example])
    run = Run(CascadeTask(data, cascade_setup(data, cascade, config), device))

    def wait() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    whole, synthesis = [], []
    for number in range(args.steps + WARM_UP):
        start = wait()
        run.update()
        stepped = wait()
        for source in run.task.sources.values():
            source.draw([number] * args.batch, number)
        whole.append(stepped - start)
        synthesis.append(wait() - stepped)
    step, draw = (statistics.median(times[WARM_UP:]) for times in (whole, synthesis))
    threads, amp = torch.get_num_threads(), run.task.amp
    print(f"{platform.machine()}, {threads} threads, {device}, batch {args.batch}, bf16 {amp}")
    print(
        f"{step:.3f} s a step, {1 / step:.2f} steps/s, of which synthesis {draw:.3f} s ({100 * draw / step:.0f} %)"
    )


if __name__ == "__main__":
    main()
