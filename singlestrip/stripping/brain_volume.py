"""Whether a brain that was found is as large as the brains that a model is for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..configuration import VolumeConfig
from ..space.grid import voxel_sizes
from ..space.metrics import volume_ml

if TYPE_CHECKING:  # its module imports torch
    from ..networks.model_header import Anatomy


def usual_volumes_ml(
    scale: float, anatomy: Anatomy | None, config: VolumeConfig = VolumeConfig()
) -> tuple[float, float]:
    """The least and the greatest volume in millilitres of the brains that a model is for.

    They follow from the labelled brains, or from the scale of the networks, an adult's being 1, if these are not
    known.
    """
    if anatomy is not None:
        return config.least * min(anatomy.brain_ml), config.greatest * max(anatomy.brain_ml)
    in_proportion = config.adult_ml * scale**3
    return config.least_in_proportion * in_proportion, config.greatest * in_proportion


def describe_unusual_volume(mask: np.ndarray, vox2world: np.ndarray, usual_ml: tuple[float, float]) -> str:
    """What is unusual in the volume of a brain mask, boolean [X, Y, Z], as a clause; "" if nothing is.

    usual_ml: the least and the greatest volume of `usual_volumes_ml`. A small brain that the field of view may
    have cut off is not unusual.
    """
    low, high = usual_ml
    volume = volume_ml(mask, vox2world)
    if low <= volume <= high or (volume < low and _may_be_cut_off(mask, vox2world, low)):
        return ""
    comparison = "smaller" if volume < low else "larger"
    usual = f"{_millilitres(low)} to {_millilitres(high)} ml"
    return f"brain of {_millilitres(volume)} ml, {comparison} than any that this model is for ({usual})"


def _may_be_cut_off(mask: np.ndarray, vox2world: np.ndarray, least_ml: float) -> bool:
    """Whether a mask may be a part of a brain of the least volume.

    It must touch a face of its image, and the image, such as a slab, must be as long as a ball of that volume
    along one axis: a whole mouse fits into an image of 16 mm.
    """
    ball_mm = (6 / math.pi * 1000 * least_ml) ** (1 / 3)
    long_enough = bool((voxel_sizes(vox2world) * mask.shape).max() >= ball_mm)
    return long_enough and any(mask.take(end, axis).any() for axis in range(3) for end in (0, -1))


def _millilitres(volume: float) -> str:
    """A volume as text with three digits, or all those before the point."""
    return f"{volume:.0f}" if volume >= 100 else f"{volume:.3g}"
