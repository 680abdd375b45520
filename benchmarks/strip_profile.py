"""Where the seconds of one `singlestrip strip` go, stage by stage.

    python benchmarks/strip_profile.py -i IMAGE [--size 256] [--runs 3]

The image is resampled to a cube of 256 mm and stripped in a process of its own, to brain and mask, with a clock
around each stage. Prints the median of each stage; the rest is checks, fills and the command line.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMED = {  # module, then class and function: what it does
    ("io.images.volume", "read"): "reading, with gzip",
    ("stripping.stripper", "intensities_of"): "range of the values",
    ("space.resample", "block_mean"): "to the networks' voxel sizes",
    ("stripping.stripper", "Stripper._locate"): "locator",
    ("stripping.stripper", "Stripper._segment"): "segmenter",
    ("stripping.brain_field", "BrainField.around_brain"): "logit on the image's grid",
    ("stripping.stripper", "clean"): "largest component, holes",
    ("io.images.volume", "write_like"): "writing brain and mask, with gzip",
}


def stages(image: Path) -> dict[str, float]:
    """Seconds of each stage of one strip in this process, which must be fresh."""
    seconds: dict[str, float] = {}

    def clocked(name, function):
        def call(*args, **keywords):
            start = time.perf_counter()
            try:
                return function(*args, **keywords)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

        return call

    begin = time.perf_counter()
    clocked("importing OpenVINO", importlib.import_module)("openvino")

    def load(name: str):
        return importlib.import_module(f"singlestrip.{name}")

    rest = ("cli.main", "cli.commands.strip", "batch.strip", "stripping.stripper")
    clocked("importing the rest", lambda: [load(name) for name in rest])()
    stripper = clocked("loading the weights", load("stripping.stripper").Stripper.load)()
    for (module, path), name in TIMED.items():
        *owner, function = path.split(".")
        place = getattr(load(module), owner[0]) if owner else load(module)
        setattr(place, function, clocked(name, getattr(place, function)))
    batch, jobs = load("batch.strip"), load("batch.jobs")
    outputs = {kind: image.with_name(f"{kind}.nii.gz") for kind in ("brain", "mask")}
    batch.strip_file(stripper, jobs.Job(image, outputs), jobs.StripOptions())
    seconds["the rest"] = time.perf_counter() - begin - sum(seconds.values())
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--image", type=Path, required=True)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", action="store_true", help="time one strip of IMAGE as it is and print JSON")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(stages(args.image)))
        return
    from strip_speed import cube, measure

    from singlestrip.io.images import volume

    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "cube.nii.gz")
        cube(volume.read(args.image), args.size, image)
        command = [sys.executable, __file__, "--one", "-i", str(image)]
        runs = [
            {"starting Python": measure([sys.executable, "-c", "pass"])[0]}
            | json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(args.runs)
        ]
    print(f"{platform.machine()}, {args.size}³, median of {args.runs}")
    print("| stage | s |\n|---|---|")
    for name in runs[0]:
        print(f"| {name} | {statistics.median(run[name] for run in runs):.2f} |")
    print(f"| all | {statistics.median(sum(run.values()) for run in runs):.2f} |")


if __name__ == "__main__":
    main()
