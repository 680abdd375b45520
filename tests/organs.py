"""A made-up body: three organs, of which two are the left and the right of one kind, in tissue and air."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

AIR, TISSUE, LEFT, RIGHT, MIDDLE = 0, 7, 10, 49, 16
TABLE = """index	name	color	target	side	brain	largest
7	Tissue	n/a	0	n/a	0	0
10	Left-Kidney	#00760e	10	left	1	1
16	Liver	#779fb0	16	n/a	1	0
49	Right-Kidney	#00760e	49	right	1	1
"""


def make_body(size: int = 32, spacing_mm: float = 6.0, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels int16 [X, Y, Z] and their vox2world. The first axis runs from left to right; scale: of the organs."""
    middle = (size - 1) / 2
    x, y, z = np.meshgrid(*((np.arange(size) - middle) / (size * scale) for _ in range(3)), indexing="ij")
    labels = np.full((size,) * 3, AIR, dtype=np.int16)
    labels[x**2 + y**2 + z**2 < 0.46**2] = TISSUE
    labels[((x + 0.21) / 0.9) ** 2 + (y - 0.05) ** 2 + (z / 1.4) ** 2 < 0.15**2] = LEFT
    labels[((x - 0.21) / 0.9) ** 2 + (y - 0.05) ** 2 + (z / 1.4) ** 2 < 0.15**2] = RIGHT
    labels[(x / 1.3) ** 2 + ((y + 0.24) / 0.8) ** 2 + ((z - 0.05) / 1.2) ** 2 < 0.14**2] = MIDDLE
    vox2world = np.diag([spacing_mm] * 3 + [1.0])
    vox2world[:3, 3] = -spacing_mm * middle
    return labels, vox2world


def save_body(folder: Path) -> tuple[Path, Path]:
    """The label map of a body and its table of classes, in a folder."""
    labels, vox2world = make_body()
    nib.save(nib.Nifti1Image(labels, vox2world), folder / "body.nii.gz")
    (folder / "classes.tsv").write_text(TABLE, encoding="utf-8")
    return folder / "body.nii.gz", folder / "classes.tsv"
