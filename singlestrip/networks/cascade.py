"""The two networks that look at a head: the locator finds the brain, the segmenter draws its border.

A network works only in the field of view it was trained with. The locator sees the whole image at low resolution,
with the head anywhere in it. The segmenter sees a window of fixed size around the brain. Neck, empty space and the
size of the image therefore cost no accuracy, and the segmenter takes the same memory for every image.

A segmenter may tell classes of tissue apart, of which some are brain.
"""

from __future__ import annotations

import torch
from torch import nn

from ..configuration import CascadeConfig
from .unet import UNet


class Cascade(nn.Module):
    """Both networks, as one set of weights."""

    def __init__(self, config: CascadeConfig) -> None:
        super().__init__()
        self.config = config
        self.locator = UNet(config.locator)
        self.segmenter = UNet(config.segmenter, config.segmenter_outputs)


def brain_logit(logits: torch.Tensor, config: CascadeConfig) -> torch.Tensor:
    """The brain's logit [B, 1, X, Y, Z] of a segmenter's logits [B, outputs, X, Y, Z].

    Of classes the brain's probability is the sum of those that are brain. At least one must be.
    """
    if not config.classes:
        return logits
    brain = list(config.brain_channels)
    others = [channel for channel in range(config.segmenter_outputs) if channel not in brain]
    inside, outside = (logits[:, channels].logsumexp(1, keepdim=True) for channels in (brain, others))
    return inside - outside
