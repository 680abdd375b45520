"""The quality network: a convolutional autoencoder of brain masks, in slices or in volumes.

A narrow code keeps what brains have in common and loses the rest of a mask. The difference between a mask and its
reconstruction therefore tells how far the mask can be trusted (Galati & Zuluaga 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..configuration import AutoencoderConfig
from .trees import Estimator
from .weight_shapes import LEAK


class Autoencoder(nn.Module):
    """Maps masks to the logit of their reconstruction.

    The encoder has the configuration's layers, padded by 1; the decoder mirrors them with transposed convolutions.
    Batch normalisation, LeakyReLU 0.2 and dropout follow all layers but the last one of each half. estimator: what
    estimates the Dice of masks from their reconstruction and other evidence; None if there is none.
    """

    def __init__(self, config: AutoencoderConfig, estimator: Estimator | None = None) -> None:
        super().__init__()
        self.config, self.estimator = config, estimator
        flat = config.dimensions == 2
        plain: type[nn.Module] = nn.Conv2d if flat else nn.Conv3d
        transposed: type[nn.Module] = nn.ConvTranspose2d if flat else nn.ConvTranspose3d
        channels = [1, *(width for _, _, width in config.layers)]
        shapes = [(kernel, stride) for kernel, stride, _ in config.layers]
        steps = list(zip(channels, channels[1:], shapes, strict=False))
        self.encoder = self._half(plain, [(a, b, shape) for a, b, shape in steps])
        self.decoder = self._half(transposed, [(b, a, shape) for a, b, shape in reversed(steps)])

    def _half(
        self, convolution: Callable[..., nn.Module], layers: Sequence[tuple[int, int, tuple[int, int]]]
    ) -> nn.Sequential:
        """Encoder or decoder. layers: of each, channels before and after, and (kernel, stride)."""
        norm = nn.BatchNorm2d if self.config.dimensions == 2 else nn.BatchNorm3d
        parts: list[nn.Module] = []
        for number, (before, after, (kernel, stride)) in enumerate(layers, start=1):
            parts.append(convolution(before, after, kernel, stride, padding=1))
            if number < len(layers):
                parts += [norm(after), nn.LeakyReLU(LEAK), nn.Dropout(self.config.dropout)]
        return nn.Sequential(*parts)

    def forward(self, mask: torch.Tensor) -> torch.Tensor:
        """Masks [B, 1, S, S] or [B, 1, S, S, S] in [0, 1] to logits of the same shape."""
        return self.decoder(self.encoder(mask))
