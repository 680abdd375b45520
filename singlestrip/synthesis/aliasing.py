"""Copies of the head along an axis: ghosts half a field of view away, and what a short field leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..configuration import SynthConfig, Window
from .streams import RandomStreams, happens, uniform, whole_number


@dataclass(frozen=True)
class Ghost:
    """axis: of the window; shift: of the ghost, as a share of the window; strength: of its signal."""

    axis: int
    shift: float
    strength: float


@dataclass(frozen=True)
class WrapAround:
    """axis: of the window; depth_mm: what the field of view leaves out at its low and high face."""

    axis: int
    depth_mm: tuple[float, float]


def sample_ghost(config: SynthConfig, streams: RandomStreams) -> Ghost | None:
    """Draw the ghost in one image: none in most."""
    generator = streams("ghost")
    if not happens(generator, config.ghost_probability):
        return None
    axis = whole_number(generator, 0, 2)
    return Ghost(axis, uniform(generator, *config.ghost_shift), uniform(generator, *config.ghost_strength))


def sample_wrap_around(config: SynthConfig, scale: float, streams: RandomStreams) -> WrapAround | None:
    """Draw how short the field of view of one image is, if the head is larger than it."""
    generator = streams("wrap around")
    if not happens(generator, config.wrap_probability):
        return None
    axis = whole_number(generator, 0, 2)
    low_mm, high_mm = (uniform(generator, *config.wrap_depth_mm) * scale for _ in range(2))
    return WrapAround(axis, (low_mm, high_mm))


def add_ghosts(image: torch.Tensor, drawn: Sequence[Ghost | None]) -> torch.Tensor:
    """Images [B, X, Y, Z] with a weak copy of themselves over them, in place."""
    for sample, each in zip(image, drawn, strict=True):
        if each is not None:
            voxels = round(each.shift * sample.shape[each.axis])
            sample += each.strength * sample.roll(voxels, each.axis)
    return image


def wrap_around(
    image: torch.Tensor, covered: torch.Tensor, window: Window, drawn: Sequence[WrapAround | None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [B, X, Y, Z] of short fields of view, and where they have data, boolean; both in place.

    What lies beyond a face is seen at the opposite one, over what is there.
    """
    for sample, seen, each in zip(image, covered, drawn, strict=True):
        if each is None:
            continue
        n = window.shape[each.axis]
        low, high = (min(round(mm / window.voxel_size_mm), n // 4) for mm in each.depth_mm)
        signal = torch.where(seen, sample, 0.0)
        inner = n - low - high
        sample.narrow(each.axis, n - high - low, low).add_(signal.narrow(each.axis, 0, low))
        sample.narrow(each.axis, low, high).add_(signal.narrow(each.axis, low + inner, high))
        seen.narrow(each.axis, 0, low).fill_(False)
        seen.narrow(each.axis, n - high, high).fill_(False)
    return image, covered
