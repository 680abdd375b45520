"""Losses of predicted probabilities, of the brain or of classes, against the truth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

PART_VOXELS = 2048  # whose values the loss of classes has in hand at once: of 36 outputs 0.3 MiB a tensor


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
        entropy = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
        loss = loss + cross_entropy * _weighted_mean(entropy, weight)
    return loss.mean()


def distillation_loss(logit: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """How far predicted probabilities are from a teacher's (Hinton, Vinyals & Dean 2015): their Kullback-Leibler
    divergence, the weighted mean over voxels, averaged over the batch.

    logit, teacher, weight: [B, 1, X, Y, Z]; both are logits. Where both agree, the loss and its gradient are 0.
    """
    target = torch.sigmoid(teacher)
    entropy = F.binary_cross_entropy_with_logits(teacher, target, reduction="none")
    divergence = F.binary_cross_entropy_with_logits(logit, target, reduction="none") - entropy
    return _weighted_mean(divergence, weight).mean()


def _weighted_mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The mean over the voxels of each sample, [B]; values, weight: [B, 1, X, Y, Z]."""
    dims = (1, 2, 3, 4)
    return (weight * values).sum(dims) / weight.sum(dims).clamp(min=1)


def class_loss(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, cross_entropy: float
) -> torch.Tensor:
    """1 - mean soft Dice of classes plus `cross_entropy` times their weighted mean cross-entropy, averaged over
    the batch.

    logits, target: [B, 1 + K, X, Y, Z], the background first, whose Dice does not count; target: the share of each
    class in a voxel. weight: [B, 1, X, Y, Z]. Squared terms in the denominator as in `soft_dice_loss`. It is
    fastest where the values of a voxel lie side by side in memory, as `UNet` and `class_shares` return them.
    """
    samples = zip(*(each.movedim(1, -1).flatten(1, 3) for each in (logits, target, weight)), strict=True)
    return torch.stack([_ClassLoss.apply(*sample, cross_entropy) for sample in samples]).mean()


class _ClassLoss(torch.autograd.Function):
    """`class_loss` of one sample, with its gradient, part by part.

    The probabilities of a part stay in a processor's cache and are computed anew for the gradient. Left to
    autograd, which keeps them all, loss and gradient take three times as long.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, cross_entropy: float
    ) -> torch.Tensor:
        """logits, target: [voxels, 1 + K]; weight: [voxels, 1]. Returns []."""
        overlap, size = torch.zeros_like(logits[0]), torch.zeros_like(logits[0])
        entropy = torch.zeros_like(overlap[0])
        for z, t, w in _parts(logits, target, weight):
            log_probability = z.log_softmax(-1)
            probability = log_probability.exp()
            counted = w * t
            entropy -= (counted * log_probability).sum()
            overlap += (counted * probability).sum(0)
            size += (w * probability.square_()).sum(0) + counted.mul_(t).sum(0)
        voxels = weight.sum().clamp(min=1)
        share = (2 * overlap + 1) / (size + 1)
        classes = len(share) - 1
        toward, away = -2 / (size + 1) / classes, 2 * share / (size + 1) / classes
        toward[0] = away[0] = 0
        ctx.save_for_backward(logits, target, weight, toward, away, cross_entropy / voxels)
        return 1 - share[1:].mean() + cross_entropy * entropy / voxels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient of the logits, [voxels, 1 + K]."""
        logits, target, weight, toward, away, entropy = ctx.saved_tensors
        result = torch.empty_like(logits)
        for z, t, w, out in _parts(logits, target, weight, result):
            probability = z.softmax(-1)
            slope = torch.addcmul(toward * t, away, probability)  # of soft Dice over the probabilities
            slope -= (slope * probability).sum(-1, keepdim=True)
            torch.mul(probability, slope, out=out)
            out += entropy * (probability * t.sum(-1, keepdim=True) - t)
            out *= gradient * w
        return result, None, None, None


def _parts(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The rows of tensors: on a processor a few at a time."""
    rows = PART_VOXELS if tensors[0].device.type == "cpu" else len(tensors[0])
    return zip(*(each.split(rows) for each in tensors), strict=True)


def reconstruction_loss(logit: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Soft Dice loss plus mean squared error of rebuilt masks (SingleStrip), mean over the batch.

    Both are [B, 1, X, Y, Z], or [B, 1, X, Y] for slices; target lies within [0, 1].
    """
    loss = soft_dice_loss(logit, target, torch.ones_like(target)).mean()
    return loss + F.mse_loss(torch.sigmoid(logit), target)
