"""Time and peak memory of the whole `singlestrip strip` command on scans of growing size.

    python benchmarks/strip_speed.py -i IMAGE [--sizes 192 256 512] [--runs 3]

The image is resampled to cubes of 256 mm; each is stripped in a process of its own. Prints the
median wall and processor time, and the greatest peak memory as the system accounts it.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from singlestrip.io.images import volume
from singlestrip.space.grid import Grid
from singlestrip.space.resample import conform
from singlestrip.space.scan import Scan
from singlestrip.threads import thread_count

SIDE_MM = 256.0


def cube(image: volume.Volume, size: int, path: Path) -> None:
    """The image on a grid of size³ voxels that spans SIDE_MM, int16."""
    scan = Scan(image.scaled(), image.vox2world)
    low, high = scan.grid.bounds_mm()
    target = Grid.conformed((low + high) / 2, (size,) * 3, SIDE_MM / size)
    values = conform(scan, target)
    nib.Nifti1Image((values * (4000 / values.max())).astype(np.int16), target.vox2world).to_filename(path)


# A process starts with the peak memory of the one that made it, so the measured one is made by a small one.
LAUNCHER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([status, time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20]))
"""


class Failed(RuntimeError):
    """A command that ended with an error; the text is what it said."""


def measure(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak GiB of one run. Raises Failed if it ends with an error."""
    found = subprocess.run([sys.executable, "-c", LAUNCHER, *command], check=True, capture_output=True, text=True)
    status, *figures = json.loads(found.stdout)
    if status:
        raise Failed(f"{' '.join(command)} failed\n{found.stderr}")
    return tuple(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--image", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[192, 256, 512])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--options", default="", help='more options of strip in one string, such as "--border 2"')
    args = parser.parse_args()
    scan = volume.read(args.image)
    print(f"{platform.machine()}, {thread_count()} threads, median of {args.runs}")
    print("| grid | wall s | processor s | peak GiB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            image = Path(folder, f"{size}.nii.gz")
            cube(scan, size, image)
            command = [sys.executable, "-m", "singlestrip", "strip", "-i", str(image), *shlex.split(args.options)]
            command += ["-o", str(image.with_name("brain.nii.gz")), "-m", str(image.with_name("mask.nii.gz"))]
            walls, processors, peaks = zip(*[measure(command) for _ in range(args.runs)], strict=True)
            print(
                f"| {size}³ | {statistics.median(walls):.1f} | {statistics.median(processors):.1f} "
                f"| {max(peaks):.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
