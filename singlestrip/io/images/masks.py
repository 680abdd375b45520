"""Mask files: which of their voxels are brain, and whether they lie on the grid of an image.

A mask has one value in the brain, is soft, or is an image of the brain alone.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from scipy import ndimage

from ...errors import InputError
from ...space.morphology import bounding_box
from . import volume
from .volume import Volume

log = logging.getLogger(__name__)

NEGATIVE_SHARE = 0.25  # of the maximum, so far below 0 what is no overshoot is no mask
OVERSHOOT = 0.5  # of the level of a mask: what cubic splines in 3-D go below 0 at its border; 0.44 measured
FEW_VALUES = 10  # whole numbers: fewer than a soft mask has, which holds nearly all up to its maximum
EQUAL_SHARE = 0.7  # of neighbours with one value: measured 0.85 and more in label maps, up to 0.5 in soft masks
# What is said of soft masks and of stripped images is measured: sharp and very smooth ones of human brains, and
# T1w, T2w and FLAIR, as they are, smoothed, and with their brightest 2 % cut off.
LEVEL = 0.9  # of the maximum: from here on voxels are as certainly brain as any
SHARP_SHARE = (
    0.5  # of the voxels from half the maximum on, so many there: a soft mask; 0.2 at most in stripped images
)
SMOOTH_SHARE = 0.05  # with fewer, also from half the maximum on one part without holes: stripped images have holes
INNER_SHARE = (
    0.05  # of the voxels from 1 % of the maximum on, so many from half of it on: not some bright voxels alone
)
RAGGED_SHARE = 0.03  # of a part: holes, and pieces aside; 0 in smooth masks, from 0.05 on in stripped images
FAINT = 0.1  # of the maximum: what is below is of the edge, or of nothing
# Where the edge fades out, values beside 0 are small against those inside. Measured: in smoothed masks and
# smoothed stripped images 0.13 at most; in stripped images with a sharp edge 0.5 and more, 0.18 if resampled.
FADING = 0.15  # of the level inside
FADING_QUANTILE = 0.75  # of what is beside 0
FADING_CUT = 0.4  # of the level: half would be right for a mask, and loses the dark rim of a T1w
STRAY = 2.0  # times all but a thousandth of the values: what is above are stray voxels
FULL = 0.9  # share of an image: what is above 0 in more of it does not tell where the brain ends


def read_masks(path: Path) -> tuple[Volume, np.ndarray]:
    """A mask file and its brain, boolean [X, Y, Z, T]; see `brain_voxels`. Raises InputError.

    A warning is logged where the file is no plain mask but can be taken for one.
    """
    file = volume.read(path)
    return file, _brain_of(file)


def read_mask(path: Path) -> tuple[Volume, np.ndarray]:
    """A mask file of one frame and its brain, boolean [X, Y, Z]; else as `read_masks`."""
    file = volume.read_single(path)
    return file, _brain_of(file)[..., 0]


def _brain_of(file: Volume) -> np.ndarray:
    """The brain in a mask file, boolean [X, Y, Z, T]."""
    values = [file.scaled(t) for t in range(file.frames)]
    try:
        brain, unusual = brain_voxels(values[0][..., None] if len(values) == 1 else np.stack(values, -1))
    except InputError as error:
        raise InputError(f"{file.path}: {error}") from error
    if unusual:
        log.warning("%s: %s", file.path, unusual)
    return brain


def read_mask_on(path: Path, image: Volume) -> np.ndarray:
    """A mask file, boolean [X, Y, Z], on the grid of an image. Raises InputError if it lies on another."""
    file, mask = read_mask(path)
    check_grid(file, image, "resample the mask to it")
    return mask


def read_masks_on(path: Path, other: Volume) -> np.ndarray:
    """A mask file, boolean [X, Y, Z, T], on the grid of another, with as many frames or one. Raises InputError."""
    file, masks = read_masks(path)
    check_grid(file, other, "resample the mask to it")
    if file.frames not in (1, other.frames):
        raise InputError(f"{path}: has {file.frames} frames; give one, or as many as {other.path}: {other.frames}")
    return masks


def check_grid(file: Volume, other: Volume, advice: str) -> None:
    """Raise InputError, with advice, unless one file lies on the grid of another."""
    difference = volume.grid_difference(file, other)
    if difference:
        raise InputError(f"{file.path}: not on the grid of {other.path}: {difference}; {advice}")


def brain_voxels(values: np.ndarray) -> tuple[np.ndarray, str]:
    """The brain in the values of a mask, boolean of their shape, and what is unusual in them, or "".

    values: [X, Y, Z] or [X, Y, Z, T], scaled. Voxels that are not finite are background.

    - One value above 0: brain wherever it is.
    - More values that rise to a level, or smoothly: a soft mask, such as probabilities. Brain from half the
      maximum on, or of the level, where a spline has overshot it.
    - Others, whose edge fades out: a soft mask of uneven values, or a smoothed image of the brain alone. Brain
      from 0.4 of the level inside on.
    - Others: an image of the brain alone, such as FreeSurfer's brainmask.mgz. Brain wherever above 0.

    Raises InputError for a label map, whose numbers are names and may be of tissue outside the brain too; for
    values far below 0, as in a signed distance; for an image without background.
    """
    finite = np.isfinite(values)
    bad = values.size - int(np.count_nonzero(finite))
    said = [f"{bad} voxels are not finite and count as background"] if bad else []
    low = float(np.min(values, initial=0, where=finite))
    high = float(np.max(values, initial=0, where=finite))
    top = _top_but_strays(values[finite & (values > 0)], high)
    level = _overshot_level(values[finite & (values >= top / 2)], low) if low < 0 < high else None
    if level is None and low < -NEGATIVE_SHARE * top:
        raise InputError(
            f"values from {low:g} to {high:g}; a mask has 0 outside the brain and one value above 0 inside "
            "(a signed distance is no mask)"
        )
    positive = finite & (values > 0)
    if np.array_equal(positive, values == high) or high == 0:
        return positive, "; ".join(said)
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
    said.append(f"{many}: taken as {kind}, brain {'' if cut else 'wherever '}{_from(cut)}")
    return positive & (values >= cut), "; ".join(said)


def _from(cut: float) -> str:
    return f"from {cut:g} on" if cut else "above 0"


def _top_but_strays(positive: np.ndarray, high: float) -> float:
    """The maximum, `high`, of the values above 0; if it is far above nearly all, what these reach."""
    if not len(positive):
        return high
    common = float(np.percentile(positive, 99.9, method="lower"))
    return common if high > STRAY * common else high


def _fading_level(values: np.ndarray, positive: np.ndarray, top: float) -> float | None:
    """The level inside, if what is above 0 fades out towards what is not; else None."""
    level = float(np.median(values[positive & (values >= FAINT * top)]))
    cross = ndimage.generate_binary_structure(3, 1).reshape(3, 3, 3, *[1] * (values.ndim - 3))
    shell = values[positive & ~ndimage.binary_erosion(positive, cross, border_value=1)]
    return level if len(shell) and np.quantile(shell, FADING_QUANTILE) < FADING * level else None


def _is_label_map(values: np.ndarray, positive: np.ndarray, count: int, high: float) -> bool:
    """Whether values are whole numbers, and few, or in patches of one number each."""
    numbers = values[positive]
    if not np.array_equal(numbers, np.round(numbers)):
        return False
    return count <= FEW_VALUES or _equal_neighbours(values, positive & (values < LEVEL * high)) > EQUAL_SHARE


def _overshot_level(upper: np.ndarray, low: float) -> float | None:
    """The level inside a mask that a spline has resampled: most of the values from half the maximum on lie near
    it, and the lowest of all, `low`, goes below 0 as an overshoot does. None where there is none."""
    level = float(np.median(upper))
    near = np.count_nonzero(np.abs(upper - level) <= (1 - LEVEL) * level)
    return level if near >= SHARP_SHARE * len(upper) and low >= -OVERSHOOT * level else None


def _is_soft(values: np.ndarray, positive: np.ndarray, high: float) -> bool:
    """Whether values rise from the outside in, up to their maximum, `high`."""
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
    """The share of a part, boolean [X, Y, Z] or [X, Y, Z, T], that is not one component without holes a frame."""
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
    """Share of the pairs of 6-neighbours, both in `among`, that have one value."""
    pairs = equal = 0
    for axis in range(3):
        ends = [(slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None))]
        both = among[ends[0]] & among[ends[1]]
        pairs += int(np.count_nonzero(both))
        equal += int(np.count_nonzero(both & (values[ends[0]] == values[ends[1]])))
    return equal / pairs if pairs else 0.0
