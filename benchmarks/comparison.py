"""singlestrip beside other skull-strippers: accuracy, time and peak memory.

    python benchmarks/comparison.py masks --data DATA --masks FOLDER --out OUT --peer NAME=PYTHON ...
    python benchmarks/comparison.py time -i IMAGE --out OUT --peer NAME=PYTHON ... [--sizes 256] [--runs 3]
    python benchmarks/comparison.py report --out OUT --page PAGE

NAME is deepbet, hd-bet, robex or bet, PYTHON the interpreter of an environment that has this tool; peers/README.md
says how to make them. A peer that is not named is left out.

masks makes a mask of every scan of DATA/scans.tsv with every tool, a process each, and keeps it in FOLDER. It
goes through the kinds of scans in turn, those with a reference first, and runs all tools on a scan before it
takes the next: a run that is stopped compares the same scans. OUT/results.csv grows by a row for each tool and
scan: Dice, HD95 and volume error against the reference mask, and the peak memory. A tool that fails gets the
scores of an empty mask, and its last words stand in the row. A scan without a reference gets rows in
OUT/agreement.csv: the Dice of each two tools' masks. ROBEX takes the T1w scans; HD-BET with five networks takes
the first of every three scans of a kind that has references, after the other tools. What OUT has is not done
again.

time runs the tools in turn on cubes of 256 mm made from an image, and writes OUT/times.csv anew. Run it with
nothing else on the machine. A tool that has taken a minute in all gets no further run. SynthStrip's U-Net has the
published shape and random weights: it is timed alone, on grids up to 256³.

report writes the tables into PAGE, between two marks, and draws OUT/comparison.png if there are times.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import platform
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
from comparison_report import draw, fill_in, report
from comparison_tools import LARGEST_PLAIN, UNET, Tool, interpreters, tools_of
from scans import Scan, find_scans
from strip_speed import Failed, cube, measure

from singlestrip.io.images import volume
from singlestrip.space.metrics import dice, hausdorff95, volume_ml
from singlestrip.threads import thread_count

RESULTS = (
    *("dataset", "contrast", "subject", "image", "tool"),
    *("dice", "hd95_mm", "volume_error_percent", "peak_gib", "error"),
)
AGREEMENT = ("dataset", "contrast", "image", "tool", "other", "dice")
TIMES = ("size", "tool", "run", "wall_s", "processor_s", "peak_gib", "machine", "threads")
DATASETS = ("adults", "clinical", "fetal", "contrasts", "nibabel")
# Of the person whose mask the weights learned from.
EXAMPLE = ("adults/sub-01_T1w.nii.gz", "adults/sub-01_T2w.nii.gz")
NIBABEL = Path(nib.__file__).parent / "tests/data/example4d.nii.gz"
ENOUGH_S = 60.0  # of one tool on one grid


class Table:
    """A CSV file that grows; a row with the same keys is added once."""

    def __init__(self, path: Path, columns: tuple[str, ...], keys: tuple[str, ...]) -> None:
        self.path, self.columns, self.keys = path, columns, keys
        self._known = {tuple(row[key] for key in keys) for row in read_rows(path)}

    def __contains__(self, keys: tuple[str, ...]) -> bool:
        return keys in self._known

    def add(self, **row: object) -> None:
        """Write a row; numbers get four digits."""
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            if new:
                writer.writeheader()
            writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
        self._known.add(tuple(str(row[key]) for key in self.keys))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def has_mask(scan: Scan) -> bool:
    """Whether the scan has a reference mask."""
    return scan.mask.is_file()


def in_turn(scans: Iterable[Scan]) -> list[Scan]:
    """One scan of each subset, then another of each, and so on; scans without a reference come last."""
    subsets: dict[str, list[Scan]] = {}
    for scan in scans:
        subsets.setdefault(scan.subset, []).append(scan)
    rounds = itertools.zip_longest(*subsets.values())
    mixed = [scan for members in rounds for scan in members if scan is not None]
    return sorted(mixed, key=lambda scan: not has_mask(scan))


def first_frame(image: Path, folder: Path) -> Path:
    """The image itself, or its first frame in a file of the folder if it has several."""
    loaded = nib.load(image)
    if loaded.ndim == 3:
        return image
    frame = folder / f"frame_{image.name}"
    loaded.slicer[..., 0].to_filename(frame)
    return frame


def mask_path(folder: Path, tool: str, scan: Scan) -> Path:
    """Where a tool's mask of a scan is kept."""
    return folder / tool.replace(" ", "_") / scan.name.replace("/", "_")


