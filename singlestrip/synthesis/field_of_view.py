"""The field of view: faces of the window that were cut off, and images that are blank far from the brain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..configuration import SynthConfig, Window
from .fields import along_axes, profile_matrices
from .streams import RandomStreams, happens, uniform, whole_number


@dataclass(frozen=True)
class Crop:
    """depth_mm: what is missing at the low and the high face along each axis, three pairs."""

    depth_mm: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Masking:
    """All is blank, of one intensity, beyond a rim around the brain. share: voxels are blank where less than this
    share of what is around them is brain, by a Gaussian with the rim as its standard deviation."""

    rim_mm: float
    share: float
    intensity: float


def sample_crop(config: SynthConfig, scale: float, streams: RandomStreams) -> Crop | None:
    """Draw what is missing of one image, if anything is."""
    generator = streams("crop")
    if not happens(generator, config.crop_probability):
        return None
    depth_mm = [0.0] * 6
    for face in torch.randperm(6, generator=generator)[: whole_number(generator, *config.crop_faces)].tolist():
        depth_mm[face] = uniform(generator, 0, config.crop_depth_mm * scale)
    return Crop(tuple(zip(depth_mm[::2], depth_mm[1::2], strict=True)))


def sample_masking(config: SynthConfig, scale: float, streams: RandomStreams) -> Masking | None:
    """Draw how one image is masked, if it is."""
    generator = streams("masking")
    if not happens(generator, config.masked_probability):
        return None
    rim_mm = uniform(generator, *config.masked_rim_mm) * scale
    generator = streams("blank")
    intensity = 0.0 if happens(generator, config.blank_probability) else uniform(generator, 0, 1)
    return Masking(rim_mm, config.masked_share, intensity)


def within_crop(window: Window, drawn: Sequence[Crop | None], device: torch.device) -> torch.Tensor:
    """Boolean [B, X, Y, Z] of the voxels that are left."""
    left = torch.ones(len(drawn), *window.shape, dtype=torch.bool, device=device)
    for sample, each in zip(left, drawn, strict=True):
        if each is None:
            continue
        for axis, n in enumerate(window.shape):
            low, high = (round(mm / window.voxel_size_mm) for mm in each.depth_mm[axis])
            sample.narrow(axis, 0, min(low, n)).fill_(False)
            sample.narrow(axis, max(n - high, 0), min(high, n)).fill_(False)
    return left


def blank_beyond_rim(
    image: torch.Tensor, brain: torch.Tensor, window: Window, drawn: Sequence[Masking | None]
) -> torch.Tensor:
    """Images [B, X, Y, Z], of which those that are masked are changed in place. brain: share of each voxel that is
    brain."""
    for sample, inside, each in zip(image, brain, drawn, strict=True):
        if each is None:
            continue
        rim_mm = torch.tensor([each.rim_mm])
        blur = [
            profile_matrices(n, window.voxel_size_mm, rim_mm, torch.zeros(1)).to(image.device)
            for n in window.shape
        ]
        sample[along_axes(inside[None], blur)[0] < each.share] = each.intensity
    return image
