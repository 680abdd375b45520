"""A bank of lesions found in scans: their shapes, and how they differ from the tissue around them.

Each connected part of a lesion mask is a lesion. Its shape is a blob like those made by hand. Its texture is
normalised by the tissue around it, so that it can be painted in any contrast. Putting found lesions into the
images to learn from: Hu et al., CVPR 2023, arXiv 2303.14869.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from ..configuration import LesionBankConfig, MaskGridConfig
from ..errors import InputError
from ..io.images import volume
from ..io.images.masks import check_grid
from ..space.distance import signed_distance
from ..space.grid import Box, Grid, voxel_sizes, voxel_volume_ml
from ..space.metrics import volume_ml
from ..space.morphology import bounding_box
from ..space.resample import block_mean, conform
from ..space.scan import Scan
from .blobs import Blob, Place
from .streams import whole_number

log = logging.getLogger(__name__)

MAD_PER_DEVIATION = 0.6745  # of a normal distribution: the median absolute deviation over the standard deviation


@dataclass(frozen=True, eq=False)
class FoundLesion:
    """A lesion of a scan, on a grid around the middle of its bounding box.

    radius_mm: of a ball of its volume. uneven: [1, 1, z, y, x], the distance of `distance_in_radii` less that
    of the ball: at the lesion's deepest voxel the sum is 0. texture: [1, 1, z, y, x], intensity less that of the
    tissue around, in standard deviations of that tissue; beyond the lesion that of the nearest voxel in it. reach:
    [3], radii from the middle to the outermost voxels along x, y and z.
    """

    radius_mm: float
    uneven: torch.Tensor
    texture: torch.Tensor
    reach: torch.Tensor

    def blob(self, place: Place, to_unit: torch.Tensor) -> Blob:
        """The blob of this shape. to_unit: [3, 3], see `Blob`; of size 1 / `radius_mm` to keep the volume."""
        return Blob(place, to_unit, None, 1.0, self.uneven, self.reach)


@dataclass(frozen=True, eq=False)
class LesionBank:
    """Lesions of scans, one at least."""

    lesions: tuple[FoundLesion, ...]

    def draw(self, generator: torch.Generator) -> FoundLesion:
        """One of the lesions, each as likely as any other."""
        return self.lesions[whole_number(generator, 0, len(self.lesions) - 1)]


def read_lesion_bank(
    pairs: Sequence[tuple[Path, Path]],
    scale: float = 1.0,
    grids: MaskGridConfig = MaskGridConfig(),
    config: LesionBankConfig = LesionBankConfig(),
) -> LesionBank:
    """The bank of the lesions of scans: pairs of the files of an image and of its lesion mask.

    All values of a mask but 0 are lesion. scale: size of the anatomy over that of an adult human head. grids: how
    far the grid of a mask may lie from that of its image. Logs a warning for a scan without lesions. Raises
    InputError for a file that cannot be used, and if no scan has a lesion.
    """
    lesions: list[FoundLesion] = []
    for image_path, mask_path in pairs:
        image, mask = volume.read_single(image_path), volume.read_single(mask_path)
        image.check_not_overflowed()
        check_grid(mask, image, grids)
        values = mask.scaled()
        is_lesion = Scan(np.isfinite(values) & (values != 0), image.vox2world)
        of_scan = find_lesions(image.scaled(), is_lesion, scale, config)
        if not of_scan:
            log.warning("%s: no lesion of %.3g ml or more", mask_path, config.least_ml * scale**3)
        lesions += of_scan
    if not lesions:
        raise InputError(
            f"none of the lesion masks has a lesion of {config.least_ml * scale**3:.3g} ml or more; name scans "
            "with lesions"
        )
    return LesionBank(tuple(lesions))


def find_lesions(
    image: np.ndarray, mask: Scan, scale: float = 1.0, config: LesionBankConfig = LesionBankConfig()
) -> list[FoundLesion]:
    """The lesions of an image [X, Y, Z]: the 6-connected components of a boolean mask on its grid.

    scale: size of the anatomy over that of an adult human head. Components of less than `config.least_ml`, and
    those of which nothing is left at `config.voxel_size_mm`, are left out.
    """
    components, _ = ndimage.label(mask.array)
    least = config.least_ml * scale**3 / voxel_volume_ml(mask.vox2world)
    lesions = []
    for number, box in enumerate(ndimage.find_objects(components), start=1):
        if np.count_nonzero(components[box] == number) >= least:
            around = _box_with_margin(box, mask.grid, config.around_mm[1] * scale)
            component = Scan(components[around] == number, mask.grid.part(around).vox2world)
            texture = _relative_intensity(image[around], mask.array[around], component, scale, config)
            lesions.append(_conformed_lesion(component, texture, scale, config))
    return [lesion for lesion in lesions if lesion is not None]


def _box_with_margin(box: Box, grid: Grid, margin_mm: float) -> Box:
    """A box of a grid with so much more on each side, as far as the grid goes."""
    margins = np.ceil(margin_mm / grid.voxel_sizes_mm).astype(int)
    return tuple(
        slice(max(side.start - margin, 0), min(side.stop + margin, size))
        for side, margin, size in zip(box, margins.tolist(), grid.shape, strict=True)
    )


def _relative_intensity(
    image: np.ndarray, lesions: np.ndarray, component: Scan, scale: float, config: LesionBankConfig
) -> np.ndarray:
    """Intensities [X, Y, Z] less the median around a component, in standard deviations of what is around.

    lesions: boolean, all lesions of the scan. Voxels of 0 are no tissue: images of the brain alone have them.
    The deviation is a robust one. All is 0 if there is no tissue around, or if it does not vary.
    """
    low_mm, high_mm = (mm * scale for mm in config.around_mm)
    sampling = voxel_sizes(component.vox2world)
    to_component_mm, to_lesion_mm = (
        ndimage.distance_transform_edt(~mask, sampling) for mask in (component.array, lesions)
    )
    is_tissue = np.isfinite(image) & (image != 0)
    around = image[is_tissue & (to_lesion_mm >= low_mm) & (to_component_mm <= high_mm)].astype(np.float64)
    middle = float(np.median(around)) if around.size else 0.0
    deviation = float(np.median(np.abs(around - middle))) / MAD_PER_DEVIATION if around.size else 0.0
    if deviation == 0:
        return np.zeros(image.shape, dtype=np.float32)
    relative = (np.where(np.isfinite(image), image, middle) - middle) / deviation
    return relative.clip(-config.most, config.most).astype(np.float32)


def _conformed_lesion(
    component: Scan, texture: np.ndarray, scale: float, config: LesionBankConfig
) -> FoundLesion | None:
    """The lesion of a component with its texture [X, Y, Z], on a conformed grid; None if nothing is left."""
    spacing_mm = config.voxel_size_mm * scale
    box = bounding_box(component.array)
    assert box is not None, "a component has a voxel"
    low_mm, high_mm = component.grid.part(box).bounds_mm()
    half = np.ceil((high_mm - low_mm) / 2 / spacing_mm).astype(int) + 1
    grid = Grid.conformed((low_mm + high_mm) / 2, tuple((2 * half + 1).tolist()), spacing_mm)
    share = conform(block_mean(component, spacing_mm), grid)
    inside = share > 0.5
    if not inside.any():
        return None
    values = conform(block_mean(Scan(texture, component.vox2world), spacing_mm), grid)
    nearest = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    volume_mm3 = 1000 * volume_ml(component.array, component.vox2world)
    radius_mm = (3 / (4 * math.pi) * volume_mm3) ** (1 / 3)
    distance_mm = signed_distance(share - 0.5, inside, grid.vox2world)
    distance = 1 + distance_mm / np.where(inside, -distance_mm.min(), radius_mm)
    to_middle = np.linalg.norm(np.moveaxis(np.indices(grid.shape), 0, -1) - half, axis=-1) * spacing_mm / radius_mm
    return FoundLesion(
        radius_mm,
        _as_field(distance - to_middle),
        _as_field(values[tuple(nearest)]),
        torch.tensor(half * spacing_mm / radius_mm, dtype=torch.float32),
    )


def _as_field(values: np.ndarray) -> torch.Tensor:
    """Values [X, Y, Z] as a field [1, 1, Z, Y, X] of a blob."""
    return torch.from_numpy(np.ascontiguousarray(values.T, dtype=np.float32))[None, None]
