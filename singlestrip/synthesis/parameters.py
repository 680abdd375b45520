"""What is random in a synthetic image: drawn from an explicit generator, apart from the making of the image.

The ranges are in `configuration.SynthConfig`; `image.synthesise` makes the image. The same state of
the generator draws the same, so that any sample can be replayed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch

from ..configuration import INSIDE_BASE, SynthConfig, Window


@dataclass(frozen=True)
class SynthParameters:
    """Everything that makes one batch: tensors of batch size B first, all on the CPU, and noise seeds."""

    affine: torch.Tensor  # [B, 4, 4] window mm to map mm, both from the middle of the brain
    velocity: tuple[torch.Tensor, ...]  # per scale [B, 3, x, y, z] mm
    class_mean: torch.Tensor  # [B, 256]
    class_noise: torch.Tensor  # [B, 256]
    blur_mm: torch.Tensor  # [B, 3]
    slice_axis: torch.Tensor  # [B], -1 for none
    slice_spacing_mm: torch.Tensor  # [B]
    slice_thickness_mm: torch.Tensor  # [B]
    slice_offset: torch.Tensor  # [B] fraction of the spacing
    noise: torch.Tensor  # [B]
    bias: tuple[torch.Tensor, ...]  # per sample [1, 1, x, y, z] log gain
    gamma: torch.Tensor  # [B]
    crop_mm: torch.Tensor  # [B, 3, 2] cut from each face
    rim_mm: torch.Tensor  # [B], -1 for none
    blank: torch.Tensor  # [B]
    noise_seed: tuple[int, ...]  # per sample
    region_mean: torch.Tensor  # [B, 256] class_mean where `region` is positive
    region: tuple[torch.Tensor, ...]  # per sample [1, 1, x, y, z] over the label map
    brain_range: torch.Tensor  # [B] whether the brain alone sets the range of intensities
    layer_mean: torch.Tensor  # [B] intensity of the layer around the brain
    layer_mm: tuple[torch.Tensor, ...]  # per sample [1, 1, x, y, z] its thickness over the map, or [0] for none


def numbered_generator(*numbers: int) -> torch.Generator:
    """A generator on the CPU that depends on all of the numbers: a run's seed, and what is drawn."""
    seed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> 1))


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> torch.Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator)


def _happens(generator: torch.Generator, probability: float) -> torch.Tensor:
    return torch.rand(1, generator=generator) < probability


def _rotation(angles: torch.Tensor) -> torch.Tensor:
    """Rotation matrices [B, 3, 3] of angles [B, 3] in radians about x, then y, then z."""
    result = torch.eye(3).expand(len(angles), 3, 3)
    for axis in range(3):
        i, j = (k for k in range(3) if k != axis)
        turn = torch.eye(3).repeat(len(angles), 1, 1)
        cosine, sine = angles[:, axis].cos(), angles[:, axis].sin()
        turn[:, i, i], turn[:, j, j], turn[:, i, j], turn[:, j, i] = cosine, cosine, -sine, sine
        result = turn @ result
    return result


def _sample_affine(config: SynthConfig, window: Window, g: torch.Generator) -> torch.Tensor:
    rotation = _rotation(torch.deg2rad(_uniform(g, -config.rotation_deg, config.rotation_deg, 1, 3)))
    common = torch.exp(_uniform(g, *(math.log(s) for s in config.scaling), 1, 1))
    size = common * (1 + _uniform(g, -config.anisotropy, config.anisotropy, 1, 3))
    shear = torch.eye(3)[None]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        shear[:, i, j] = _uniform(g, -config.shear, config.shear, 1)
    if _happens(g, config.turn_probability):
        turn = torch.zeros(1, 3)
        turn[0, int(torch.randint(3, (1,), generator=g))] = _uniform(g, -math.pi, math.pi, 1)
        rotation = _rotation(turn) @ rotation
    flip = torch.ones(1, 3)
    if _happens(g, config.flip_probability):
        flip[0, 0] = -1
    affine = torch.eye(4)[None]
    affine[:, :3, :3] = rotation @ shear @ torch.diag_embed(flip / size)
    jitter = _uniform(g, -window.jitter_mm, window.jitter_mm, 1, 3, 1)
    affine[:, :3, 3:] = affine[:, :3, :3] @ jitter
    return affine


