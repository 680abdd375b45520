"""The two networks that strip a head: one finds the brain, the other draws its border.

A network only works in the field of view it was trained in. The locator sees the whole scan at
low resolution, with the head anywhere; the segmenter sees a window of fixed size around the
brain. So neither neck nor empty space nor the size of the scan costs accuracy, and the memory of
the segmenter is the same for every scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .synth import Window
from .unet import UNet, UNetConfig

# A 96³ window at 2 mm holds an adult brain (up to 185 mm long): other anatomies are measured by it.
HEAD_VOXEL_SIZE_MM = 2.0


@dataclass(frozen=True)
class CascadeConfig:
    """Grids and shapes of both networks; lengths in mm of the anatomy the model is for."""

    voxel_size_mm: float = HEAD_VOXEL_SIZE_MM
    segmenter: UNetConfig = UNetConfig()
    segmenter_size: int = 96  # voxels along each side of the window
    locator: UNetConfig = UNetConfig(widths=(16, 32, 64, 64))
    locator_size: int = 64  # voxels along each side in training; stripping takes any field of view
    locator_factor: float = 2.0  # voxel size over that of the segmenter

    @property
    def locator_voxel_size_mm(self) -> float:
        return self.voxel_size_mm * self.locator_factor

    @property
    def scale(self) -> float:
        """Size of the anatomy over that of an adult human head."""
        return self.voxel_size_mm / HEAD_VOXEL_SIZE_MM

    def windows(self) -> dict[str, Window]:
        """What each network sees in training. The segmenter's jitter covers the locator's error."""
        return {
            "locator": Window((self.locator_size,) * 3, self.locator_voxel_size_mm, 50.0 * self.scale),
            "segmenter": Window((self.segmenter_size,) * 3, self.voxel_size_mm, 12.0 * self.scale),
        }


class Cascade(nn.Module):
    """Both networks, as one set of weights."""

    def __init__(self, config: CascadeConfig):
        super().__init__()
        self.config = config
        self.locator = UNet(config.locator)
        self.segmenter = UNet(config.segmenter)

    def forward(self, images: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Logits of each network named in `images`, all [B, 1, X, Y, Z]."""
        return {name: getattr(self, name)(image) for name, image in images.items()}
