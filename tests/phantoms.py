"""A made-up head: a lopsided brain of three classes in skull, scalp and air, and networks that know it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import nn

from singlestrip.configuration import CascadeConfig, ShapeConfig, TargetClass, UNetConfig
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.model_header import CASCADE, Kind, read_header
from singlestrip.space.scan import Scan
from singlestrip.synthesis.gmm import NativeMap
from singlestrip.synthesis.labelling import LabelledScan

AIR, SKULL, SCALP = 1, 2, 3
BRAIN = (101, 102, 103)
# All views of stripping agree on it: the scalp is dark to `Threshold`, and most of the brain bright, in each.
INTENSITY = {AIR: 0.0, SKULL: 8.0, SCALP: 20.0, 101: 60.0, 102: 80.0, 103: 100.0}

STILL = ShapeConfig(
    rotation_deg=0.0,
    turn_probability=0.0,
    scaling=(1.0, 1.0),
    anisotropy=0.0,
    shear=0.0,
    warp_mm=(0.0, 0.0, 0.0),
    flip_probability=0.0,
)  # as it lies


@dataclass(frozen=True)
class Head:
    """image float32, mask boolean and labels uint8, all [X, Y, Z], and their vox2world."""

    image: np.ndarray
    mask: np.ndarray
    labels: np.ndarray
    vox2world: np.ndarray

    @property
    def native(self) -> NativeMap:
        """The label map to train on, with the intensities of the classes."""
        levels = np.zeros(256, dtype=np.float32)
        for label, intensity in INTENSITY.items():
            levels[label] = intensity / 100
        return NativeMap(self.labels, self.vox2world, levels)

    @property
    def labelled(self) -> LabelledScan:
        return LabelledScan(Scan(self.image, self.vox2world), self.mask)

    def save(self, folder: Path) -> tuple[Path, Path, Path]:
        """image.nii.gz, mask.nii.gz and labels.nii.gz in a folder."""
        paths = tuple(folder / f"{name}.nii.gz" for name in ("image", "mask", "labels"))
        for path, array in zip(paths, (self.image, self.mask.astype(np.uint8), self.labels), strict=True):
            nib.save(nib.Nifti1Image(array, self.vox2world), path)
        return paths

    def save_many(self, folder: Path) -> None:
        """The images a.nii.gz and b.nii.gz, and frames.nii.gz of two frames, all of this head, in a folder."""
        arrays = {"a": self.image, "b": self.image, "frames": np.stack([self.image] * 2, -1)}
        for name, array in arrays.items():
            nib.save(nib.Nifti1Image(array, self.vox2world), folder / f"{name}.nii.gz")


def make_head(size: int = 32, spacing_mm: float = 6.0, noise: float = 1.0) -> Head:
    """A head that fills a cube of size³ voxels; its brain is 0.55 of the cube wide, with a lump on one side."""
    middle = (size - 1) / 2
    x, y, z = ((np.arange(size) - middle) / size for _ in range(3))
    x, y, z = np.meshgrid(x, y, z, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    labels = np.full((size,) * 3, AIR, dtype=np.uint8)
    labels[radius < 0.44] = SCALP
    labels[radius < 0.36] = SKULL
    ball = np.sqrt((x / 0.9) ** 2 + y**2 + (z / 0.85) ** 2)
    labels[ball < 0.27] = 101
    labels[ball < 0.21] = 102
    labels[(x - 0.05) ** 2 + y**2 + z**2 < 0.15**2] = 103
    labels[(x - 0.2) ** 2 + (y - 0.18) ** 2 + z**2 < 0.09**2] = 101
    image = np.vectorize(INTENSITY.get)(labels).astype(np.float32)
    image += noise * np.random.default_rng(0).standard_normal(image.shape, dtype=np.float32)
    vox2world = np.diag([spacing_mm] * 3 + [1.0])
    vox2world[:3, 3] = -spacing_mm * middle
    return Head(image, labels > 100, labels, vox2world)


def tiny_cascade(voxel_size_mm: float = 2.0, size: int = 16, norm: str = "instance") -> CascadeConfig:
    """Networks of a few thousand weights."""
    network = UNetConfig(widths=(4, 8), norm=norm)
    return CascadeConfig(voxel_size_mm, network, size, network, size)


def randomised(network: nn.Module) -> nn.Module:
    """A network in which every weight and every statistic is drawn at random."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, values in network.state_dict().items():
            if name.endswith("running_var"):
                values.uniform_(0.5, 2)
            elif values.is_floating_point():
                values.normal_(0, 0.3)
    return network.eval()


