"""Distortion along an axis, as in echo-planar images: where the magnetic field is uneven, what is seen lies aside.

The signal is squeezed or stretched with the anatomy: it becomes brighter or darker by as much. The brain to find
is distorted as its image is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..configuration import SynthConfig, Window
from .fields import enlarge, random_field
from .streams import RandomStreams, happens, uniform, whole_number


@dataclass(frozen=True)
class Distortion:
    """shift_mm: [1, 1, x, y, z] over the window, along an axis of it. with_signal: whether brightness follows."""

    axis: int
    shift_mm: torch.Tensor
    with_signal: bool


def sample_distortion(
    config: SynthConfig, window: Window, scale: float, streams: RandomStreams
) -> Distortion | None:
    """Draw the distortion of one image: none in most."""
    generator = streams("distortion")
    if not happens(generator, config.distortion_probability):
        return None
    axis = whole_number(generator, 0, 2)
    deviation_mm = uniform(generator, *config.distortion_mm) * scale
    spacing_mm = uniform(generator, *config.distortion_spacing_mm) * scale
    with_signal = happens(generator, config.distortion_signal_probability)
    return Distortion(axis, deviation_mm * random_field(window.extent_mm, spacing_mm, generator), with_signal)


def distortion_mm(window: Window, drawn: Sequence[Distortion | None], device: torch.device) -> torch.Tensor:
    """[B, 3, X, Y, Z]: how far from each voxel lies what is seen there."""
    shift = torch.zeros(len(drawn), 3, *window.shape, device=device)
    for sample, each in zip(shift, drawn, strict=True):
        if each is not None:
            sample[each.axis] = enlarge(each.shift_mm.to(device), window.shape)[0, 0]
    return shift


def follow_signal(image: torch.Tensor, window: Window, drawn: Sequence[Distortion | None]) -> torch.Tensor:
    """Images [B, X, Y, Z], brighter where their anatomy is squeezed and darker where it is stretched."""
    samples = []
    for sample, each in zip(image, drawn, strict=True):
        if each is not None and each.with_signal:
            shift = enlarge(each.shift_mm.to(image.device), window.shape)[0, 0]
            (slope,) = torch.gradient(shift, spacing=window.voxel_size_mm, dim=each.axis)
            sample = sample * (1 + slope).clamp(min=0)
        samples.append(sample)
    return torch.stack(samples)
