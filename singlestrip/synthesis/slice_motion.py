"""Motion between slices: each slice shows the head where it lay when the slice was taken, some with less signal.

The brain to find lies in each slice where its image shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..configuration import SynthConfig, Window
from .streams import RandomStreams, happens, log_uniform, uniform, whole_number


@dataclass(frozen=True)
class SliceMotion:
    """axis: of the window, across the slices; shift_mm: [N, 3] of each slice; gain: [N]."""

    axis: int
    thickness_mm: float
    shift_mm: torch.Tensor
    gain: torch.Tensor

    def slice_of(self, window: Window) -> torch.Tensor:
        """[n] the number of the slice that each voxel along the axis lies in."""
        middles_mm = (torch.arange(window.shape[self.axis]) + 0.5) * window.voxel_size_mm
        return (middles_mm / self.thickness_mm).long()

    def along_axis(self, window: Window, of_slices: torch.Tensor, device: torch.device) -> torch.Tensor:
        """A number for each slice [N] as one for each voxel, with three axes of which two have the length 1."""
        shape = [-1 if axis == self.axis else 1 for axis in range(3)]
        return of_slices[self.slice_of(window)].view(shape).to(device)


def sample_slice_motion(
    config: SynthConfig, window: Window, scale: float, streams: RandomStreams
) -> SliceMotion | None:
    """Draw the motion of one image: none in most. Slices are taken one after the other or every second first."""
    generator = streams("slice motion")
    if not happens(generator, config.motion_probability):
        return None
    axis = whole_number(generator, 0, 2)
    thickness_mm = max(log_uniform(generator, *config.motion_slice_mm) * scale, window.voxel_size_mm)
    number = int(window.extent_mm[axis] / thickness_mm) + 1
    order = torch.arange(number)
    if happens(generator, config.motion_interleaved_probability):
        order = torch.cat([order[::2], order[1::2]])
    # A walk: the head moves on from where it was. Its mean is no motion but another place.
    walk = torch.randn(number, 3, generator=generator).cumsum(0)
    walk = walk - walk.mean(0)
    shift_mm = torch.empty(number, 3)
    shift_mm[order] = walk / walk.std().clamp(min=1e-6) * uniform(generator, *config.motion_mm) * scale
    lost = torch.rand(number, generator=generator) < uniform(generator, *config.motion_lost)
    gain = torch.where(lost, torch.rand(number, generator=generator), 1.0)
    return SliceMotion(axis, thickness_mm, shift_mm, gain)


def motion_mm(window: Window, drawn: Sequence[SliceMotion | None], device: torch.device) -> torch.Tensor:
    """[B, 3, X, Y, Z]: how far from each voxel lies what is seen there."""
    shift = torch.zeros(len(drawn), 3, *window.shape, device=device)
    for sample, each in zip(shift, drawn, strict=True):
        if each is not None:
            for axis in range(3):
                sample[axis] += each.along_axis(window, each.shift_mm[:, axis], device)
    return shift


def dim_slices(image: torch.Tensor, window: Window, drawn: Sequence[SliceMotion | None]) -> torch.Tensor:
    """Images [B, X, Y, Z] with the signal that is left in each slice, in place."""
    for sample, each in zip(image, drawn, strict=True):
        if each is not None:
            sample *= each.along_axis(window, each.gain, image.device)
    return image
