"""What a scanner does: it blurs, adds noise, and takes thick slices with gaps between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..configuration import SynthConfig, Window
from .fields import along_axes, profile_matrices
from .streams import RandomStreams, happens, log_uniform, uniform, whole_number


@dataclass(frozen=True)
class Slices:
    """Slices across one axis of the window. offset: where the first lies, from 0 to 1 of the spacing."""

    axis: int
    spacing_mm: float
    thickness_mm: float
    offset: float


@dataclass(frozen=True)
class Acquisition:
    """blur_mm: standard deviation along each axis that has no slices across it; slices: None for as many as there
    are voxels; noise: its standard deviation, as a share of the range of class intensities; noise_seed: of its
    grain."""

    blur_mm: tuple[float, float, float]
    slices: Slices | None
    noise: float
    noise_seed: int

    def slices_across(self, axis: int) -> Slices | None:
        """The slices across an axis; None if the image has none or has them across another axis."""
        return self.slices if self.slices is not None and self.slices.axis == axis else None


def sample_acquisition(config: SynthConfig, scale: float, streams: RandomStreams) -> Acquisition:
    """Draw the acquisition of one image."""
    generator = streams("blur")
    x, y, z = (uniform(generator, *config.smoothing_mm) * scale for _ in range(3))
    return Acquisition(
        (x, y, z),
        _sample_slices(config, scale, streams("slices")),
        uniform(streams("noise"), *config.noise),
        streams.seed("noise grain"),
    )


def _sample_slices(config: SynthConfig, scale: float, generator: torch.Generator) -> Slices | None:
    if not happens(generator, config.slice_probability):
        return None
    axis = whole_number(generator, 0, 2)
    spacing_mm = log_uniform(generator, *config.slice_spacing_mm) * scale
    thickness_mm = spacing_mm * uniform(generator, *config.slice_profile)
    return Slices(axis, spacing_mm, thickness_mm, uniform(generator, 0, 1))


def blur(image: torch.Tensor, window: Window, drawn: Sequence[Acquisition]) -> torch.Tensor:
    """Images [B, X, Y, Z], blurred as by the point spread of scanners and the thickness of slices."""
    return along_axes(image, _blur_matrices(window, drawn, image.device))


def add_noise(image: torch.Tensor, drawn: Sequence[Acquisition]) -> torch.Tensor:
    """Add the noise of scanners to images [B, X, Y, Z], in place."""
    for sample, each in zip(image, drawn, strict=True):
        generator = torch.Generator(image.device).manual_seed(each.noise_seed)
        sample += torch.randn(sample.shape, generator=generator, device=image.device) * each.noise
    return image


def take_slices(image: torch.Tensor, window: Window, drawn: Sequence[Acquisition]) -> torch.Tensor:
    """Images [B, X, Y, Z] as their slices show them: one slice every spacing, interpolated between."""
    if all(each.slices is None for each in drawn):
        return image
    return along_axes(image, _slice_matrices(window, drawn, image.device))


def _blur_matrices(window: Window, drawn: Sequence[Acquisition], device: torch.device) -> list[torch.Tensor]:
    """For each axis [B, n, n]: a Gaussian, or a box as thick as the slices across the axis."""
    matrices = []
    for axis, n in enumerate(window.shape):
        across = [each.slices_across(axis) for each in drawn]
        box_mm = [slices.thickness_mm if slices else 0.0 for slices in across]
        blur_mm = [0.0 if slices else each.blur_mm[axis] for each, slices in zip(drawn, across, strict=True)]
        matrices.append(
            profile_matrices(n, window.voxel_size_mm, torch.tensor(blur_mm), torch.tensor(box_mm)).to(device)
        )
    return matrices


def _slice_matrices(window: Window, drawn: Sequence[Acquisition], device: torch.device) -> list[torch.Tensor]:
    """For each axis [B, n, n]: `slice_matrix` for slices across it, else the identity."""
    matrices = []
    for axis, n in enumerate(window.shape):
        samples = [
            slice_matrix(n, window.voxel_size_mm, slices.spacing_mm, slices.offset) if slices else torch.eye(n)
            for slices in (each.slices_across(axis) for each in drawn)
        ]
        matrices.append(torch.stack(samples).to(device))
    return matrices


def slice_matrix(n: int, voxel_mm: float, spacing_mm: float, offset: float) -> torch.Tensor:
    """[n, n] that keeps one slice every `spacing_mm` of an axis and interpolates linearly between them."""
    spacing = max(spacing_mm / voxel_mm, 1.0)
    start = offset * spacing
    slices = int((n - 1 - start) / spacing) + 1
    at = ((torch.arange(n) - start) / spacing).clamp(0, max(slices - 1, 0))
    below = at.floor().long().clamp(max=max(slices - 2, 0))
    part = at - below
    matrix = torch.zeros(n, n)
    for index, weight in ((below, 1 - part), (below + 1, part)):
        voxel = (start + index * spacing).clamp(max=n - 1)
        low = voxel.floor().long().clamp(max=n - 2)
        fraction = voxel - low
        matrix.scatter_add_(1, low[:, None], (weight * (1 - fraction))[:, None])
        matrix.scatter_add_(1, low[:, None] + 1, (weight * fraction)[:, None])
    return matrix
