"""Losses of predicted brain probability against the true brain mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def soft_dice_loss(logit: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice with squared denominator (Milletari et al. 2016) of each sample, [B].

    All are [B, 1, X, Y, Z], or [B, 1, X, Y] for slices; target and weight lie within [0, 1]. Voxels of
    weight 0 do not count.
    """
    probability = torch.sigmoid(logit)
    dims = tuple(range(1, logit.ndim))
    overlap = (weight * probability * target).sum(dims)
    size = (weight * (probability.square() + target.square())).sum(dims)
    return 1 - (2 * overlap + 1) / (size + 1)


def segmentation_loss(
    logit: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, cross_entropy: float
) -> torch.Tensor:
    """Soft Dice loss plus `cross_entropy` times the weighted mean binary cross-entropy, mean over the batch.

    Where soft Dice predicts nothing its gradient vanishes: without normalisation layers it collapsed
    to an empty mask at learning rate 1e-3, and the cross-entropy kept a gradient everywhere. With
    instance normalisation soft Dice alone trains too (benchmarks/README.md).
    """
    loss = soft_dice_loss(logit, target, weight)
    if cross_entropy > 0:
        entropy = F.binary_cross_entropy_with_logits(logit, target, weight, reduction="none")
        dims = (1, 2, 3, 4)
        loss = loss + cross_entropy * entropy.sum(dims) / weight.sum(dims).clamp(min=1)
    return loss.mean()


def reconstruction_loss(logit: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Soft Dice loss plus mean squared error of rebuilt masks (SingleStrip), mean over the batch.

    Both are [B, 1, X, Y, Z], or [B, 1, X, Y] for slices; target lies within [0, 1].
    """
    loss = soft_dice_loss(logit, target, torch.ones_like(target)).mean()
    return loss + F.mse_loss(torch.sigmoid(logit), target)
