"""Lesions for testing, pasted into real scans: made otherwise than those of the synthesis.

A lesion is a sum of Gaussians along a random walk, cut where it has its volume. Those of the synthesis are
uneven ellipsoids and polyhedra. The intensities are percentiles of the brain in the scan, by contrast, and the
grain is that of the scan elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from singlestrip.space.grid import voxel_sizes
from singlestrip.space.morphology import bounding_box

KINDS = ("inside", "border", "cavity", "craniotomy")
WALK = 12  # Gaussians of a lesion
# Percentiles of the brain: of fluid, and of the rim, core and oedema of tumours. Values above 100 go on beyond it.
FLUID = {"T1w": 2, "T2w": 99, "FLAIR": 2}
TUMOURS = {
    "T1w": {"rim": (15, 98, 100), "core": (3, 10, 60), "oedema": (25, 30, 35)},
    "T2w": {"rim": (10, 60, 90), "core": (98, 100, 3), "oedema": (88, 92, 96)},
    "FLAIR": {"rim": (90, 99, 100), "core": (5, 60, 100), "oedema": (93, 96, 99)},
}
BONE_MM = (2.0, 12.0)  # distances to the brain between which a craniotomy replaces bone and scalp
SWOLLEN_MM = 20.0  # up to this distance fluid lies below the scalp
CLIP_MM = 3.0  # standard deviation of the void around a clip
NEAR_MM = 10.0
GAP_MM = 6.0  # a cavity's fluid lies up to so far above the brain


@dataclass(frozen=True)
class Pasted:
    """A scan with a lesion: image [X, Y, Z]; lesion: boolean, part of the brain; near: all within 10 mm of it."""

    image: np.ndarray
    lesion: np.ndarray
    near: np.ndarray


def paste(
    image: np.ndarray,
    brain: np.ndarray,
    vox2world: np.ndarray,
    contrast: str,
    kind: str,
    volume_ml: float,
    seed: int,
) -> Pasted:
    """A scan [X, Y, Z] with a lesion in its brain, a boolean mask [X, Y, Z].

    contrast: "T1w", "T2w" or "FLAIR". kind: one of KINDS: a tumour inside or at the border; a cavity of fluid open
    to the border; such a cavity below a hole in the bone, with fluid under the scalp and two clips.
    """
    rng = np.random.default_rng(seed)
    sizes = voxel_sizes(vox2world)
    radius_mm = (volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    middle = _middle(brain, vox2world, kind, radius_mm, rng)
    reach = np.ceil((3 * radius_mm + SWOLLEN_MM) / sizes).astype(int)
    box = tuple(slice(max(m - r, 0), m + r + 1) for m, r in zip(middle, reach, strict=True))
    middle = middle - [part.start for part in box]
    values = image[brain]
    levels = {
        part: _level(values, rng.choice(choices))
        for part, choices in (TUMOURS[contrast] | {"fluid": [FLUID[contrast]]}).items()
    }
    pasted = image.astype(np.float32)
    lesion, near = np.zeros_like(brain), np.zeros_like(brain)
    scene = _Scene(pasted[box], brain[box], sizes, levels, rng)
    lesion[box] = scene.add(kind, middle, radius_mm, volume_ml, float(np.median(values)))
    near[box] = ndimage.distance_transform_edt(~lesion[box], sampling=sizes) <= NEAR_MM
    return Pasted(pasted, lesion, near)


def _level(values: np.ndarray, percent: float) -> float:
    """A percentile of values; 100 means a little more than nearly all of them."""
    return float(np.percentile(values, min(percent, 99.5))) * (1.15 if percent >= 100 else 1)


@dataclass(frozen=True)
class _Scene:
    """The part of a scan around a lesion: image [X, Y, Z], painted in place. levels: intensities of the lesion."""

    image: np.ndarray
    brain: np.ndarray
    sizes: np.ndarray
    levels: dict[str, float]
    rng: np.random.Generator

    def add(self, kind: str, middle: np.ndarray, radius_mm: float, volume_ml: float, median: float) -> np.ndarray:
        """Paint a lesion; returns where it is, boolean [X, Y, Z]. median: intensity of the brain."""
        rng, brain, sizes, levels = self.rng, self.brain, self.sizes, self.levels
        field = _walk_field(brain.shape, middle, sizes, radius_mm, rng)
        lesion = _largest(field, brain, volume_ml * 1000 / sizes.prod())
        grain = np.roll(
            self.image - ndimage.gaussian_filter(self.image, 3 / sizes), rng.integers(3, 9, 3), (0, 1, 2)
        )
        grain = np.clip(grain, *np.percentile(grain[brain], (5, 95))) * 0.5
        if kind in ("inside", "border"):
            wide = _largest(field, brain, 1.8 * lesion.sum())
            core = _largest(field, brain, rng.uniform(0.3, 0.7) * lesion.sum())
            for part, where, opacity in (("oedema", wide, 0.6), ("rim", lesion, 0.9), ("core", core, 0.95)):
                self.blend(where, levels[part] + grain, opacity)
            return lesion
        away, from_lesion = (ndimage.distance_transform_edt(~each, sampling=sizes) for each in (brain, lesion))
        gap = ~brain & (away < GAP_MM) & (from_lesion < GAP_MM)
        self.blend(lesion | gap, levels["fluid"] + 0.3 * grain, 1.0)
        if kind == "craniotomy":
            above = ~brain & (from_lesion < SWOLLEN_MM) & (away > 0.7 * from_lesion)
            self.blend(above & (away > BONE_MM[0]) & (away < BONE_MM[1]), 0.7 * median + grain, 0.9)
            self.blend(above & (away >= BONE_MM[1]), levels["fluid"] + 0.3 * grain, 0.8)
            edge = ~brain & (away < BONE_MM[1]) & (away > BONE_MM[0]) & (np.abs(from_lesion - 12) < 3)
            places = np.argwhere(edge)
            for clip in places[rng.integers(0, len(places), 2)]:
                self.image[...] *= 1 - np.exp(-_squares_mm(brain.shape, clip, sizes) / (2 * CLIP_MM**2))
        return lesion

    def blend(self, where: np.ndarray, values: np.ndarray, opacity: float) -> None:
        """Paint values [X, Y, Z] where a boolean mask is True, with soft edges of about 1 mm."""
        share = opacity * ndimage.gaussian_filter(where.astype(np.float32), 0.7 / self.sizes)
        self.image[...] += share * (np.maximum(values, 0) - self.image)


def _middle(
    brain: np.ndarray, vox2world: np.ndarray, kind: str, radius_mm: float, rng: np.random.Generator
) -> np.ndarray:
    """Voxel [3] in the middle of a lesion: deep in the brain, or just below its surface but not at its base."""
    depth = np.zeros(brain.shape, dtype=np.float32)
    box = bounding_box(brain)
    padded = np.pad(brain[box], 1)
    depth[box] = ndimage.distance_transform_edt(padded, sampling=voxel_sizes(vox2world))[1:-1, 1:-1, 1:-1]
    if kind == "inside":
        candidates = np.argwhere(depth > min(1.1 * radius_mm, 0.8 * depth.max()))
    else:
        candidates = np.argwhere((depth > 0) & (depth < 0.4 * radius_mm))
        heights = candidates @ vox2world[2, :3]
        low, high = np.percentile(heights, (30, 100))
        candidates = candidates[(heights > low) & (heights <= high)]
    return candidates[rng.integers(len(candidates))]


def _squares_mm(shape: tuple[int, ...], middle: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[X, Y, Z] squared distance in mm from a voxel."""
    axes = [((np.arange(n) - m) * size) ** 2 for n, m, size in zip(shape, middle, sizes, strict=True)]
    return axes[0][:, None, None] + axes[1][:, None] + axes[2]


def _walk_field(
    shape: tuple[int, ...], middle: np.ndarray, sizes: np.ndarray, radius_mm: float, rng: np.random.Generator
) -> np.ndarray:
    """[X, Y, Z] sum of Gaussians along a random walk from a voxel."""
    field = np.zeros(shape)
    at = middle.astype(float)
    for _ in range(WALK):
        width_mm = radius_mm * rng.uniform(0.25, 0.55)
        field += np.exp(-_squares_mm(shape, at, sizes) / (2 * width_mm**2))
        at = middle + (at - middle) * 0.8 + rng.standard_normal(3) * 0.4 * radius_mm / sizes
    return field


def _largest(field: np.ndarray, brain: np.ndarray, voxels: float) -> np.ndarray:
    """So many voxels of the brain where the field is the greatest, boolean [X, Y, Z]."""
    values = field[brain]
    level = np.partition(values, -int(voxels))[-int(voxels)]
    return brain & (field >= level)
