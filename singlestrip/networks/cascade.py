"""The two networks that strip a head: the locator finds the brain, the segmenter draws its border.

A network works only in the field of view it was trained with. The locator sees the whole image at low resolution,
with the head anywhere in it. The segmenter sees a window of fixed size around the brain. Neck, empty space and the
size of the image therefore cost no accuracy, and the segmenter takes the same memory for every image.
"""

from __future__ import annotations

from torch import nn

from ..configuration import CascadeConfig
from .unet import UNet


class Cascade(nn.Module):
    """Both networks, as one set of weights."""

    def __init__(self, config: CascadeConfig) -> None:
        super().__init__()
        self.config = config
        self.locator = UNet(config.locator)
        self.segmenter = UNet(config.segmenter)
