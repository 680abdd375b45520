"""Teach a quality network to estimate Dice: draw synthetic cases of one labelled scan, and fit the estimator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..configuration import CaseConfig, EstimatorConfig, GMMConfig, MaskGridConfig
from ..errors import InputError
from ..io.checksum import checksum
from ..networks.cascade import Cascade
from ..networks.checkpoint import set_estimator
from ..synthesis.gmm import NativeMap
from ..synthesis.labelling import labelled_example
from .cases import TRUE, Case, CaseSource
from .estimator import fit_estimator
from .scores import QualityModel


def calibrate(
    path: Path,
    label_map: NativeMap,
    networks: Cascade,
    provenance: dict[str, Any],
    cases: CaseConfig = CaseConfig(),
    estimator: EstimatorConfig = EstimatorConfig(),
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, images: None,
) -> list[Case]:
    """Fit the estimator of the quality network in a model file, and write it into that file.

    label_map: of the labelled scan; networks: those whose masks will be estimated. provenance: what the
    file tells of the scan and the networks. progress: called after each image with the number of those done and
    of all. Returns the cases. The same seed gives the same estimator. Raises ModelError, OutputError, and
    InputError if too few cases can be drawn.
    """
    source = CaseSource(label_map, networks, QualityModel.load(path, device), cases)
    drawn: list[Case] = []
    for number in range(cases.images):
        drawn += source.draw(number)
        progress(number + 1, cases.images)
    if len(drawn) < estimator.least_cases:
        raise InputError(
            f"{len(drawn)} masks were drawn, too few to calibrate by: do these networks strip the labelled scan?"
        )
    likely = [case for case in drawn if case.kind != TRUE]  # no mask that needs an estimate is the true one
    fitted = fit_estimator(
        [case.evidence for case in likely],
        np.array([case.dice for case in likely]),
        np.array([case.is_own for case in likely]),
        np.array([case.image for case in likely]),
        estimator,
    )
    told = provenance | {"cases": asdict(cases), "fit": asdict(estimator), "masks": len(drawn)}
    set_estimator(path, fitted, told)
    return drawn


def label_map_of(
    image: Path, mask: Path, gmm: GMMConfig = GMMConfig(), grids: MaskGridConfig = MaskGridConfig()
) -> tuple[NativeMap, dict[str, Any]]:
    """The label map of a labelled scan, and what a model file tells of the scan. Raises InputError."""
    fitted, _ = labelled_example(image, mask, gmm, grids)
    named = {"image": image, "mask": mask}
    return fitted, {kind: {"name": path.name, "sha256": checksum(path)} for kind, path in named.items()}
