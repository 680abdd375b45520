"""Whether the model of a round is worse than the one before, judged by no labels but that of the example.

Three things are measured of both models:

- the Dice of its mask of the labelled scan, which shows a border in a wrong place;
- the Dice of each network on synthetic images of the labelled scan that no training has seen, which shows whether
  the network forgets shapes and contrasts;
- how far the views of the segmenter agree on unlabelled scans that no round learns from, which shows whether the
  network grows unsure on the scans that it is for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..configuration import GuardConfig, TrainConfig
from ..networks.cascade import Cascade
from ..networks.checkpoint import load_model
from ..networks.device import fast_in_bfloat16
from ..quality.scores import QualityModel
from ..space.metrics import dice
from ..stripping.stripper import Stripper
from ..synthesis.gmm import NativeMap
from ..synthesis.labelling import LabelledScan
from ..training.cascade import validate
from ..training.maps import ImageSource, image_sources
from .changes import ScanChange, compare_scans, mean_agreement
from .decision import Decision, Standing
from .scans import UnlabelledScan


@dataclass(frozen=True, eq=False)
class Guard:
    """Compares models of a run.

    example, labelled: the label map of the labelled scan, and the scan. scans: unlabelled ones to compare models
    on. train: how rounds train, and so what synthetic images are like. device: where networks run.
    """

    example: NativeMap
    labelled: LabelledScan
    scans: Sequence[UnlabelledScan]
    train: TrainConfig
    config: GuardConfig
    device: torch.device

    def decide(
        self, before: Path, after: Path, quality: QualityModel, page_folder: Path
    ) -> tuple[Decision, list[ScanChange]]:
        """Compare the models of two files. Returns also what changed in the scans, most changed first.

        quality: estimates the Dice of the scans' masks. page_folder: where their outlines are drawn for a page.
        """
        old, new = (Stripper.load(path, str(self.device)) for path in (before, after))
        changes = compare_scans(self.scans, old, new, quality, page_folder)
        models = [load_model(path, self.device)[0] for path in (before, after)]
        sources = image_sources([self.example], models[0].config, self.train, self.device)
        standings = (
            self._standing(model, sources, agreement)
            for model, agreement in zip(models, mean_agreement(changes), strict=True)
        )
        return Decision.of(next(standings), next(standings), self.config), changes

    def _standing(self, model: Cascade, sources: Mapping[str, ImageSource], agreement: float | None) -> Standing:
        """What is measured of a model. agreement: of its views on the scans."""
        labelled = validate(model, [self.labelled])
        return Standing(labelled, **synthetic_dice(model, sources, self.config), agreement=agreement)


@torch.inference_mode()
def synthetic_dice(model: Cascade, sources: Mapping[str, ImageSource], config: GuardConfig) -> dict[str, float]:
    """Mean Dice of each network, by its name, on synthetic images that no training has seen.

    sources: of the images of each network.
    """
    device = next(model.parameters()).device
    means = {}
    for name, source in sources.items():
        scores = []
        for number in range(config.first_image, config.first_image + config.images):
            image, brain, weight = source.draw([number], number)
            with torch.autocast(device.type, torch.bfloat16, enabled=fast_in_bfloat16(device)):
                logit = getattr(model, name)(image)
            mask, truth = ((each & (weight > 0)).cpu().numpy() for each in (logit > 0, brain > 0.5))
            scores.append(dice(mask, truth))
        means[name] = float(np.mean(scores))
    return means
