"""Scaling of intensities to [0, 1], the same in training and stripping."""

from __future__ import annotations

import torch

MAX_SAMPLES = 30_000  # values of which a percentile is taken


def _subsampled(values: torch.Tensor) -> torch.Tensor:
    """Every n-th of values [N], about MAX_SAMPLES of them."""
    return values[:: 1 + values.numel() // MAX_SAMPLES]


def bright_percentile(values: torch.Tensor) -> torch.Tensor:
    """The 99.5th percentile of values [N], estimated from about MAX_SAMPLES of them."""
    return torch.quantile(_subsampled(values), 0.995)


def normalise(image: torch.Tensor, covered: torch.Tensor, brain: torch.Tensor | None = None) -> torch.Tensor:
    """Scale [B, X, Y, Z] to [0, 1], from the minimum to the 99.5th percentile of the covered voxels of each image.

    covered: boolean [B, X, Y, Z]; other voxels become 0. brain: boolean [B, X, Y, Z]; if an image has brain
    voxels, the percentile is taken of them alone, so that bright fat does not reduce the brain's contrast.
    """
    normalised = torch.empty_like(image)
    for index, (values, where) in enumerate(zip(image, covered, strict=True)):
        covered_values = values[where]
        if covered_values.numel() == 0:
            normalised[index] = 0
            continue
        low = _subsampled(covered_values).min()
        brain_values = covered_values if brain is None else values[where & brain[index]]
        high = bright_percentile(brain_values if brain_values.numel() else covered_values)
        scaled = (values - low) / (high - low).clamp(min=1e-6 * float(high.abs()) + 1e-12)
        normalised[index] = torch.where(where, scaled.clamp(0, 1), torch.zeros((), device=image.device))
    return normalised