def read_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The voxels [X, Y, Z] above 0 of a mask; all False if there is no such file."""
    if not path.exists():
        return np.zeros(shape, dtype=bool)
    mask = volume.read(path).stored[..., 0] > 0
    if mask.shape != shape:
        raise ValueError(f"{path}: the grid {mask.shape} is not that of the image, {shape}")
    return mask


def scores(mask: np.ndarray, truth: np.ndarray, vox2world: np.ndarray) -> dict[str, float]:
    """Dice, HD95 in mm and volume error in percent of a mask against the reference, both boolean [X, Y, Z]."""
    true_ml = volume_ml(truth, vox2world)
    return {
        "dice": dice(mask, truth),
        "hd95_mm": hausdorff95(mask, truth, vox2world),
        "volume_error_percent": 100 * (volume_ml(mask, vox2world) - true_ml) / true_ml,
    }


def run_tool(tool: Tool, python: str, image: Path, mask: Path) -> tuple[float, str]:
    """Make a mask. Returns peak memory in GiB and, if the tool fails, its last words; then no mask is left."""
    mask.parent.mkdir(parents=True, exist_ok=True)
    mask.unlink(missing_ok=True)
    try:
        _, _, peak = measure(tool.command(python, image, mask))
    except Failed as failure:
        mask.unlink(missing_ok=True)
        return float("nan"), (str(failure).strip().splitlines() or ["no words"])[-1]
    return peak, "" if mask.exists() else "no mask was written"


def compare_masks(scan: Scan, tools: list[Tool], folder: Path, agreement: Table) -> None:
    """Add the Dice of each two tools' masks of a scan."""
    shape = volume.read(scan.image).shape[:3]
    masks = {tool.name: read_mask(mask_path(folder, tool.name, scan), shape) for tool in tools}
    described = {"dataset": scan.dataset, "contrast": scan.contrast, "image": scan.name}
    for one, other in itertools.combinations(masks, 2):
        if (scan.name, one, other) not in agreement:
            agreement.add(**described, tool=one, other=other, dice=dice(masks[one], masks[other]))


def make_mask(scan: Scan, tool: Tool, python: str, path: Path) -> dict[str, object]:
    """Make the mask of a scan. Returns a row of OUT/results.csv."""
    with tempfile.TemporaryDirectory() as scratch:
        peak, error = run_tool(tool, python, first_frame(scan.image, Path(scratch)), path)
    row = {"dataset": scan.dataset, "contrast": scan.contrast, "subject": scan.subject, "image": scan.name}
    row |= {"tool": tool.name, "peak_gib": peak, "error": error}
    if has_mask(scan):
        truth = volume.read(scan.mask)
        reference = truth.stored[..., 0] > 0
        row |= scores(read_mask(path, reference.shape), reference, truth.vox2world)
    return row


def plan(scans: list[Scan], tools: list[Tool]) -> list[tuple[Scan, list[Tool]]]:
    """The scans with the tools to run on each; those that take only some of the scans come after all others."""
    jobs = []
    for every in sorted({tool.every for tool in tools}):
        seen: Counter[str] = Counter()
        for scan in scans:
            taken = [
                t for t in tools if t.every == every and t.takes(scan.contrast, seen[scan.subset], has_mask(scan))
            ]
            seen[scan.subset] += 1
            jobs.append((scan, taken))
    return jobs


