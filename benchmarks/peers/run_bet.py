"""Make the brain mask of one image with brainextractor, BET in Python.

    python run_bet.py IMAGE MASK

brainextractor is written for cubic voxels. An image with others is resampled to cubes of its smallest side, 1 mm
at least, and its mask back.
"""

import sys

import nibabel as nib
import numpy as np
from brainextractor import BrainExtractor
from nibabel.processing import resample_from_to
from nibabel.spaces import vox2out_vox

path, mask_path = sys.argv[1:]
image = nib.load(path)
sizes = image.header.get_zooms()[:3]
cubic = image
if not np.allclose(sizes, sizes[0], rtol=1e-3):
    cubic = resample_from_to(image, vox2out_vox(image, [max(1.0, float(min(sizes)))] * 3), order=1)
extractor = BrainExtractor(img=cubic)
extractor.run()
mask = nib.Nifti1Image(extractor.compute_mask().astype(np.uint8), cubic.affine)
if cubic is not image:
    mask = resample_from_to(mask, image, order=0)
mask.to_filename(mask_path)
