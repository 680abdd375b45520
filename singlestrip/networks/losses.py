"""Losses of predicted probabilities, of the brain or of classes, against the truth."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def soft_dice_loss(logit: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice of each sample, [B], with squared terms in the denominator (Milletari et al. 2016).

    The arguments are [B, 1, X, Y, Z], or [B, 1, X, Y] for slices. target and weight lie in [0, 1]; voxels of
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
    """Soft Dice loss plus `cross_entropy` times the weighted mean binary cross-entropy, averaged over the batch.

    The gradient of soft Dice vanishes when nothing is predicted: without normalisation layers, training with it
    alone collapsed to an empty mask at a rate of 1e-3. Cross-entropy keeps a gradient everywhere. With instance
    normalisation soft Dice alone is enough (docs/tried.md).
    """
    loss = soft_dice_loss(logit, target, weight)
    if cross_entropy > 0:
        entropy = F.binary_cross_entropy_with_logits(logit, target, weight, reduction="none")
        dims = (1, 2, 3, 4)
        loss = loss + cross_entropy * entropy.sum(dims) / weight.sum(dims).clamp(min=1)
    return loss.mean()


def class_loss(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, cross_entropy: float
) -> torch.Tensor:
    """1 - mean soft Dice of classes plus `cross_entropy` times their weighted mean cross-entropy, averaged over
    the batch.

    logits, target: [B, 1 + K, X, Y, Z], the background first, whose Dice does not count; target: the share of each
    class in a voxel. weight: [B, 1, X, Y, Z]. Squared terms in the denominator as in `soft_dice_loss`. It is
    fastest where the values of a voxel lie side by side in memory, as `UNet` and `class_shares` return them.
    """
    logits, target = (each.movedim(1, -1).flatten(1, 3) for each in (logits, target))  # [B, voxels, 1 + K]
    weight = weight.flatten(1)[..., None]
    log_probability = logits.log_softmax(-1)
    probability = log_probability.exp()
    counted = weight * target
    overlap = (counted * probability).sum(1)[:, 1:]
    size = ((weight * probability.square()).sum(1) + (counted * target).sum(1))[:, 1:]
    loss = 1 - ((2 * overlap + 1) / (size + 1)).mean(1)
    if cross_entropy > 0:
        entropy = -(counted * log_probability).sum((1, 2))
        loss = loss + cross_entropy * entropy / weight.sum((1, 2)).clamp(min=1)
    return loss.mean()


def reconstruction_loss(logit: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Soft Dice loss plus mean squared error of rebuilt masks (SingleStrip), mean over the batch.

    Both are [B, 1, X, Y, Z], or [B, 1, X, Y] for slices; target lies within [0, 1].
    """
    loss = soft_dice_loss(logit, target, torch.ones_like(target)).mean()
    return loss + F.mse_loss(torch.sigmoid(logit), target)
