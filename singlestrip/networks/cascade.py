"""The two networks that strip a head: one finds the brain, the other draws its border.

A network only works in the field of view it was trained in. The locator sees the whole scan at
low resolution, with the head anywhere; the segmenter sees a window of fixed size around the
brain. So neither neck nor empty space nor the size of the scan costs accuracy, and the memory of
the segmenter is the same for every scan.
"""

from __future__ import annotations

from torch import nn

from ..configuration import CascadeConfig
from .unet import UNet


class Cascade(nn.Module):
    """Both networks, as one set of weights."""

    def __init__(self, config: CascadeConfig):
        super().__init__()
        self.config = config
        self.locator = UNet(config.locator)
        self.segmenter = UNet(config.segmenter)