def make_masks(scans: list[Scan], tools: list[Tool], pythons: dict[str, str], folder: Path, out: Path) -> None:
    """Run every tool on every scan, and add what is measured to OUT/results.csv and OUT/agreement.csv."""
    results = Table(out / "results.csv", RESULTS, ("image", "tool"))
    agreement = Table(out / "agreement.csv", AGREEMENT, ("image", "tool", "other"))
    for scan, taken in plan(scans, tools):
        for tool in taken:
            if (scan.name, tool.name) not in results:
                row = make_mask(scan, tool, pythons[tool.peer], mask_path(folder, tool.name, scan))
                results.add(**row)
                print(f"{scan.name}, {tool.name}: {row['error'] or row.get('dice', 'done')}", flush=True)
        if not has_mask(scan):
            compare_masks(scan, taken, folder, agreement)


def machine_name() -> str:
    """The processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def time_tools(
    image: Path, tools: list[Tool], pythons: dict[str, str], sizes: list[int], runs: int, out: Path
) -> None:
    """Run the tools in turn on cubes, and write OUT/times.csv anew. A tool that fails gets no further run."""
    (out / "times.csv").unlink(missing_ok=True)
    times = Table(out / "times.csv", TIMES, ("size", "tool", "run"))
    scan, here = volume.read(image), {"machine": machine_name(), "threads": thread_count()}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            path = Path(folder, f"{size}.nii.gz")
            cube(scan, size, path)
            left = {tool: ENOUGH_S for tool in tools if tool is not UNET or size <= LARGEST_PLAIN}
            for run, tool in itertools.product(range(runs), tuple(left)):
                if left[tool] <= 0:
                    continue
                try:
                    wall, processor, peak = measure(
                        tool.command(pythons[tool.peer], path, path.with_name("mask.nii.gz"), size)
                    )
                except Failed as failure:
                    print(f"{size}³, {tool.name}: {failure}", flush=True)
                    left[tool] = 0
                    continue
                left[tool] -= wall
                row = {"size": size, "tool": tool.name, "run": run, **here}
                times.add(**row, wall_s=wall, processor_s=processor, peak_gib=peak)
                print(f"{size}³, {tool.name}: {wall:.1f} s, {peak:.2f} GiB", flush=True)


def write_report(out: Path, page: Path) -> None:
    """Write the tables of OUT's results into a page, and draw OUT/comparison.png if there are times."""
    results, agreement, times = (read_rows(out / f"{name}.csv") for name in ("results", "agreement", "times"))
    figure = out / "comparison.png"
    if times:
        draw(results, times, figure)
    tables = report(results, agreement, times, os.path.relpath(figure, page.parent))
    page.write_text(fill_in(page.read_text(encoding="utf-8"), tables), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    masks, times, table = (commands.add_parser(name) for name in ("masks", "time", "report"))
    for command in (masks, times, table):
        command.add_argument("--out", type=Path, required=True)
    for command in (masks, times):
        command.add_argument("--peer", nargs="+", default=[], metavar="NAME=PYTHON")
    masks.add_argument("--data", type=Path, required=True)
    masks.add_argument("--masks", type=Path, required=True)
    masks.add_argument("--datasets", nargs="+", default=DATASETS, help="default: %(default)s")
    times.add_argument("-i", "--image", type=Path, required=True)
    times.add_argument("--sizes", type=int, nargs="+", default=[256])
    times.add_argument("--runs", type=int, default=3)
    table.add_argument("--page", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.command == "report":
        write_report(args.out, args.page)
        return
    pythons = interpreters(args.peer)
    tools = tools_of(pythons)
    if args.command == "time":
        time_tools(args.image, tools, pythons, args.sizes, args.runs, args.out)
        return
    scans = in_turn(find_scans(args.data, args.datasets, EXAMPLE))
    if "nibabel" in args.datasets:
        scans.append(Scan("nibabel", "T1w", "example4d", NIBABEL.name, NIBABEL, NIBABEL.with_name("none")))
    make_masks(scans, tools, pythons, args.masks, args.out)


if __name__ == "__main__":
    main()
