"""Label map to random image and brain mask: what the network learns from.

Sampling parameters (`sample_parameters`, from an explicit generator) is apart from applying them
(`synthesise`, on any device), so that any sample can be replayed. The ranges are in
`configuration.SynthConfig`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from .configuration import SynthConfig, Window
from .gmm import INSIDE_BASE, is_inside


@dataclass(frozen=True)
class LabelMap:
    """A conformed label map on the training device.

    labels: int32 [X, Y, Z], 0 outside the scan, 1-100 outside the brain, above 100 inside;
    brain: float [X, Y, Z], 1 in the brain; scanned: likewise where there is a label, None for
    everywhere; away_mm: float [X, Y, Z], distance to the brain, 0 in it; spacing_mm; brain_mm: [3],
    middle of the brain's bounding box, mm from the middle of the map; levels: [256] on the CPU,
    intensity of each class in the labelled scan from 0 to 1, None where it is not known.
    """

    labels: torch.Tensor
    brain: torch.Tensor
    scanned: torch.Tensor | None
    away_mm: torch.Tensor
    spacing_mm: float
    brain_mm: torch.Tensor
    levels: torch.Tensor | None = None

    @staticmethod
    def of(
        labels: np.ndarray,
        spacing_mm: float,
        device: torch.device | str = "cpu",
        levels: np.ndarray | None = None,
    ) -> LabelMap:
        """From a conformed label map uint8 [X, Y, Z], and the levels of its classes float32 [256]."""
        brain = is_inside(labels)
        where = np.argwhere(brain)
        middle = (where.min(0) + where.max(0)) / 2 - (np.array(labels.shape) - 1) / 2
        scanned = None if labels.all() else torch.from_numpy((labels > 0).astype(np.float32)).to(device)
        # Of the two voxels beside the surface, it lies halfway between.
        away = (ndimage.distance_transform_edt(~brain) - 0.5).clip(0) * spacing_mm
        return LabelMap(
            torch.from_numpy(labels.astype(np.int32)).to(device),
            torch.from_numpy(brain.astype(np.float32)).to(device),
            scanned,
            torch.from_numpy(away.astype(np.float32)).to(device),
            spacing_mm,
            torch.tensor(middle * spacing_mm, dtype=torch.float32),
            None if levels is None else torch.from_numpy(levels),
        )

    def grid_from_mm(self) -> torch.Tensor:
        """[4, 4] on the CPU: mm from the middle of the brain to grid_sample's coordinates, ±1 at the edges."""
        half = torch.tensor(self.labels.shape) * self.spacing_mm / 2
        matrix = torch.diag(torch.cat([1 / half, torch.ones(1)]))
        matrix[:3, 3] = self.brain_mm / half
        return matrix


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
    layer_mean: torch.Tensor  # [B, 1] intensity of the layer around the brain
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
        layer_mean=torch.rand(1, 1, generator=g),
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


def integrate(velocity: torch.Tensor, extent_mm: list[float], steps: int = 5) -> torch.Tensor:
    """Displacement [B, 3, x, y, z] in mm of a stationary velocity field in mm by scaling and squaring
    (Arsigny et al. 2006): a diffeomorphism. Grid corners lie at the edges of `extent_mm`."""
    displacement = velocity / 2**steps
    identity = _unit_grid(velocity.shape[2:], velocity.device)
    half = torch.tensor(extent_mm, device=velocity.device) / 2
    for _ in range(steps):
        at = identity + (displacement.permute(0, 2, 3, 4, 1) / half).flip(-1)
        moved = F.grid_sample(displacement, at, padding_mode="border", align_corners=True)
        displacement = displacement + moved
    return displacement


