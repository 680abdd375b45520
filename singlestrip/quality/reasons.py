"""Reasons: what speaks against a mask, as clauses that a person can act on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..configuration import ReasonConfig
from ..space.grid import Grid
from ..space.morphology import bounding_box, thin_axes

FACES = {"L": "left", "R": "right", "P": "posterior", "A": "anterior", "I": "lower", "S": "upper"}
OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "I": "S", "S": "I"}


def touched_faces(mask: np.ndarray, grid: Grid) -> list[str]:
    """The faces of its image that a mask reaches, by the side of the head that they lie on.

    mask: boolean [X, Y, Z] on a grid. Faces along axes of three slices or fewer do not count.
    """
    box = bounding_box(mask)
    if box is None:
        return []
    faces = []
    for code, side, size, thin in zip(grid.axis_codes(), box, mask.shape, thin_axes(mask.shape), strict=True):
        if thin:
            continue
        faces += [FACES[OPPOSITE[code]]] * (side.start == 0) + [FACES[code]] * (side.stop == size)
    return faces


def find_reasons(
    evidence: Mapping[str, float],
    full: bool,
    unusual: str,
    faces: Sequence[str],
    config: ReasonConfig = ReasonConfig(),
) -> tuple[str, ...]:
    """What speaks against a mask, the gravest first.

    evidence: of the mask, by name of the measurement. full: whether it fills its image. unusual: what is unusual
    in its volume, "" if nothing is. faces: of `touched_faces`.
    """
    reasons = []
    if full:
        reasons.append("fills the image")
    if unusual:
        reasons.append(unusual)
    if evidence.get("dark", 0.0) > config.dark:
        reasons.append(f"{100 * evidence['dark']:.0f} % of it is as dark as the darkest of the image")
    reasons += _differences(evidence, config)
    if evidence.get("views", 1.0) < config.view_dice:
        reasons.append(f"the views of the networks agree by {evidence['views']:.2f} only")
    if evidence["shape_dice"] < config.shape_dice:
        reasons.append("not the shape of a brain")
    if evidence["apart"] > config.apart:
        reasons.append(f"{100 * evidence['apart']:.0f} % lies apart from the largest part")
    if evidence["holes"] > config.holes:
        reasons.append("has holes")
    if faces:
        *others, last = faces
        named = f"{', '.join(others)} and {last} faces" if others else f"{last} face"
        reasons.append(f"touches the {named} of the image")
    return tuple(reasons)


def _differences(evidence: Mapping[str, float], config: ReasonConfig) -> list[str]:
    """How a mask differs from the one that the networks make."""
    if evidence.get("model_dice", 1.0) >= config.model_dice:
        return []
    ratio = float(np.exp(evidence["model_volume"]))
    if abs(ratio - 1) >= config.volume:
        word = "larger" if ratio > 1 else "smaller"
        return [f"{100 * abs(ratio - 1):.0f} % {word} than the mask of the networks"]
    return [f"elsewhere than the mask of the networks (Dice {evidence['model_dice']:.2f})"]
