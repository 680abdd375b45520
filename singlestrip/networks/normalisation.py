"""Intensities to [0, 1]: the one normalisation of training and stripping."""

from __future__ import annotations

import torch


def _subsampled(values: torch.Tensor) -> torch.Tensor:
    return values[:: 1 + values.numel() // 30_000]


def bright_percentile(values: torch.Tensor) -> torch.Tensor:
    """The 99.5th percentile of values [N], of some 30 000 of them where there are more."""
    return torch.quantile(_subsampled(values), 0.995)


def normalise(image: torch.Tensor, covered: torch.Tensor, brain: torch.Tensor | None = None) -> torch.Tensor:
    """Scale [B, X, Y, Z] to [0, 1] between the minimum and the 99.5th percentile of covered voxels.

    brain: boolean [B, X, Y, Z]; where a sample has any, the percentile is that of its voxels, so that
    bright fat does not press the brain's contrast together. Voxels not covered become 0.
    """
    out = torch.empty_like(image)
    for index, (values, where) in enumerate(zip(image, covered, strict=True)):
        chosen = values[where]
        if chosen.numel() == 0:
            out[index] = 0
            continue
        low = _subsampled(chosen).min()
        within = chosen if brain is None else values[where & brain[index]]
        high = bright_percentile(within if within.numel() else chosen)
        scaled = (values - low) / (high - low).clamp(min=1e-6 * float(high.abs()) + 1e-12)
        out[index] = torch.where(where, scaled.clamp(0, 1), torch.zeros((), device=image.device))
    return out
