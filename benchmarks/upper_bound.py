"""Label maps of tissue for `singlestrip train -l`: what would many people's anatomy bring that one label lacks?

    python benchmarks/upper_bound.py --data DATA --out MAPS
    singlestrip train -l MAPS/*.nii.gz -o upper.safetensors --init none --no-quality --steps 3000
    python benchmarks/score.py --data DATA --model upper.safetensors --out scores ...

DATA/label_maps holds whole heads with FreeSurfer's numbers for the brain and 500 and above for the rest. The
brain mask is made to be what stripping draws: every structure of the brain, closed over its sulci. A record
beside each map gives each tissue its intensity in a T1w image, so that air is dark, and contrasts are shared by
both sides of the border, as they are with one scan's classes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

from singlestrip.configuration import INSIDE_BASE
from singlestrip.io.images import volume
from singlestrip.space.grid import voxel_sizes
from singlestrip.space.morphology import bounding_box
from singlestrip.synthesis import labelling

FLUID = 24  # around the brain and in its sulci
CLOSING_MM = 4.0
FIRST_OUTSIDE = 500

# FreeSurfer's numbers of the right side, and of the left side's structure.
LEFT_OF = {41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18, 57: 25}
LEFT_OF |= {58: 26, 60: 28, 62: 30, 63: 31, 137: 136, 164: 163}
FLUIDS = (4, 5, 14, 15, FLUID, 30, 31, 72)
WHITE = (2, 7, 16, 28, 85)
T1W_LEVELS = {"fluid": 0.25, "grey": 0.55, "white": 0.8}
# Air, compact bone, blood in the large veins, mucosa, muscle and fat, marrow, skin.
T1W_LEVELS_OUTSIDE = {0: 0.0, 515: 0.08, 514: 0.2, 509: 0.5, 507: 0.6, 516: 0.7, 511: 0.75}
OTHER_OUTSIDE = 0.4


def brain_of(tissue: np.ndarray) -> np.ndarray:
    """Boolean brain mask of tissue numbers [X, Y, Z] of 1 mm: closed by `CLOSING_MM`, holes filled."""
    brain = (tissue > 0) & (tissue < FIRST_OUTSIDE) & (tissue != FLUID)
    margin = int(CLOSING_MM) + 2
    box = tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in bounding_box(brain))
    near = ndimage.distance_transform_edt(~brain[box]) <= CLOSING_MM
    closed = (ndimage.distance_transform_edt(near) > CLOSING_MM) | brain[box]
    out = np.zeros_like(brain)
    out[box] = ndimage.binary_fill_holes(closed)
    return out


def level_of(tissue: int) -> float:
    """Intensity of a tissue in a T1w image, from 0 to 1; the few that are not known lie in the middle."""
    if tissue == 0 or tissue >= FIRST_OUTSIDE:
        return T1W_LEVELS_OUTSIDE.get(tissue, OTHER_OUTSIDE)
    return T1W_LEVELS["fluid" if tissue in FLUIDS else "white" if tissue in WHITE else "grey"]


def label_map(tissue: np.ndarray) -> tuple[np.ndarray, dict]:
    """Label map uint8 [X, Y, Z] and record as `gmm.fit_label_map` makes them, from tissue numbers [X, Y, Z]:
    the classes of each side are the tissues there, sorted by their intensity."""
    for right, left in LEFT_OF.items():
        tissue = np.where(tissue == right, left, tissue)
    brain = brain_of(tissue)
    labels = np.zeros(tissue.shape, dtype=np.uint8)
    record = {"intensity_range": [0.0, 1.0]}
    for side, where, base in (("inside", brain, INSIDE_BASE), ("outside", ~brain, 0)):
        present = sorted(np.unique(tissue[where]).tolist(), key=lambda number: (level_of(number), number))
        rank = np.zeros(tissue.max() + 1, dtype=np.uint8)
        rank[present] = np.arange(len(present)) + base + 1
        labels[where] = rank[tissue[where]]
        record[side] = {
            "label": rank[present].tolist(),
            "tissue": present,
            "mean": [level_of(number) for number in present],
        }
    return labels, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for path in sorted((args.data / "label_maps").glob("[!.]*.nii.gz")):
        scan = volume.read(path)
        if not np.allclose(voxel_sizes(scan.vox2world), 1):
            sys.exit(f"{path}: voxels are not of 1 mm")
        labels, record = label_map(scan.stored[..., 0].astype(np.int32))
        out = args.out / path.name
        volume.write_like(scan, out, labels[..., None], label="tissue classes")
        labelling.write_record(out, record)
        print(out, f"{(labels > INSIDE_BASE).sum() / 1000:.0f} ml", flush=True)


if __name__ == "__main__":
    main()
