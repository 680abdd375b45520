"""Intensities of the GMM classes, on the grid of the label map: their means, their texture, and two regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..configuration import INSIDE_BASE, SynthConfig
from .fields import enlarge, random_field
from .label_map import LabelMap
from .streams import RandomStreams, happens, uniform, whole_number

CLASSES = 256  # a label map has bytes
TRIES = 100  # of means that lie apart
CURVE_CLASSES = 10.0  # a curve over the classes of one side has its number of knots in so many classes


@dataclass(frozen=True)
class Region:
    """A part of the head in which the classes look otherwise.

    mean: [256]; field: [1, 1, x, y, z] over what is seen of the map, positive in the region.
    """

    mean: torch.Tensor
    field: torch.Tensor


@dataclass(frozen=True)
class ClassIntensities:
    """What each class looks like.

    mean: [256], 0 at label 0; region: None where each class looks alike everywhere; noise: [256]
    standard deviation of each class; noise_seed: of its grain.
    """

    mean: torch.Tensor
    region: Region | None
    noise: torch.Tensor
    noise_seed: int


def sample_class_intensities(
    config: SynthConfig,
    extent_mm: Sequence[float],
    scale: float,
    levels: torch.Tensor | None,
    shares: torch.Tensor | None,
    streams: RandomStreams,
) -> ClassIntensities:
    """Draw the intensities of all classes.

    extent_mm: size of the window. levels: [256] intensity of each class in the labelled scan, if known. shares:
    [256] of each class in the brain, None if they have no contrast to keep.
    """
    mean = _sample_means(config, levels, shares, streams)
    dark = _sample_dark_classes(config, streams("dark classes"))
    mean[1 : 1 + len(dark)] = dark
    region = _sample_region(config, extent_mm, scale, mean, len(dark), streams("region"))
    generator = streams("class noise")
    noise = uniform(generator, *config.class_noise) * 2 * torch.rand(CLASSES, generator=generator)
    return ClassIntensities(mean, region, noise, streams.seed("class grain"))


def _sample_means(
    config: SynthConfig, levels: torch.Tensor | None, shares: torch.Tensor | None, streams: RandomStreams
) -> torch.Tensor:
    """Mean intensities [256]: independent, on a curve over the classes of each side, or on one curve over the
    levels of all classes."""
    generator = streams("class means")
    means = torch.rand(CLASSES, generator=generator)
    if shares is not None and config.least_contrast:
        _draw_apart(
            means, torch.nonzero(shares > config.contrast_share).flatten(), config.least_contrast, generator
        )
    for side, first, count in (("outside", 1, INSIDE_BASE), ("inside", INSIDE_BASE + 1, 255 - INSIDE_BASE)):
        generator = streams(f"curve {side}")
        if happens(generator, config.smooth_classes_probability):
            means[first : first + count] = _sample_class_curve(config, count, generator)
    generator = streams("joint curve")
    if levels is not None and happens(generator, config.joint_probability):
        means = _sample_joint_curve(config, levels, generator)
    means[0] = 0
    return means


def _draw_apart(means: torch.Tensor, classes: torch.Tensor, least: float, generator: torch.Generator) -> None:
    """Draw the means [256] of some classes anew until they lie apart. Too many for the range lie as they fall."""
    for _ in range(TRIES):
        if len(classes) < 2 or means[classes].sort().values.diff().min() >= least:
            return
        means[classes] = torch.rand(len(classes), generator=generator)


def _sample_class_curve(config: SynthConfig, count: int, generator: torch.Generator) -> torch.Tensor:
    """Intensities [count] of neighbouring classes on a random curve: linear between random knots."""
    step = CURVE_CLASSES / (whole_number(generator, *config.smooth_knots) - 1)
    knots = torch.rand(int(count / step) + 3, generator=generator)
    return _interpolate(knots, torch.arange(count) / step + uniform(generator, 0, 1))


def _sample_joint_curve(config: SynthConfig, levels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Intensities [256] on one random curve over the levels [256] of both sides: linear between random knots."""
    knots = torch.rand(whole_number(generator, *config.smooth_knots), generator=generator)
    return _interpolate(knots, levels * (len(knots) - 1))


def _interpolate(knots: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Values at places counted in knots from the first: linear between them."""
    below = at.long().clamp(max=len(knots) - 2)
    return torch.lerp(knots[below], knots[below + 1], at - below)


def _sample_dark_classes(config: SynthConfig, generator: torch.Generator) -> torch.Tensor:
    """Intensities of those first outside classes that are dark, as air is; of none in some images."""
    if not happens(generator, config.dark_probability):
        return torch.zeros(0)
    low, high = config.dark_intensity
    return low + (high - low) * torch.rand(whole_number(generator, *config.dark_classes), generator=generator)


def _sample_region(
    config: SynthConfig,
    extent_mm: Sequence[float],
    scale: float,
    mean: torch.Tensor,
    dark: int,
    generator: torch.Generator,
) -> Region | None:
    """A region in which the outside classes beyond the first `dark` have other intensities, or none."""
    if not happens(generator, config.region_probability):
        return None
    other = mean.clone()
    # As many numbers are drawn however many classes are dark: what comes after must not depend on that.
    other[1 + dark : 1 + INSIDE_BASE] = torch.rand(INSIDE_BASE, generator=generator)[dark:]
    spacing_mm = uniform(generator, *config.region_spacing_mm) * scale
    return Region(other, random_field(extent_mm, spacing_mm, generator))


def paint_classes(source: LabelMap, drawn: ClassIntensities) -> torch.Tensor:
    """Image [X, Y, Z] of the mean intensity of each voxel's class."""
    device, label, mean = source.labels.device, source.labels.flatten(), drawn.mean
    if drawn.region is not None:
        within = enlarge(drawn.region.field.to(device), source.labels.shape).flatten() > 0
        mean, label = torch.cat([mean, drawn.region.mean]), label + CLASSES * within.int()
    return mean.to(device).index_select(0, label).view_as(source.labels)


def add_class_noise(image: torch.Tensor, source: LabelMap, drawn: ClassIntensities) -> torch.Tensor:
    """The image [X, Y, Z] with Gaussian noise, for each voxel as strong as its class has it. In place."""
    device, label = source.labels.device, source.labels.flatten()
    generator = torch.Generator(device).manual_seed(drawn.noise_seed)
    grain = torch.randn(label.shape, generator=generator, device=device)
    grain.mul_(drawn.noise.to(device).index_select(0, label))
    return image.add_(grain.view_as(image))