def _unit_grid(shape, device) -> torch.Tensor:
    """Identity [1, X, Y, Z, 3] for grid_sample (last axis first), corners at ±1."""
    axes = [torch.linspace(-1, 1, n, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)[None]


def enlarge(field: torch.Tensor, shape) -> torch.Tensor:
    """[B, C, x, y, z] linearly interpolated to `shape`, corners on corners."""
    matrices = []
    for few, many in zip(field.shape[2:], shape, strict=True):
        at = torch.linspace(0, few - 1, many, device=field.device)
        offset = (at[:, None] - torch.arange(few, device=field.device)).abs()
        matrices.append((1 - offset).clamp(min=0)[None])
    return along_axes(field.flatten(0, 1), matrices).unflatten(0, field.shape[:2])


def window_coordinates(
    window: Window, p: SynthParameters, device, grid_from_mm: torch.Tensor | None = None
) -> torch.Tensor:
    """Where each window voxel lies in the map: [B, X, Y, Z, 3] mm from the middle of the brain.

    With grid_from_mm [B, 4, 4] in each map's coordinates for grid_sample, whose last axis comes first.
    """
    extent = [n * window.voxel_size_mm for n in window.shape]
    # The field is integrated at 1/4 resolution: its finest control points are further apart still.
    coarse = [max(4, n // 4) for n in window.shape]
    velocity = sum(enlarge(v.to(device), coarse) for v in p.velocity)
    moved = enlarge(integrate(velocity, extent), window.shape)
    for axis, n in enumerate(window.shape):
        along = (torch.arange(n, device=device) - (n - 1) / 2) * window.voxel_size_mm
        moved[:, axis] += along.view([-1 if k == axis else 1 for k in range(3)])
    affine = p.affine if grid_from_mm is None else (grid_from_mm @ p.affine)[:, [2, 1, 0, 3]]
    affine = affine.to(device)
    at = torch.baddbmm(affine[:, :3, 3:], affine[:, :3, :3], moved.flatten(2))
    return at.unflatten(2, window.shape).permute(0, 2, 3, 4, 1)


def _sample_map(source: LabelMap, grid: torch.Tensor, p: SynthParameters, sample: int, generator):
    """Image, brain and coverage, each [1, X, Y, Z], of one map at grid_sample's points [1, X, Y, Z, 3]."""
    device = grid.device
    flat = source.labels.flatten()
    grain = torch.randn(flat.shape, generator=generator, device=device)
    grain.mul_(p.class_noise[sample].to(device).index_select(0, flat))
    mean, other = p.class_mean[sample], p.region_mean[sample]
    if not torch.equal(mean, other):
        beyond = enlarge(p.region[sample].to(device), source.labels.shape).flatten() > 0
        mean, flat = torch.cat([mean, other]), flat + 256 * beyond.int()
    image = mean.to(device).index_select(0, flat).view_as(source.labels)
    if p.layer_mm[sample].numel():
        thickness = enlarge(p.layer_mm[sample].to(device), source.labels.shape)[0, 0]
        layer = (source.away_mm > 0) & (source.away_mm < thickness)
        image = torch.where(layer, p.layer_mean[sample].to(device), image)
    channels = torch.stack([image.add_(grain.view_as(image)), source.brain])[None]
    image, brain = F.grid_sample(channels, grid, align_corners=False).unbind(1)
    if source.scanned is None:
        return image, brain, (grid.abs() <= 1).all(-1)
    return image, brain, F.grid_sample(source.scanned[None, None], grid, align_corners=False)[:, 0] > 0.5


def profile_matrices(n: int, voxel_mm: float, blur_mm: torch.Tensor, box_mm: torch.Tensor) -> torch.Tensor:
    """[B, n, n] that blur along one axis: a Gaussian of `blur_mm` [B] or a box of `box_mm` [B] where wider.

    Blurring by a dense matrix per axis costs less than a convolution and lets each sample of a
    batch have its own width.
    """
    offset = (torch.arange(n)[:, None] - torch.arange(n)[None]).abs() * voxel_mm
    sigma = blur_mm.clamp(min=voxel_mm * 0.05).view(-1, 1, 1)
    gaussian = torch.exp(-0.5 * (offset / sigma).square())
    half = box_mm.view(-1, 1, 1) / 2
    box = (half - offset + voxel_mm / 2).clamp(0, voxel_mm)
    box = torch.where(half > 0, box, torch.eye(n))
    gaussian = gaussian / gaussian.sum(2, keepdim=True)
    return gaussian @ (box / box.sum(2, keepdim=True))


def _slice_matrix(n: int, voxel_mm: float, spacing_mm: float, offset: float) -> torch.Tensor:
    """[n, n] that takes every `spacing_mm` from the axis and interpolates linearly between."""
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


def along_axes(x: torch.Tensor, matrices: list[torch.Tensor]) -> torch.Tensor:
    """Apply a matrix [B, m, n], or [1, m, n] for all, along each axis of x [B, X, Y, Z]."""
    x = (matrices[0] @ x.flatten(2)).unflatten(2, x.shape[2:])
    x = matrices[1][:, None] @ x
    return x @ matrices[2][:, None].transpose(2, 3)


def _acquire(image: torch.Tensor, window: Window, p: SynthParameters, generators) -> torch.Tensor:
    """Blur, slices and noise as a scanner makes them; image [B, X, Y, Z]."""
    device = image.device
    batch, *shape = image.shape
    blur, slices = [], []
    for axis, n in enumerate(shape):
        sliced = p.slice_axis == axis
        box = torch.where(sliced, p.slice_thickness_mm, torch.zeros(batch))
        sigma = torch.where(sliced, torch.zeros(batch), p.blur_mm[:, axis])
        blur.append(profile_matrices(n, window.voxel_size_mm, sigma, box).to(device))
        slices.append(
            torch.stack(
                [
                    _slice_matrix(n, window.voxel_size_mm, float(s), float(o)) if hit else torch.eye(n)
                    for s, o, hit in zip(p.slice_spacing_mm, p.slice_offset, sliced, strict=True)
                ]
            ).to(device)
        )
    image = along_axes(image, blur)
    for b, generator in enumerate(generators):
        grain = torch.randn(image[b].shape, generator=generator, device=device)
        image[b] += grain * p.noise[b].to(device)
    return along_axes(image, slices) if bool((p.slice_axis >= 0).any()) else image


def _keep_box(window: Window, crop_mm: torch.Tensor, device) -> torch.Tensor:
    """Boolean [X, Y, Z] of the voxels left after cutting crop_mm [3, 2] from the faces."""
    keep = torch.ones(window.shape, dtype=torch.bool, device=device)
    for axis, n in enumerate(window.shape):
        low, high = (round(float(c) / window.voxel_size_mm) for c in crop_mm[axis])
        keep.narrow(axis, 0, min(low, n)).fill_(False)
        keep.narrow(axis, max(n - high, 0), min(high, n)).fill_(False)
    return keep


def _thinned(values: torch.Tensor) -> torch.Tensor:
    return values[:: 1 + values.numel() // 30_000]


def bright_end(values: torch.Tensor) -> torch.Tensor:
    """The 99.5th percentile of values [N], of some 30 000 of them where there are more."""
    return torch.quantile(_thinned(values), 0.995)


def normalise(image: torch.Tensor, covered: torch.Tensor, brain: torch.Tensor | None = None) -> torch.Tensor:
    """Scale [B, X, Y, Z] to [0, 1] between the minimum and the 99.5th percentile of covered voxels.

    brain: boolean [B, X, Y, Z]; where a sample has any, the percentile is that of its voxels, so that
    bright fat does not press the brain's contrast together. The one normalisation of training and
    stripping. Voxels not covered become 0.
    """
    out = torch.empty_like(image)
    for index, (values, where) in enumerate(zip(image, covered, strict=True)):
        chosen = values[where]
        if chosen.numel() == 0:
            out[index] = 0
            continue
        low = _thinned(chosen).min()
        within = chosen if brain is None else values[where & brain[index]]
        high = bright_end(within if within.numel() else chosen)
        scaled = (values - low) / (high - low).clamp(min=1e-6 * float(high.abs()) + 1e-12)
        out[index] = torch.where(where, scaled.clamp(0, 1), torch.zeros((), device=image.device))
    return out


@torch.no_grad()
def synthesise(
    maps: list[LabelMap], window: Window, p: SynthParameters
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One batch from one label map per sample.

    Returns image [B, 1, X, Y, Z] in [0, 1], brain [B, 1, X, Y, Z] the share of each voxel that is
    brain, and weight [B, 1, X, Y, Z], 0 where the image has no data (the loss must not ask what
    cannot be seen), on the device of the maps. The same parameters give the same batch.
    """
    device = maps[0].labels.device
    generators = [torch.Generator(device).manual_seed(seed) for seed in p.noise_seed]
    grids = window_coordinates(window, p, device, torch.stack([m.grid_from_mm() for m in maps]))
    samples = [_sample_map(m, grids[b : b + 1], p, b, generators[b]) for b, m in enumerate(maps)]
    image, brain, covered = (torch.cat(channel) for channel in zip(*samples, strict=True))
    log_gain = torch.cat([enlarge(b.to(device), window.shape) for b in p.bias])[:, 0]
    image = _acquire(image * torch.exp(log_gain), window, p, generators)
    for b in range(len(maps)):
        covered[b] &= _keep_box(window, p.crop_mm[b], device)
    ranging = (brain > 0.5) & p.brain_range.to(device).view(-1, 1, 1, 1)
    image = normalise(image, covered, ranging).pow(p.gamma.to(device).view(-1, 1, 1, 1))
    for b in range(len(maps)):
        if p.rim_mm[b] >= 0:
            sides = [
                profile_matrices(n, window.voxel_size_mm, p.rim_mm[b : b + 1], torch.zeros(1)).to(device)
                for n in window.shape
            ]
            far = along_axes(brain[b : b + 1], sides)[0] < 0.02
            image[b][far] = p.blank[b].to(device)
    image = torch.where(covered, image, torch.zeros((), device=device))
    return image[:, None], brain[:, None].contiguous(), covered[:, None].float()
