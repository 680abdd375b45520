"""The engines that run the networks beside each other: time, memory, and how far their masks agree.

    python benchmarks/engines.py [--data DATA] [--threads 2] [--passes 7]

Each engine runs the shipped segmenter on a window of random smooth intensities, in a process of its own. Prints
seconds of importing the library, of the first pass with loading, the median of further passes, and peak memory.
With --data, the folder of example scans, all scans of `adults` and `clinical` are stripped by both engines too.
Prints Dice of both masks, and how far their signed distances differ within 1 mm of the surface.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scans import find_scans
from scipy import ndimage

from singlestrip import Stripper
from singlestrip.io.images import volume
from singlestrip.networks.engine_choice import load_engine
from singlestrip.networks.model_files import find_model
from singlestrip.space.metrics import dice
from singlestrip.threads import set_thread_limit

LIBRARIES = ("openvino", "torch")
NEAR_MM = 1.0


def measure_engine(library: str, passes: int) -> dict[str, float]:
    """Seconds and GiB of one engine in this process, which must be fresh."""
    times = [time.perf_counter()]

    def lap() -> float:
        times.append(time.perf_counter())
        return times[-1] - times[-2]

    __import__(library)
    measured = {"import": lap()}
    engine, _ = load_engine(find_model(None), device="cpu", engine=library)
    size = engine.config.segmenter_size
    image = np.random.default_rng(0).random((size,) * 3, dtype=np.float32)
    image = ndimage.gaussian_filter(image, 4)
    image = (image - image.min()) / np.ptp(image)
    lap()
    engine.run("segmenter", image[None, None])
    measured["first pass, with loading"] = lap()
    further = []
    for _ in range(passes):
        engine.run("segmenter", image[None, None])
        further.append(lap())
    measured["further pass"] = statistics.median(further)
    return measured | {"peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def compare_masks(data: Path) -> None:
    """Print how far the masks of both engines agree on each scan."""
    strippers = [Stripper.load(device="cpu", engine=library) for library in LIBRARIES]
    print("\n| scan | Dice | mean difference of distances, mm | 99th percentile |\n|---|---|---|---|")
    for scan in find_scans(data, ("adults", "clinical")):
        image = volume.read(scan.image).scan()
        first, second = (stripper.strip(image, sdt=True) for stripper in strippers)
        assert first.sdt is not None and second.sdt is not None
        near = np.abs(second.sdt) < NEAR_MM
        apart = np.abs(first.sdt - second.sdt)[near]
        row = f"{dice(first.mask, second.mask):.5f} | {apart.mean():.4f} | {np.percentile(apart, 99):.3f}"
        print(f"| {scan.name} | {row} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--one", choices=LIBRARIES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    set_thread_limit(args.threads)
    if args.one:
        print(json.dumps(measure_engine(args.one, args.passes)))
        return
    for library in LIBRARIES:
        command = [sys.executable, __file__, "--one", library]
        command += ["--threads", str(args.threads), "--passes", str(args.passes)]
        measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(library, *(f"{name} {value:.3f}" for name, value in measured.items()), sep=", ")
    if args.data:
        compare_masks(args.data)


if __name__ == "__main__":
    main()
