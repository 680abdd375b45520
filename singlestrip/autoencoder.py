"""The quality network: a convolutional autoencoder of brain masks, in slices or in volumes.

Squeezing a mask through a narrow code leaves what brains have in common; what a mask has beside
that is lost, and the difference tells how far it can be trusted (Galati & Zuluaga 2021).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .configuration import AutoencoderConfig

JUDGE_WIDTH = 64
DIMENSIONS = {"slices": 2, "volume": 3}


class Autoencoder(nn.Module):
    """Masks [B, 1, S, S] or [B, 1, S, S, S] in [0, 1] to the logit of their reconstruction, same shape, and to
    their expected Dice [B], or None for "slices".

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
        # Dice with the one reconstruction is too high where several masks could be the true one: size and
        # depth of a dilated mask, say. What Dice to expect then is learned from the code.
        self.judge = None
        if config.kind == "volume":
            code = channels[-1]
            self.judge = nn.Sequential(
                nn.Linear(code + 1, JUDGE_WIDTH), nn.LeakyReLU(0.2), nn.Linear(JUDGE_WIDTH, 1)
            )

    def _half(self, convolution, layers) -> nn.Sequential:
        norm = nn.BatchNorm2d if DIMENSIONS[self.config.kind] == 2 else nn.BatchNorm3d
        parts: list[nn.Module] = []
        for number, (before, after, (kernel, stride)) in enumerate(layers, start=1):
            parts.append(convolution(before, after, kernel, stride, padding=1))
            if number < len(layers):
                parts += [norm(after), nn.LeakyReLU(0.2), nn.Dropout(self.config.dropout)]
        return nn.Sequential(*parts)

    def forward(self, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        code = self.encoder(mask)
        logit = self.decoder(code)
        if self.judge is None:
            return logit, None
        agreement = dice_of(mask, torch.sigmoid(logit.detach()))
        seen = torch.cat([F.leaky_relu(code, 0.2).flatten(1), torch.logit(agreement, eps=1e-3)[:, None]], dim=1)
        return logit, torch.sigmoid(self.judge(seen)[:, 0])


def dice_of(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Dice [B] of masks [B, 1, ...] in [0, 1], thresholded at 1/2; 0 where both are empty."""
    a, b = (part.flatten(1) > 0.5 for part in (a, b))
    return 2 * (a & b).sum(1) / (a.sum(1) + b.sum(1)).clamp(min=1)
