"""A made-up head of 20³ voxels, and models that know it: the real command takes milliseconds with them."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from phantoms import Head, make_head, threshold_cascade, tiny_cascade

from singlestrip.configuration import AutoencoderConfig
from singlestrip.networks import checkpoint
from singlestrip.networks.autoencoder import Autoencoder
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.model_header import Anatomy

SIZE, SPACING_MM = 20, 9.6
LAYERS = ((4, 2, 4), (4, 2, 4), (4, 2, 4), (4, 2, 8))


def make_models(folder: Path) -> None:
    """singlestrip.safetensors finds the head's brain; quality.safetensors and untrained.safetensors do not."""
    folder.mkdir()
    torch.manual_seed(0)
    config = AutoencoderConfig(size=16, voxel_size_mm=12.0, layers=LAYERS)
    models = {
        "singlestrip": threshold_cascade(),
        "untrained": Cascade(tiny_cascade(8.0)),
        "quality": Autoencoder(config),
    }
    for name, model in models.items():
        # Whatever the untrained networks find has a usual volume, so that they can be trained on it.
        anatomy = Anatomy((0.1, 10_000.0)) if name == "untrained" else None
        checkpoint.save_model(folder / f"{name}.safetensors", model, {"made": "for tests"}, anatomy=anatomy)


def make_heads(folder: Path, count: int) -> list[Path]:
    """Images scan0.nii.gz and so on, of one head with noise of its own each."""
    paths = []
    for number in range(count):
        head = make_head(SIZE, SPACING_MM, noise=1.0 + number / 10)
        paths.append(folder / f"scan{number}.nii.gz")
        nib.save(nib.Nifti1Image(head.image, head.vox2world), paths[-1])
    return paths


def make_images(folder: Path) -> Head:
    """One head as float32 and int16, NIfTI and MGH, its mask, its label map, and three frames of it."""
    head = make_head(SIZE, SPACING_MM)
    whole = np.round(head.image).astype(np.int16)
    frames = np.stack([head.image, head.image * 2, head.image + 5], axis=-1)
    images = {
        "image.nii": nib.Nifti1Image(head.image, head.vox2world),
        "image2.nii": nib.Nifti2Image(whole, head.vox2world),
        "image.img": nib.Nifti1Pair(whole, head.vox2world),
        "image.mgh": nib.MGHImage(head.image, head.vox2world),
        "frames.nii": nib.Nifti1Image(frames.astype(np.float32), head.vox2world),
        "mask.nii": nib.Nifti1Image(head.mask.astype(np.uint8), head.vox2world),
        "labels.nii": nib.Nifti1Image(head.labels, head.vox2world),
    }
    for name, image in images.items():
        nib.save(image, folder / name)
    return head
