"""Streams of random numbers: one for each thing that is random in an image or a batch.

A stream depends on where it is used (such as the run's seed, the network's and the image's number) and on the name
of the thing alone. A new thing, or one more number drawn for an old one, leaves all other streams as they are.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class RandomStreams:
    """The streams of one image, or of one batch.

    numbers: whole numbers from 0 on that say which: the seed of the run, then, for instance, the numbers of the
    network and the image.
    """

    numbers: tuple[int, ...]

    def __call__(self, name: str) -> torch.Generator:
        """The generator on the CPU for the thing of this name, at its start: ask once for each name."""
        return torch.Generator().manual_seed(self.seed(name))

    def seed(self, name: str) -> int:
        """The seed of a stream, below 2⁶³: for a generator on another device."""
        digest = hashlib.sha256(f"{len(self.numbers)} {name}".encode()).digest()
        words = np.frombuffer(digest[:16], "<u4").tolist()
        state = np.random.SeedSequence(self.numbers, spawn_key=words).generate_state(1, np.uint64)
        return int(state[0] >> np.uint64(1))

    def part(self, number: int) -> RandomStreams:
        """The streams of one part, such as a sample of a batch."""
        return RandomStreams((*self.numbers, number))


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A number between two others."""
    return low + (high - low) * float(torch.rand(1, generator=generator))


def log_uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A number between two others above 0, uniform in its logarithm."""
    return math.exp(uniform(generator, math.log(low), math.log(high)))


def whole_number(generator: torch.Generator, low: int, high: int) -> int:
    """A whole number between two others, which may come up too."""
    return int(torch.randint(low, high + 1, (1,), generator=generator))


def happens(generator: torch.Generator, probability: float) -> bool:
    """Whether a thing of this probability happens."""
    return uniform(generator, 0, 1) < probability