def _between(knots: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Values at places counted in knots from the first: linear between them."""
    below = at.long().clamp(max=len(knots) - 2)
    return torch.lerp(knots[below], knots[below + 1], at - below)


def _class_curve(config: SynthConfig, count: int, g: torch.Generator) -> torch.Tensor:
    """Intensities [count] of neighbouring classes on a random curve: linear between random knots."""
    low, high = config.smooth_knots
    step = 10.0 / (low - 1 + int(torch.randint(high - low + 1, (1,), generator=g)))
    knots = torch.rand(int(count / step) + 3, generator=g)
    return _between(knots, torch.arange(count) / step + float(torch.rand(1, generator=g)))


def _joint_curve(config: SynthConfig, levels: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Intensities [256] on one random curve over the levels [256] of both sides: linear between random knots."""
    low, high = config.smooth_knots
    knots = torch.rand(int(torch.randint(low, high + 1, (1,), generator=g)), generator=g)
    return _between(knots, levels * (len(knots) - 1))


def _sample_class_means(
    config: SynthConfig, levels: torch.Tensor | None, g: torch.Generator
) -> tuple[torch.Tensor, int]:
    """Intensities [1, 256]: independent per class, on a random curve over the classes of each side, or on one
    over the levels [256] of all classes; and how many of the first outside classes are air."""
    means = torch.rand(1, 256, generator=g)
    for first, count in ((1, INSIDE_BASE), (INSIDE_BASE + 1, 255 - INSIDE_BASE)):
        if _happens(g, config.smooth_classes_probability):
            means[0, first : first + count] = _class_curve(config, count, g)
    if levels is not None and _happens(g, config.joint_probability):
        means[0] = _joint_curve(config, levels, g)
    dark = 0
    if _happens(g, config.dark_probability):
        low, high = config.dark_classes
        dark = int(torch.randint(low, high + 1, (1,), generator=g))
        means[0, 1 : 1 + dark] = _uniform(g, 0, 0.08, dark)
    means[0, 0] = 0
    return means, dark


def _sample_region_means(
    config: SynthConfig, class_mean: torch.Tensor, dark: int, g: torch.Generator
) -> torch.Tensor:
    """Intensities [1, 256] of the other region: the outside classes that were not made dark have others there, or
    none has."""
    means = class_mean.clone()
    if _happens(g, config.region_probability):
        means[0, 1 + dark : 1 + INSIDE_BASE] = torch.rand(INSIDE_BASE - dark, generator=g)
    return means


def _sample_layer(config: SynthConfig, scale: float, field: Callable, g: torch.Generator) -> torch.Tensor:
    """Thickness [1, 1, x, y, z] in mm of the layer around the brain, or [0] for none."""
    mean = _uniform(g, *config.layer_mm, 1) * scale
    uneven = _uniform(g, *config.layer_uneven_mm, 1) * scale
    thickness = mean + uneven * field(float(_uniform(g, *config.layer_spacing_mm, 1)), 1)
    return thickness if _happens(g, config.layer_probability) else torch.zeros(0)


def _sample_crop(config: SynthConfig, scale: float, g: torch.Generator) -> torch.Tensor:
    """Depths [1, 3, 2] in mm cut from the faces: from one or two, since more would leave no head."""
    depth = _uniform(g, 0, config.crop_depth_mm * scale, 6)
    faces = 1 + int(torch.randint(2, (1,), generator=g))
    depth[torch.rand(6, generator=g).argsort()[faces:]] = 0
    return depth.view(1, 3, 2) * _happens(g, config.crop_probability)


def sample_parameters(
    config: SynthConfig,
    window: Window,
    scale: float,
    generator: torch.Generator,
    levels: torch.Tensor | None = None,
) -> SynthParameters:
    """Draw the parameters of one image (B = 1). The same state of the generator draws the same.

    generator: on the CPU. scale: size of the anatomy over that of an adult human head. levels: [256] of
    the label map, if known.
    """
    g = generator
    extent = [n * window.voxel_size_mm for n in window.shape]

    def field(spacing_mm: float, channels: int) -> torch.Tensor:
        points = [max(2, round(e / (spacing_mm * scale)) + 1) for e in extent]
        return torch.randn(1, channels, *points, generator=g)

    velocity = tuple(
        _uniform(g, 0, amplitude * scale, 1) * field(spacing, 3)
        for spacing, amplitude in zip(config.warp_spacing_mm, config.warp_mm, strict=True)
    )
    spacing = torch.exp(_uniform(g, *(math.log(s * scale) for s in config.slice_spacing_mm), 1))
    sliced = _happens(g, config.slice_probability)
    masked = _happens(g, config.masked_probability)
    affine = _sample_affine(config, window, g)
    class_mean, dark = _sample_class_means(config, levels, g)
    return SynthParameters(
        affine=affine,
        velocity=velocity,
        class_mean=class_mean,
        class_noise=_uniform(g, *config.class_noise, 1, 1) * torch.rand(1, 256, generator=g) * 2,
        blur_mm=_uniform(g, *(s * scale for s in config.smoothing_mm), 1, 3),
        slice_axis=torch.where(sliced, torch.randint(3, (1,), generator=g), -1),
        slice_spacing_mm=spacing,
        slice_thickness_mm=spacing * _uniform(g, *config.slice_profile, 1),
        slice_offset=torch.rand(1, generator=g),
        noise=_uniform(g, *config.noise, 1),
        bias=(_uniform(g, *config.bias, 1) * field(float(_uniform(g, *config.bias_spacing_mm, 1)), 1),),
        gamma=torch.exp(_uniform(g, -config.gamma, config.gamma, 1)),
        crop_mm=_sample_crop(config, scale, g),
        rim_mm=torch.where(masked, _uniform(g, *(r * scale for r in config.masked_rim_mm), 1), -1.0),
        blank=torch.rand(1, generator=g) * _happens(g, 1 - config.blank_probability),
        noise_seed=(int(torch.randint(2**31, (1,), generator=g)),),
        region_mean=_sample_region_means(config, class_mean, dark, g),
        region=(field(float(_uniform(g, *config.region_spacing_mm, 1)), 1),),
        brain_range=_happens(g, config.brain_range_probability),
        layer_mean=torch.rand(1, generator=g),
        layer_mm=(_sample_layer(config, scale, field, g),),
    )


def stack(parameters: list[SynthParameters]) -> SynthParameters:
    """Parameters of single images, drawn for the same window, to those of one batch."""
    joined = {}
    for field in fields(SynthParameters):
        values = [getattr(p, field.name) for p in parameters]
        if field.name == "velocity":
            joined[field.name] = tuple(torch.cat(scale) for scale in zip(*values, strict=True))
        elif isinstance(values[0], tuple):
            joined[field.name] = sum(values, ())
        else:
            joined[field.name] = torch.cat(values)
    return SynthParameters(**joined)
