"""What a run of self-training is given: its files, and how each of its parts works."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..configuration import (
    AutoencoderTrainConfig,
    GMMConfig,
    MaskGridConfig,
    RoundTrainConfig,
    SelfTrainConfig,
    TrainConfig,
)


@dataclass(frozen=True)
class Inputs:
    """The files of a run.

    image, mask: the labelled example. unlabelled: images, 3-D. references: their true masks, in their order, to
    rank by truth; else empty. model, quality: the model to begin with and the quality model; None to train one.
    validation: pairs of image and mask that are scored after each round. grids: how far the grids of masks may lie
    from those of their images.
    """

    image: Path
    mask: Path
    unlabelled: tuple[Path, ...]
    references: tuple[Path, ...] = ()
    model: Path | None = None
    quality: Path | None = None
    validation: tuple[tuple[Path, Path], ...] = ()
    grids: MaskGridConfig = MaskGridConfig()


@dataclass(frozen=True)
class Options:
    """How each part of a run works. first: training on the labelled example alone; later: in each round."""

    rounds: SelfTrainConfig = SelfTrainConfig()
    first: TrainConfig = TrainConfig()
    later: TrainConfig = RoundTrainConfig()
    quality: AutoencoderTrainConfig = AutoencoderTrainConfig()
    gmm: GMMConfig = GMMConfig()
