"""What a run of self-training is given: its files, and how each of its parts works."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..configuration import (
    GMMConfig,
    MaskGridConfig,
    QualityPartTrainConfig,
    RoundTrainConfig,
    SelfTrainConfig,
    SynthConfig,
    TrainConfig,
    TransferConfig,
)
from ..io.text import typed


@dataclass(frozen=True)
class Inputs:
    """The files of a run.

    image, mask: the labelled example. unlabelled: images, 3-D. references: their true masks, in their order, to
    rank by truth; else empty. model, quality: the model to begin with and the quality model; None to train one.
    init: the model whose weights the training of the first model begins with; None to begin with none.
    validation: pairs of image and mask that are scored after each round. grids: how far the grids of masks may lie
    from those of their images. lesions: pairs of image and lesion mask; synthetic images have their lesions as
    often as `Options` says.
    """

    image: Path
    mask: Path
    unlabelled: tuple[Path, ...]
    references: tuple[Path, ...] = ()
    model: Path | None = None
    quality: Path | None = None
    validation: tuple[tuple[Path, Path], ...] = ()
    grids: MaskGridConfig = MaskGridConfig()
    init: Path | None = None
    lesions: tuple[tuple[Path, Path], ...] = ()


@dataclass(frozen=True)
class Options:
    """How each part of a run works.

    first: training on the labelled example alone, by default for networks that begin with the weights of others;
    later: in each round, on images as in the first. quality: training of the quality network.
    """

    rounds: SelfTrainConfig = SelfTrainConfig()
    first: TrainConfig = TransferConfig()
    later: TrainConfig = RoundTrainConfig(synth=TransferConfig().synth)
    quality: QualityPartTrainConfig = QualityPartTrainConfig()
    gmm: GMMConfig = GMMConfig()


def recorded_synthesis(provenance: dict[str, Any]) -> SynthConfig:
    """The ranges of the synthesis that a model learned from, by the provenance in its file.

    What the file does not tell, as that of an older version, is as by default.
    """
    try:
        return typed.convert(provenance["configuration"]["synth"], SynthConfig)
    except (KeyError, TypeError, ValueError):
        return SynthConfig()
