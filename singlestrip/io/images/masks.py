"""Reads mask files: decides which voxels are brain, and checks the grid against that of an image.

A mask has one value in the brain, is soft (such as probabilities), or is an image of the brain alone.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from scipy import ndimage

from ...configuration import MaskGridConfig
from ...errors import GridError, InputError, errors_named
from ...space.grid import corners_apart
from ...space.morphology import bounding_box
from . import volume
from .header import ImageHeader
from .volume import Volume

log = logging.getLogger(__name__)

NEGATIVE_SHARE = 0.25  # of the maximum: a mask has no values so far below 0, except for overshoot
OVERSHOOT = 0.5  # of a mask's level: cubic splines in 3-D go so far below 0 at its border; 0.44 was measured
FEW_VALUES = 10  # different whole numbers: a label map may have so few, a soft mask has more
EQUAL_SHARE = 0.7  # of pairs of neighbours with equal values: 0.85 and more in label maps, up to 0.5 in soft masks
# The numbers for soft masks and for stripped images were measured on sharp and very smooth masks of human brains,
# and on T1w, T2w and FLAIR images: as they are, smoothed, and with the brightest 2 % cut off.
LEVEL = 0.9  # of the maximum: voxels from here on are certainly brain
# Share of the voxels above LEVEL among those above half the maximum. From SHARP_SHARE on the file is a soft mask;
# stripped images have 0.2 at most. From SMOOTH_SHARE on it is one if it also has no holes; stripped images have.
SHARP_SHARE = 0.5
SMOOTH_SHARE = 0.05
INNER_SHARE = (
    0.05  # of the voxels above 1 % of the maximum, those above half: with fewer only some voxels are bright
)
RAGGED_SHARE = (
    0.03  # of a part, its holes and separate pieces: 0 in smooth masks, 0.05 and more in stripped images
)
FAINT = 0.1  # of the maximum: lower values belong to the edge or to the background
# If the edge fades out, values beside the background are low against those inside. Measured: 0.13 at most in
# smoothed masks and smoothed stripped images; in stripped images with a sharp edge 0.5 and more, resampled 0.18.
FADING = 0.15  # of the level inside
FADING_QUANTILE = 0.75  # of the values beside the background
FADING_CUT = 0.4  # of the level inside; half would suit a mask, but loses the dark rim of a T1w image
STRAY = 2.0  # values above this many times the 99.9th percentile are stray
FULL = 0.9  # share of an image: if more is above 0, the values do not show where the brain ends


def read_masks(path: Path) -> tuple[Volume, np.ndarray]:
    """A mask file and its brain, boolean [X, Y, Z, T]; see `brain_voxels`. Raises InputError.

    Logs a warning if the file is no plain mask but is taken for one.
    """
    file = volume.read(path)
    return file, _brain_of(file)


def read_mask(path: Path) -> tuple[Volume, np.ndarray]:
    """A mask file of one frame and its brain, boolean [X, Y, Z]; otherwise as `read_masks`."""
    file = volume.read_single(path)
    return file, _brain_of(file)[..., 0]


def _brain_of(file: Volume) -> np.ndarray:
    """The brain in a mask file, boolean [X, Y, Z, T]."""
    values = [file.scaled(t) for t in range(file.frames)]
    with errors_named(file.path):
        brain, remark = brain_voxels(values[0][..., None] if len(values) == 1 else np.stack(values, -1))
    if remark:
        log.warning("%s: %s", file.path, remark)
    return brain


def read_mask_on(path: Path, image: ImageHeader, grids: MaskGridConfig = MaskGridConfig()) -> np.ndarray:
    """A mask file, boolean [X, Y, Z], on the grid of an image. Raises InputError if it lies on another."""
    file, mask = read_mask(path)
    check_grid(file, image, grids)
    return mask


def read_masks_on(
    path: Path, image: ImageHeader, frames: int, grids: MaskGridConfig = MaskGridConfig()
) -> np.ndarray:
    """A mask file, boolean [X, Y, Z, T], on the grid of an image or of another mask, with `frames` frames or one.

    Raises InputError if it lies on another grid or has another number of frames.
    """
    file, masks = read_masks(path)
    check_grid(file, image, grids)
    if file.frames not in (1, frames):
        raise InputError(f"{path}: has {file.frames} frames; give one, or as many as the mask: {frames}")
    return masks


def check_grid(
    mask: ImageHeader,
    image: ImageHeader,
    grids: MaskGridConfig = MaskGridConfig(),
    advice: str = "resample the mask to it",
) -> None:
    """Check that the voxels of a mask can be taken for those of an image, whose geometry then counts.

    Logs a warning if the geometry of the mask differs and does not count. Raises InputError, which ends with
    `advice`, if the shape is another; GridError if the shape is the same, but the grid lies further aside than
    `grids` allows.
    """
    fault = f"{mask.path}: not on the grid of {image.path}"
    if mask.space != image.space:
        shapes = [" × ".join(map(str, header.space)) for header in (mask, image)]
        raise InputError(f"{fault}: its shape is {shapes[0]}, not {shapes[1]}; {advice}")
    apart_mm, apart_voxels = corners_apart(mask.grid, image.grid)
    rounded, near = apart_mm < grids.rounding_mm, apart_voxels <= grids.share
    if rounded and near:
        return
    difference = f"up to {apart_mm:.3g} mm ({apart_voxels:.3g} voxels)"
    if rounded or near:
        log.warning("%s: lies %s beside %s, whose geometry counts", mask.path, difference, image.path)
        return
    codes = [header.grid.axis_codes() for header in (mask, image)]
    turned = f", with axes to {codes[0]}, not {codes[1]}" if codes[0] != codes[1] else ""
    if not grids.trust_voxels:
        raise GridError(
            f"{fault}: of the same shape, but {difference} aside{turned}; {advice}, or trust the voxels of the "
            "mask if only its header is wrong"
        )
    log.warning(
        "%s: its header puts it %s beside %s%s; its voxels are taken for those of that image",
        mask.path,
        difference,
        image.path,
        turned,
    )


def brain_voxels(values: np.ndarray) -> tuple[np.ndarray, str]:
    """The brain in a mask, boolean with the shape of `values`, and a remark on what is unusual, or "".

    values: [X, Y, Z] or [X, Y, Z, T], scaled. Voxels that are not finite are background.

    - One value above 0: all voxels with it are brain.
    - Several values that reach a level or rise smoothly: a soft mask, such as probabilities. Brain from half the
      maximum on; if a spline has overshot the level, from half the level on.
    - Other values, with an edge that fades out: an uneven soft mask, or a smoothed image of the brain alone. Brain
      from 0.4 of the level inside on.
    - Other values: an image of the brain alone, such as FreeSurfer's brainmask.mgz. All voxels above 0 are brain.

    Raises InputError for a label map, because its labels may name tissue outside the brain too; for values far
    below 0, as in a signed distance; for an image without background.
    """
    finite = np.isfinite(values)
    bad = values.size - int(np.count_nonzero(finite))
    remarks = [f"{bad} voxels are not finite and count as background"] if bad else []
    low = float(np.min(values, initial=0, where=finite))
    high = float(np.max(values, initial=0, where=finite))
    top = _maximum_without_strays(values[finite & (values > 0)], high)
    level = _overshot_level(values[finite & (values >= top / 2)], low) if low < 0 < high else None
    if level is None and low < -NEGATIVE_SHARE * top:
        raise InputError(
            f"values from {low:g} to {high:g}; a mask has 0 outside the brain and one value above 0 inside "
            "(a signed distance is no mask)"
        )
    positive = finite & (values > 0)
    if np.array_equal(positive, values == high) or high == 0:
        return positive, "; ".join(remarks)
    count = len(np.unique(values[positive]))
    if _is_label_map(values, positive, count, high):
        raise InputError(
            f"{count} different whole numbers up to {high:g}: a label map; make a mask of it in which all labels "
            "of the brain are 1 and all else is 0"
        )
    many = f"{count} values between 0 and {high:g}"
    soft = level is not None or _is_soft(values, positive, top)
    least = FAINT * top if soft else 0.0
    share = np.mean(positive & (values >= least))
    if share > FULL:
        raise InputError(
            f"{many}, {_from(least)} in {100 * share:.0f} % of the voxels: an image rather than a mask"
        )
    if soft:
        cut, kind = (level or top) / 2, "a soft mask"
    elif level := _fading_level(values, positive, top):
        cut, kind = level * FADING_CUT, "a soft mask or a brain whose edge fades out"
    else:
        cut, kind = 0.0, "an image of the brain alone"
    remarks.append(f"{many}: taken as {kind}, brain {'' if cut else 'wherever '}{_from(cut)}")
    return positive & (values >= cut), "; ".join(remarks)


def _from(cut: float) -> str:
    """The range of values from `cut` on, in words."""
    return f"from {cut:g} on" if cut else "above 0"


def _maximum_without_strays(positive: np.ndarray, high: float) -> float:
    """The maximum of values above 0; if it is far above their 99.9th percentile, that percentile.

    high: the maximum.
    """
    if not len(positive):
        return high
    common = float(np.percentile(positive, 99.9, method="lower"))
    return common if high > STRAY * common else high


def _fading_level(values: np.ndarray, positive: np.ndarray, top: float) -> float | None:
    """The level inside, if the values above 0 fade out at their edge; otherwise None."""
    level = float(np.median(values[positive & (values >= FAINT * top)]))
    cross = ndimage.generate_binary_structure(3, 1).reshape(3, 3, 3, *[1] * (values.ndim - 3))
    shell = values[positive & ~ndimage.binary_erosion(positive, cross, border_value=1)]
    return level if len(shell) and np.quantile(shell, FADING_QUANTILE) < FADING * level else None


def _is_label_map(values: np.ndarray, positive: np.ndarray, count: int, high: float) -> bool:
    """Whether values are whole numbers, and either few different ones or mostly equal to their neighbours."""
    numbers = values[positive]
    if not np.array_equal(numbers, np.round(numbers)):
        return False
    if count <= FEW_VALUES:
        return True
    edge = positive & (values < LEVEL * high)
    # Probabilities that are low but not 0 are equal all over the background.
    above = edge & (values >= FAINT * high)
    return _equal_neighbours(values, above if above.any() else edge) > EQUAL_SHARE


def _overshot_level(upper: np.ndarray, low: float) -> float | None:
    """The level inside a mask that a spline has resampled; None if the values are not of such a mask.

    Most of the values from half the maximum on, `upper`, lie near the level, and the minimum of all, `low`, is
    negative as an overshoot is.
    """
    level = float(np.median(upper))
    near = np.count_nonzero(np.abs(upper - level) <= (1 - LEVEL) * level)
    return level if near >= SHARP_SHARE * len(upper) and low >= -OVERSHOOT * level else None


def _is_soft(values: np.ndarray, positive: np.ndarray, high: float) -> bool:
    """Whether the values rise from the edge inwards to their maximum, `high`, as those of a soft mask do."""
    inner = positive & (values >= high / 2)
    if np.count_nonzero(inner) < INNER_SHARE * np.count_nonzero(positive & (values >= high / 100)):
        return False
    share = np.count_nonzero(inner & (values >= LEVEL * high)) / np.count_nonzero(inner)
    if share >= SHARP_SHARE:
        return True
    return bool(share >= SMOOTH_SHARE) and all(
        _ragged_share(inner & (values >= level * high)) <= RAGGED_SHARE for level in (0.5, 0.75, LEVEL)
    )


def _ragged_share(part: np.ndarray) -> float:
    """The voxels in holes or outside the largest component of each frame, as a share of all voxels of a part.

    part: boolean [X, Y, Z] or [X, Y, Z, T].
    """
    ragged = 0
    for frame in np.moveaxis(part.reshape(*part.shape[:3], -1), 3, 0):
        box = bounding_box(frame)
        if box is None:
            continue
        frame = np.pad(frame[box], 1)
        components = ndimage.label(frame)[0]
        largest = components == 1 + np.bincount(components.ravel())[1:].argmax()
        background = ndimage.label(~largest)[0]
        ragged += int(np.count_nonzero(frame ^ (background != background[0, 0, 0])))
    return ragged / np.count_nonzero(part)


def _equal_neighbours(values: np.ndarray, among: np.ndarray) -> float:
    """The share of pairs of 6-neighbours, both in `among`, that have equal values."""
    pairs = equal = 0
    for axis in range(3):
        ends = [(slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None))]
        both = among[ends[0]] & among[ends[1]]
        pairs += int(np.count_nonzero(both))
        equal += int(np.count_nonzero(both & (values[ends[0]] == values[ends[1]])))
    return equal / pairs if pairs else 0.0
