"""Networks of torch, run on arrays: on a GPU, and in training."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from torch import nn

from ..errors import DeviceError
from .device import fast_in_bfloat16, limit_threads
from .engine import AUTOENCODER_NETWORK, NETWORK_IN_16_BITS, Engine


class TorchEngine(Engine):
    """A cascade or an autoencoder in evaluation mode. A segmenter runs in bfloat16 where that is fast."""

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
        run = self.model if network == AUTOENCODER_NETWORK else getattr(self.model, network)
        shown = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        in_16_bits = network == NETWORK_IN_16_BITS and fast_in_bfloat16(device)
        try:
            with torch.autocast(device.type, torch.bfloat16) if in_16_bits else nullcontext():
                return run(shown).float().cpu().numpy()
        except NotImplementedError as error:  # of Apple's GPU, for which some versions of torch lack operations
            raise DeviceError(
                f"device {device}: the installed torch lacks what the networks need there; choose the device cpu, "
                "or install a newer torch"
            ) from error
