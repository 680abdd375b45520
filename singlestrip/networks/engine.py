"""What runs the networks of a model on arrays, whichever library does the arithmetic. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from .trees import Estimator

AUTOENCODER_NETWORK = "autoencoder"  # the name of the only network of a quality network
# Runs in 16 bits where that is faster. The others run in 32: the locator is small, and where the window lies shall
# not depend on rounding; the autoencoder is smaller still.
NETWORK_IN_16_BITS = "segmenter"


class Engine(ABC):
    """Networks of a model, ready to run from any number of threads.

    config: of the networks. estimator: what a quality network estimates with, if it has one. device: where they
    run.
    """

    config: Any
    estimator: Estimator | None = None
    device: str = "cpu"

    @abstractmethod
    def run(self, network: str, images: np.ndarray) -> np.ndarray:
        """Logits float32 [B, C, ...] of images float32 [B, 1, ...].

        network: "locator" or "segmenter" of a cascade, "autoencoder" of a quality network.
        """
