"""What share of each voxel of a synthetic image each class has: what a segmenter of classes learns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F

from .label_map import LabelMap
from .shape import Shape


def class_shares(maps: Sequence[LabelMap], shapes: Sequence[Shape], points: torch.Tensor) -> torch.Tensor:
    """Shares [B, 1 + K, X, Y, Z] of the background and of K classes, which add up to 1.

    maps: label maps with targets, of one head each; shapes: of each head; points: [B, X, Y, Z, 3] in the
    coordinates of grid_sample. In a mirrored head the classes of both sides change places. In memory the shares of
    a voxel lie side by side, like the logits that networks return.
    """
    shares = []
    for whole, shape, everywhere in zip(maps, shapes, points.split(1), strict=True):
        source, at = whole.part_around(everywhere)
        assert source.targets is not None, "maps of classes have targets"
        channels, mirrored = source.targets.channels, source.targets.mirrored
        if shape.is_mirrored:
            channels = mirrored.to(channels.dtype)[channels.long()]
        shares.append(_interpolated(channels, at[0], len(mirrored)))
    return torch.stack(shares).movedim(-1, 1)


def _interpolated(channels: torch.Tensor, at: torch.Tensor, count: int) -> torch.Tensor:
    """Shares [x, y, z, count] of a map of channels uint8 [X, Y, Z], linear between voxels, at points [x, y, z, 3].

    The same as grid_sample of a map for each channel, without the memory that those take. Beyond the map lies the
    background.
    """
    padded = F.pad(channels, (1,) * 6)
    size = torch.tensor(channels.shape, device=at.device)
    position = ((at.flatten(0, 2).flip(-1) + 1) * size - 1) / 2
    position = position.clamp(torch.full_like(size, -1), size)
    below = position.floor().minimum(size - 1)
    above_shares = (position - below).unbind(-1)
    strides = padded.stride()
    lowest = sum((low.int() + 1) * stride for low, stride in zip(below.unbind(-1), strides, strict=True))
    voxels = padded.flatten()
    shares = torch.zeros(len(position), count, device=at.device)
    for corner in product((0, 1), repeat=3):
        x, y, z = (above if upper else 1 - above for upper, above in zip(corner, above_shares, strict=True))
        offset = sum(upper * stride for upper, stride in zip(corner, strides, strict=True))
        shares.scatter_add_(1, voxels[lowest + offset].long()[:, None], (x * y * z)[:, None])
    return shares.unflatten(0, at.shape[:3])
