"""Conversion of stored values to numbers: value = slope · stored + intercept."""

from __future__ import annotations

import numpy as np

from ..errors import InputError

FLOAT32_MAX = float(np.finfo(np.float32).max)
FLOAT32_TINY = float(np.finfo(np.float32).tiny)  # the smallest number of full precision

MOST_INFINITE = 0.01  # share of voxels; more than a few damaged ones are parts of the head


def finite_range(values: np.ndarray) -> tuple[float, float]:
    """Lowest and highest finite value, as int for integer types; (inf, -inf) if there is none."""
    if values.dtype.kind != "f":
        return int(values.min()), int(values.max())
    finite = np.isfinite(values)
    return (
        float(np.min(values, initial=np.inf, where=finite)),
        float(np.max(values, initial=-np.inf, where=finite)),
    )


def check_not_overflowed(values: np.ndarray) -> None:
    """Raise InputError if a larger share than MOST_INFINITE of the values is infinite: they exceeded their type.

    NaN passes, since programs write it where there is no image.
    """
    if values.dtype.kind != "f":
        return
    share = np.count_nonzero(np.isinf(values)) / values.size
    if share > MOST_INFINITE:
        raise InputError(
            f"{100 * share:.2g} % of the voxels are infinite, as where values became too large for their type; "
            "make the image anew from its source, in a smaller unit or a wider type"
        )


def scaled_float32(stored: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> np.ndarray:
    """slope · stored + intercept in float32. Values that are not finite stay as they are.

    The computation uses 64 bits if 32 bits cannot hold an intermediate result. Raises InputError if they cannot
    hold a finite result, or if different values would all become equal.
    """
    scaled = (slope, intercept) != (1.0, 0.0)
    kind = stored.dtype
    if not scaled and (kind.itemsize <= 2 or kind.newbyteorder("=") == np.float32):
        return stored.astype(np.float32)
    low, high = finite_range(stored)
    ends = [end * slope + intercept for end in (low, high)] if low <= high else [0.0, 0.0]
    if not all(abs(end) <= FLOAT32_MAX for end in ends):
        raise InputError(f"values from {min(ends):g} to {max(ends):g} are beyond what 32 bits hold")
    if low < high and np.float32(ends[0]) == np.float32(ends[1]):
        raise InputError(f"values from {low:g} to {high:g} all become {ends[0]:g} in 32 bits")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # of values that are not finite
        if not _float32_suffices(low, high, slope):
            return (stored.astype(np.float64) * slope + intercept).astype(np.float32)
        values = stored.astype(np.float32)
        return values * np.float32(slope) + np.float32(intercept) if scaled else values


def _float32_suffices(low: float, high: float, slope: float) -> bool:
    """Whether 32 bits hold, at full precision, stored values from low to high and their product with the slope."""
    largest = max(abs(low), abs(high))
    steps = [abs(slope), largest, largest * abs(slope)]
    return low > high or all(step == 0 or FLOAT32_TINY <= step <= FLOAT32_MAX for step in steps)
