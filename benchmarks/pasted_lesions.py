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
GAP_MM = 6.0  # a cavity's fluid lies up to so far above the brain


@dataclass(frozen=True)
class Pasted:
    """A scan with a lesion: image [X, Y, Z]; lesion: boolean, part of the brain."""

    image: np.ndarray
    lesion: np.ndarray


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
    depth = ndimage.distance_transform_edt(brain, sampling=sizes)
    middle = _middle(depth, vox2world, kind, radius_mm, rng)
    field = _walk_field(image.shape, middle, sizes, radius_mm, rng)
    lesion = _largest(field, brain, volume_ml * 1000 / sizes.prod())
    values = image[brain]
    grain = np.roll(image - ndimage.gaussian_filter(image, 3 / sizes), rng.integers(5, 25, 3), (0, 1, 2))
    grain = np.clip(grain, *np.percentile(grain[brain], (5, 95))) * 0.5
    pasted = image.astype(np.float32).copy()

    def level(percent: float) -> float:
        return float(np.percentile(values, min(percent, 99.5))) * (1.15 if percent >= 100 else 1)

    if kind in ("inside", "border"):
        levels = {part: level(rng.choice(TUMOURS[contrast][part])) for part in ("oedema", "rim", "core")}
        wide = _largest(field, brain, 1.8 * lesion.sum())
        core = _largest(field, brain, rng.uniform(0.3, 0.7) * lesion.sum())
        for part, where, opacity in (("oedema", wide, 0.6), ("rim", lesion, 0.9), ("core", core, 0.95)):
            _blend(pasted, where, levels[part] + grain, opacity, sizes)
        return Pasted(pasted, lesion)
    fluid = level(FLUID[contrast])
    away = ndimage.distance_transform_edt(~brain, sampling=sizes)
    from_lesion = ndimage.distance_transform_edt(~lesion, sampling=sizes)
    gap = ~brain & (away < GAP_MM) & (from_lesion < GAP_MM)
    _blend(pasted, lesion | gap, fluid + 0.3 * grain, 1.0, sizes)
    if kind == "craniotomy":
        above = ~brain & (from_lesion < SWOLLEN_MM) & (away > 0.7 * from_lesion)
        muscle = float(np.median(values)) * 0.7
        _blend(pasted, above & (away > BONE_MM[0]) & (away < BONE_MM[1]), muscle + grain, 0.9, sizes)
        _blend(pasted, above & (away >= BONE_MM[1]), fluid + 0.3 * grain, 0.8, sizes)
        edge = np.argwhere(~brain & (away < BONE_MM[1]) & (away > BONE_MM[0]) & (np.abs(from_lesion - 12) < 3))
        for clip in edge[rng.integers(0, len(edge), 2)] if len(edge) else ():
            pasted *= 1 - np.exp(-_squares_mm(image.shape, clip, sizes) / (2 * 3.0**2))
    return Pasted(pasted, lesion)


def _middle(
    depth: np.ndarray, vox2world: np.ndarray, kind: str, radius_mm: float, rng: np.random.Generator
) -> np.ndarray:
    """Voxel [3] in the middle of a lesion: deep in the brain, or just below its surface but not at its base."""
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


def _blend(image: np.ndarray, where: np.ndarray, values: np.ndarray, opacity: float, sizes: np.ndarray) -> None:
    """Paint values [X, Y, Z] where a boolean mask is True, with soft edges of about 1 mm, in place."""
    share = opacity * ndimage.gaussian_filter(where.astype(np.float32), 0.7 / sizes)
    image += share * (np.maximum(values, 0) - image)
