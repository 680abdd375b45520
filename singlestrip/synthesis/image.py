"""Label map to random image and brain mask: what the network learns from.

`parameters` draws what is random; `synthesise` applies it, on any device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from ..configuration import Window
from ..networks.normalisation import normalise
from .fields import along_axes, enlarge, integrate, profile_matrices, slice_matrix
from .gmm import is_inside
from .parameters import SynthParameters


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
                    slice_matrix(n, window.voxel_size_mm, float(s), float(o)) if hit else torch.eye(n)
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
