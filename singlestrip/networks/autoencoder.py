"""The quality network: a convolutional autoencoder of brain masks, in slices or in volumes.

Squeezing a mask through a narrow code leaves what brains have in common; what a mask has beside
that is lost, and the difference tells how far it can be trusted (Galati & Zuluaga 2021).
"""

from __future__ import annotations

import torch
from torch import nn

from ..configuration import AutoencoderConfig

DIMENSIONS = {"slices": 2, "volume": 3}


class Autoencoder(nn.Module):
    """Masks [B, 1, S, S] or [B, 1, S, S, S] in [0, 1] to the logit of their reconstruction, same shape.

    The encoder's layers are those of the configuration, padded by 1; the decoder mirrors them with
    transposed convolutions. Batch norm, LeakyReLU 0.2 and dropout follow all but the last layer of each half.
    """

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        dims = DIMENSIONS[config.kind]
        plain, transposed = (nn.Conv2d, nn.ConvTranspose2d) if dims == 2 else (nn.Conv3d, nn.ConvTranspose3d)
        channels = [1, *(width for _, _, width in config.layers)]
        shapes = [(kernel, stride) for kernel, stride, _ in config.layers]
        steps = list(zip(channels, channels[1:], shapes, strict=False))
        self.encoder = self._half(plain, [(a, b, shape) for a, b, shape in steps])
        self.decoder = self._half(transposed, [(b, a, shape) for a, b, shape in reversed(steps)])

    def _half(self, convolution, layers) -> nn.Sequential:
        norm = nn.BatchNorm2d if DIMENSIONS[self.config.kind] == 2 else nn.BatchNorm3d
        parts: list[nn.Module] = []
        for number, (before, after, (kernel, stride)) in enumerate(layers, start=1):
            parts.append(convolution(before, after, kernel, stride, padding=1))
            if number < len(layers):
                parts += [norm(after), nn.LeakyReLU(0.2), nn.Dropout(self.config.dropout)]
        return nn.Sequential(*parts)

    def forward(self, mask: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(mask))
