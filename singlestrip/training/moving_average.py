"""The moving average of weights while they are trained."""

from __future__ import annotations

import copy
from typing import Generic

import torch

from ..networks.checkpoint import Model


class MovingAverage(Generic[Model]):
    """The exponential moving average of a network's weights; it begins with the weights at the start.

    model: a copy of the network with the averaged weights. Buffers, such as the statistics of batch normalisation,
    are not averaged.
    """

    def __init__(self, model: Model, share: float) -> None:
        """share: of the average before an update in the average after it. The first updates keep less, so that
        the weights at the start are soon forgotten."""
        self.model: Model = copy.deepcopy(model)
        self.model.requires_grad_(False)
        self.share = share
        self.count = 1  # weights averaged, those at the start among them

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Take the network's present weights into the average."""
        kept = min(self.share, self.count / (9 + self.count))
        torch._foreach_lerp_(tuple(self.model.parameters()), tuple(model.parameters()), 1 - kept)
        self.count += 1

    def restore(self, weights: dict[str, torch.Tensor], updates: int) -> None:
        """Go on from averaged weights after a number of updates."""
        self.model.load_state_dict(weights)
        self.count = updates + 1
