"""Label maps of tissue for `singlestrip train -l`: what would many people's anatomy bring that one label lacks?

    python benchmarks/upper_bound.py --data DATA --out MAPS
    singlestrip train -l MAPS/*.nii.gz -o upper.safetensors --steps 3000
    python benchmarks/score.py --data DATA --model upper.safetensors --out scores ...

DATA/label_maps holds whole heads with FreeSurfer's numbers for the brain and 500 and above for the rest. The
brain mask is made to be what stripping draws: every structure of the brain, closed over its sulci. A record
beside each map gives each tissue the rank that it has in a T1w image, so that contrasts which both sides of the
border share are drawn as they are from one scan's classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage

from singlestrip import geometry, labelling, volume
from singlestrip.gmm import INSIDE_BASE

FLUID = 24  # around the brain and in its sulci
CLOSING_MM = 4.0
FIRST_OUTSIDE = 500

# FreeSurfer's numbers of the right side, and of the left side's structure.
LEFT_OF = {41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18, 57: 25}
LEFT_OF |= {58: 26, 60: 28, 62: 30, 63: 31, 137: 136, 164: 163}
FLUIDS = (4, 5, 14, 15, FLUID, 30, 31, 72)
WHITE = (2, 7, 16, 28, 85)
T1W_LEVELS = {"fluid": 0.25, "grey": 0.55, "white": 0.8}


def brain_of(tissue: np.ndarray) -> np.ndarray:
    """Boolean brain mask of tissue numbers [X, Y, Z] of 1 mm: closed by `CLOSING_MM`, holes filled."""
    brain = (tissue > 0) & (tissue < FIRST_OUTSIDE) & (tissue != FLUID)
    margin = int(CLOSING_MM) + 2
    box = tuple(
        slice(max(s.start - margin, 0), s.stop + margin) for s in ndimage.find_objects(brain.astype(np.uint8))[0]
    )
    near = ndimage.distance_transform_edt(~brain[box]) <= CLOSING_MM
    closed = (ndimage.distance_transform_edt(near) > CLOSING_MM) | brain[box]
    out = np.zeros_like(brain)
    out[box] = ndimage.binary_fill_holes(closed)
    return out


def level_of(tissue: int) -> float:
    """Rank of a tissue's intensity in a T1w image, 0 to 1; the tissues outside are spread over it by number."""
    if tissue == 0:
        return 0.0
    if tissue >= FIRST_OUTSIDE:
        return 0.1 + 0.9 * (tissue - FIRST_OUTSIDE) / 30
    return T1W_LEVELS["fluid" if tissue in FLUIDS else "white" if tissue in WHITE else "grey"]


def label_map(tissue: np.ndarray) -> tuple[np.ndarray, dict]:
    """Label map uint8 [X, Y, Z] and record as `gmm.fit_label_map` makes them, from tissue numbers [X, Y, Z]."""
    for right, left in LEFT_OF.items():
        tissue = np.where(tissue == right, left, tissue)
    brain = brain_of(tissue)
    labels = np.zeros(tissue.shape, dtype=np.uint8)
    record = {"intensity_range": [0.0, 1.0]}
    for side, where, base in (("inside", brain, INSIDE_BASE), ("outside", ~brain, 0)):
        present = np.unique(tissue[where])
        labels[where] = np.searchsorted(present, tissue[where]) + base + 1
        record[side] = {
            "label": [base + 1 + k for k in range(len(present))],
            "tissue": present.tolist(),
            "mean": [level_of(int(number)) for number in present],
        }
    return labels, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for path in sorted((args.data / "label_maps").glob("*.nii.gz")):
        scan = volume.read(path)
        assert np.allclose(geometry.voxel_sizes(scan.vox2world), 1), path
        labels, record = label_map(scan.stored[..., 0].astype(np.int32))
        out = args.out / path.name
        volume.write_like(scan, out, labels[..., None], label="tissue classes")
        labelling.write_record(out, record)
        print(out, f"{(labels > INSIDE_BASE).sum() / 1000:.0f} ml", flush=True)


if __name__ == "__main__":
    main()
