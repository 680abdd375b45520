"""The bias field of receive coils: a smooth gain over the window, and that of one small coil beside the head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..configuration import SynthConfig, Window
from .fields import enlarge, random_field
from .streams import RandomStreams, happens, log_uniform, uniform


@dataclass(frozen=True)
class SurfaceCoil:
    """centre_mm: [3] from the middle of the brain; radius_mm: of the loop."""

    centre_mm: torch.Tensor
    radius_mm: float


@dataclass(frozen=True)
class BiasField:
    """log_gain: natural logarithm of the gain, a field [1, 1, x, y, z] over the window; coil: a small one beside
    the head, if there is one."""

    log_gain: torch.Tensor
    coil: SurfaceCoil | None = None


def sample_bias(config: SynthConfig, window: Window, scale: float, streams: RandomStreams) -> BiasField:
    """Draw the bias field of one image."""
    generator = streams("bias")
    deviation = uniform(generator, *config.bias)
    spacing_mm = uniform(generator, *config.bias_spacing_mm) * scale
    log_gain = deviation * random_field(window.extent_mm, spacing_mm, generator)
    return BiasField(log_gain, _sample_coil(config, max(window.extent_mm), streams("coil")))


def _sample_coil(config: SynthConfig, side_mm: float, generator: torch.Generator) -> SurfaceCoil | None:
    """A coil in a random direction from the brain, in some images. side_mm: of the window."""
    if not happens(generator, config.coil_probability):
        return None
    radius_mm = log_uniform(generator, *config.coil_radius) * side_mm
    distance_mm = uniform(generator, *config.coil_distance) * side_mm
    direction = torch.randn(3, generator=generator)
    return SurfaceCoil(distance_mm * direction / direction.norm(), radius_mm)


def apply_bias(
    image: torch.Tensor, window: Window, drawn: Sequence[BiasField], brain_mm: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Images [B, X, Y, Z] times their gain. brain_mm: for each, [3] from the window's middle to the brain's."""
    shape = image.shape[1:]
    log_gain = torch.cat([enlarge(each.log_gain.to(image.device), shape) for each in drawn])
    image = image * torch.exp(log_gain[:, 0])
    for sample, each, middle_mm in zip(image, drawn, brain_mm, strict=True):
        if each.coil is not None:
            sample *= _coil_gain(middle_mm + each.coil.centre_mm, each.coil.radius_mm, window, image.device)
    return image


def _coil_gain(centre_mm: torch.Tensor, radius_mm: float, window: Window, device: torch.device) -> torch.Tensor:
    """[X, Y, Z] (1 + (r / R)²)^-3/2 at the distance r from a loop of radius R: the field on its axis, by Biot and
    Savart. centre_mm: [3] from the window's middle."""
    squares = torch.ones((), device=device)
    for axis, n in enumerate(window.shape):
        along_mm = (torch.arange(n, device=device) - (n - 1) / 2) * window.voxel_size_mm - float(centre_mm[axis])
        squares = squares + (along_mm / radius_mm).square().view([-1 if k == axis else 1 for k in range(3)])
    return squares.pow(-1.5)
