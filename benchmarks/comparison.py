"""Time and peak memory of `singlestrip strip` beside other skull-strippers, in one run on one machine.

    python benchmarks/comparison.py -i IMAGE [--sizes 192 256 512] [--runs 3] [--peers PYTHON]

PYTHON is that of another environment, in which deepbet and brainextractor are installed; those that
are not there are left out. SynthStrip's U-Net has the published shape and random weights, and is timed
alone, on grids up to 256³: 512³ would take over 50 GiB. The tools take turns within each round, so
that a change of the machine's speed meets all of them. Prints medians, greatest peak memory, and
ratios to singlestrip.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from strip_speed import cube, measure

from singlestrip import Stripper
from singlestrip.io.images import volume
from singlestrip.threads import thread_count

LARGEST_PLAIN = 256  # of a network in plain PyTorch


def commands(image: Path, size: int, peers: str | None) -> dict[str, list[str]]:
    """What to time on one image, by the tool's name."""
    brain, mask = image.with_name("brain.nii.gz"), image.with_name("mask.nii.gz")
    strip = [sys.executable, "-m", "singlestrip", "strip", "-q"]
    found = {"singlestrip strip": [*strip, "-i", str(image), "-o", str(brain), "-m", str(mask)]}
    if size <= LARGEST_PLAIN:
        script = Path(__file__).with_name("synthstrip_unet.py")
        found["SynthStrip's U-Net alone"] = [sys.executable, str(script), str(size)]
    if peers:
        tools = Path(peers).parent
        for name, arguments in (
            ("deepbet-cli", ["-i", str(image), "-o", str(brain), "-m", str(mask), "--no_gpu"]),
            ("brainextractor", [str(image), str(brain)]),
        ):
            tool = shutil.which(name, path=str(tools))
            if tool:
                found[name.removesuffix("-cli")] = [tool, *arguments]
    return found


def warm_seconds(image: Path, runs: int) -> float:
    """Median seconds of reading and stripping one scan with the model loaded."""
    session = Stripper.load(device="cpu")
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        session.strip(volume.read(image).scan())
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--image", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[192, 256, 512])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", metavar="PYTHON")
    args = parser.parse_args()
    scan = volume.read(args.image)
    print(f"{platform.machine()}, {thread_count()} threads, median of {args.runs}\n")
    print("| grid | tool | wall s | processor s | peak GiB | times slower | times larger |")
    print("|---" * 7 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            image = Path(folder, f"{size}.nii.gz")
            cube(scan, size, image)
            tools = commands(image, size, args.peers)
            found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in tools}
            for _ in range(args.runs):
                for name, command in tools.items():
                    found[name].append(measure(command))
            ours = None
            for name, runs in found.items():
                wall, processor = (statistics.median(run[k] for run in runs) for k in range(2))
                peak = max(run[2] for run in runs)
                ours = ours or (wall, peak)
                ratios = f"{wall / ours[0]:.1f} | {peak / ours[1]:.1f}"
                print(f"| {size}³ | {name} | {wall:.1f} | {processor:.1f} | {peak:.2f} | {ratios} |", flush=True)
            print(
                f"| {size}³ | singlestrip, model loaded | {warm_seconds(image, args.runs):.1f} | | | | |",
                flush=True,
            )


if __name__ == "__main__":
    main()
