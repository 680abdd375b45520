"""One pass of a U-Net of SynthStrip's published shape with random weights, in plain PyTorch.

    python benchmarks/synthstrip_unet.py SIZE

Widths 16-32-64-64-64-64, two 3³ convolutions a level, leaky ReLU of 0.2, max-pooling, nearest
up-sampling and skips (Hoopes et al. 2022, as described in the paper). The network alone: no file is
read, conformed or written. For `comparison.py`, which times it in a process of its own.
"""

import sys

import torch
import torch.nn.functional as F
from torch import nn

WIDTHS = (16, 32, 64, 64, 64, 64)


class PlainUNet(nn.Module):
    def __init__(self):
        super().__init__()
        down, up, channels = [], [], 1
        for width in WIDTHS:
            down.append(
                nn.ModuleList([nn.Conv3d(channels, width, 3, padding=1), nn.Conv3d(width, width, 3, padding=1)])
            )
            channels = width
        for width in reversed(WIDTHS[:-1]):
            inputs = channels + width
            up.append(
                nn.ModuleList([nn.Conv3d(inputs, width, 3, padding=1), nn.Conv3d(width, width, 3, padding=1)])
            )
            channels = width
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.last = nn.Conv3d(channels, 1, 3, padding=1)

    def forward(self, x):
        skips = []
        for depth, level in enumerate(self.down):
            x = F.max_pool3d(x, 2) if depth else x
            for conv in level:
                x = F.leaky_relu(conv(x), 0.2)
            skips.append(x)
        skips.pop()
        for level in self.up:
            x = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skips.pop()], dim=1)
            for conv in level:
                x = F.leaky_relu(conv(x), 0.2)
        return self.last(x)


if __name__ == "__main__":
    size = -(-int(sys.argv[1]) // 32) * 32
    with torch.no_grad():
        PlainUNet().eval()(torch.rand(1, 1, size, size, size))
