"""What share of each voxel of a synthetic image each class has: what a segmenter of classes learns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch

from .label_map import LabelMap
from .shape import Shape


def class_shares(maps: Sequence[LabelMap], shapes: Sequence[Shape], points: torch.Tensor) -> torch.Tensor:
    """Shares [B, 1 + K, X, Y, Z] of the background and of K classes, which add up to 1.

    maps: label maps with targets, of one head each; shapes: of each head; points: [B, X, Y, Z, 3] in the
    coordinates of grid_sample. In a mirrored head the classes of both sides change places.
    """
    shares = []
    for whole, shape, everywhere in zip(maps, shapes, points.split(1), strict=True):
        source, at = whole.part_around(everywhere)
        assert source.targets is not None, "maps of classes have targets"
        channels, mirrored = source.targets.channels.long(), source.targets.mirrored
        shares.append(_interpolated(mirrored[channels] if shape.is_mirrored else channels, at[0], len(mirrored)))
    return torch.stack(shares)


def _interpolated(channels: torch.Tensor, at: torch.Tensor, count: int) -> torch.Tensor:
    """Shares [count, x, y, z] of a map of channels [X, Y, Z], linear between voxels, at points [x, y, z, 3].

    The same as grid_sample of a map for each channel, without the memory that those take.
    """
    size = torch.tensor(channels.shape, device=at.device)
    position = ((at.flatten(0, 2).flip(-1) + 1) * size - 1) / 2
    below = position.floor()
    above_share = position - below
    shares = torch.zeros(count, len(position), device=at.device)
    for corner in product((0, 1), repeat=3):
        upper = torch.tensor(corner, device=at.device)
        share = torch.where(upper > 0, above_share, 1 - above_share).prod(-1)
        index = below.long() + upper
        within = ((index >= 0) & (index < size)).all(-1)
        x, y, z = index.clamp(size.new_zeros(3), size - 1).unbind(-1)
        shares.scatter_add_(0, torch.where(within, channels[x, y, z], 0)[None], share[None])
    return shares.unflatten(1, at.shape[:3])