class Threshold(nn.Module):
    """Takes whatever is brighter than half for brain."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 10 * (image - 0.5)


class PhantomCascade(nn.Module):
    """Stands in for a trained cascade: right for `make_head`, whose brain is its bright part."""

    def __init__(self, voxel_size_mm: float = 6.0, size: int = 32):
        super().__init__()
        self.config = tiny_cascade(voxel_size_mm, size)
        self.locator, self.segmenter = Threshold(), Threshold()
        self.anchor = nn.Parameter(torch.zeros(1))


def threshold_cascade(voxel_size_mm: float = 6.0, size: int = 32) -> Cascade:
    """A real cascade, to save in a file, whose weights make of it what `PhantomCascade` is."""
    network = UNetConfig(widths=(2,), norm="none", patch=1)
    cascade = Cascade(CascadeConfig(voxel_size_mm, network, size, network, size)).requires_grad_(False)
    for weights in cascade.parameters():
        weights.zero_()
    for unet in (cascade.locator, cascade.segmenter):
        for block in unet.encoder[0]:
            block.conv.weight[0, 0, 1, 1, 1] = 1  # hands on the first channel
        unet.head.weight[0, 0], unet.head.bias[0] = 10, -5
    return cascade


def describe_model(path: Path, kind: Kind = CASCADE) -> dict[str, Any]:
    """What a model file tells of its networks of a kind."""
    return read_header(path, kind).describe(kind)


STRUCTURES = (
    TargetClass(511, "Scalp", colour=(242, 198, 160)),
    TargetClass(24, "CSF", brain=True, fluid=True, colour=(60, 60, 60)),
    TargetClass(3, "Grey matter", brain=True, largest=True),
)


LESION_CROSSINGS = (0.5, 0.9)  # the brain is brighter, and what is brightest in it is lesion


def class_cascade(
    voxel_size_mm: float = 6.0,
    size: int = 32,
    classes: tuple[TargetClass, ...] = STRUCTURES,
    crossings: tuple[float, ...] = (0.13, 0.4, 0.7),
) -> Cascade:
    """A real cascade that tells the structures of `make_head` apart by their intensity, without other views.

    crossings: above which each class is brighter. The scalp is brighter than 0.13, the outer layer of the brain,
    which is CSF, than 0.4, and the rest than 0.7.
    """
    network = UNetConfig(widths=(2,), norm="none", patch=1)
    plain = threshold_cascade(voxel_size_mm, size)
    config = CascadeConfig(voxel_size_mm, network, size, network, size, classes=classes, class_evidence=None)
    cascade = Cascade(config).requires_grad_(False)
    heads = {name: weights for name, weights in cascade.state_dict().items() if name.startswith("segmenter.head")}
    cascade.load_state_dict(plain.state_dict() | heads)
    head = cascade.segmenter.head
    head.weight.zero_()
    # Lines of rising slope: each is the highest from where it crosses the one before.
    slopes = (0.0, 20.0, 60.0, 100.0)[: 1 + len(classes)]
    offset = 0.0
    for channel, slope in enumerate(slopes):
        if channel:
            offset -= (slope - slopes[channel - 1]) * crossings[channel - 1]
        head.weight[channel, 0], head.bias[channel] = slope, offset
    return cascade
