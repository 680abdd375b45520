"""Networks of torch, run on arrays: on a GPU, and in training."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from .device import fast_in_bfloat16, limit_threads
from .engine import AUTOENCODER_NETWORK, Engine


class TorchEngine(Engine):
    """A cascade or an autoencoder in evaluation mode. A cascade runs in bfloat16 where that is fast."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()
        self.config = model.config
        self.estimator = getattr(model, "estimator", None)

    @property
    def torch_device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def device(self) -> str:  # type: ignore[override]  # networks may be moved
        """Where the networks run."""
        return str(self.torch_device)

    @torch.inference_mode()
    def run(self, network: str, images: np.ndarray) -> np.ndarray:
        device = self.torch_device
        limit_threads(device)
        is_cascade = network != AUTOENCODER_NETWORK
        run = getattr(self.model, network) if is_cascade else self.model
        with torch.autocast(device.type, torch.bfloat16, enabled=is_cascade and fast_in_bfloat16(device)):
            return run(torch.from_numpy(images).to(device)).float().cpu().numpy()
