"""Small heads and stripped brains in wide black fields: Dice by size and width of the field.

    python benchmarks/wide_fields.py --data DATA [--image adults/sub-02_T1w.nii.gz] [--noise 0.02] [--model MODEL]

The voxels of one scan of DATA (laid out as for score.py) count as smaller than they are, and the scan lies in a
corner of a cube of nothing, or of noise with a standard deviation that is a share of the scan's maximum. Prints a
Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scans import find_scans

from singlestrip import SingleStripError, Stripper
from singlestrip.io.images import volume
from singlestrip.space.grid import voxel_sizes
from singlestrip.space.metrics import dice
from singlestrip.space.resample import block_mean
from singlestrip.space.scan import Scan

SIZES = (1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # of an adult's
FIELDS_MM = (200, 330, 400, 500)
COARSE_MM = 2.6  # voxel size before it is made smaller: wide fields stay small arrays


def place(image: np.ndarray, truth: np.ndarray, vox2world: np.ndarray, size: float, field_mm: float, noise: float):
    """Image and true mask [X, Y, Z] of a head of `size` in a field, and their vox2world."""
    vox2world = vox2world.copy()
    vox2world[:3, :3] *= size
    beyond = np.maximum(field_mm / voxel_sizes(vox2world) - image.shape, 0).astype(int)
    image, truth = (np.pad(part, [(0, n) for n in beyond]) for part in (image, truth))
    rng = np.random.default_rng(0)
    return image + noise * image.max() * np.abs(rng.normal(size=image.shape)), truth, vox2world


def score(stripper: Stripper, image: np.ndarray, truth: np.ndarray, vox2world: np.ndarray) -> str:
    try:
        return f"{dice(stripper.strip(image, vox2world).mask, truth):.3f}"
    except SingleStripError:
        return "refused"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--image", default="adults/sub-02_T1w.nii.gz", help="as scans.tsv names it")
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--model", help="default: the shipped weights")
    args = parser.parse_args()
    stripper = Stripper.load(args.model)
    scan = next(scan for scan in find_scans(args.data) if scan.name == args.image)
    read = volume.read(scan.image)
    inside = volume.read(scan.mask).stored[..., 0] > 0
    parts = (np.where(inside, read.scaled(), 0), read.scaled(), inside)
    brain, head, share = (block_mean(Scan(part, read.vox2world), COARSE_MM) for part in parts)
    truth = share.array > 0.5
    print("| | size | " + " | ".join(f"{mm} mm" for mm in FIELDS_MM) + " |")
    print("|---|---|" + "---|" * len(FIELDS_MM))
    for name, image in (("brain", brain), ("head", head)):
        for size in SIZES:
            cells = (
                score(stripper, *place(image.array, truth, image.vox2world, size, mm, args.noise))
                for mm in FIELDS_MM
            )
            print(f"| {name} | {size:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
