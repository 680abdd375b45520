"""Labels of a map that share a class of synthetic images: left and right, and small ones where there are many."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy import ndimage

from ..configuration import GenerationConfig

SAMPLED = 1_000_000  # voxels that the middles of labels are taken of
OPPOSITE = 0.8  # least difference between the shares of a left and a right label that lie right of the mirror
LIKE_VOLUME = 1.5  # greatest ratio of the volumes of a left and a right label


def group_labels(
    number: np.ndarray,
    inside: np.ndarray,
    vox2world: np.ndarray,
    brain_mm: float,
    config: GenerationConfig,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> list[list[int]]:
    """Groups of labels, each inside or outside, whose members are to share a class.

    number: [X, Y, Z] number of each voxel's label, from 0 to before N; inside: [N] whether each is brain;
    brain_mm: length of the brain. pairs: left and right labels; None to find them by where they lie.

    A left and a right label of one structure are a group (SynthSeg). If there are more than `config.most` groups
    inside or outside, neighbours in number are joined, the smallest first: programs give parts of one tissue
    neighbouring numbers.
    """
    volumes = np.bincount(number.ravel(), minlength=len(inside))
    if pairs is None:
        pairs = _mirrored_pairs(number, inside, volumes, vox2world, config.mirror * brain_mm)
    partner = dict(pairs)
    groups: list[list[int]] = []
    for side in (False, True):
        labels = [int(label) for label in np.flatnonzero(inside == side) if label not in partner.values()]
        single = [[label, partner[label]] if label in partner else [label] for label in labels]
        groups += _joined(single, volumes, config.most)
    return groups


def _mirrored_pairs(
    number: np.ndarray, inside: np.ndarray, volumes: np.ndarray, vox2world: np.ndarray, within_mm: float
) -> list[tuple[int, int]]:
    """Pairs of labels that lie, within a distance, where a mirror between left and right would put the other.

    The mirror goes through the middle of the brain. Both labels are inside or both outside, each other's nearest,
    on different sides of the mirror, and of like volume.
    """
    step = max(1, round((number.size / SAMPLED) ** (1 / 3)))
    part = number[::step, ::step, ::step]
    present = np.unique(part)
    brain, volume = inside[present], volumes[present]
    matrix = step * vox2world[:3, :3]
    middle = np.array(ndimage.center_of_mass(np.ones(part.shape, dtype=bool), part, present)) @ matrix.T
    centre = np.average(middle[brain], axis=0, weights=volume[brain])
    x = sum(mm * index for mm, index in zip(matrix[0], np.ogrid[tuple(map(slice, part.shape))], strict=True))
    right_share = ndimage.mean(x > centre[0], part, present)
    apart = np.linalg.norm((middle - centre)[:, None] * (-1, 1, 1) - (middle - centre), axis=-1)
    apart[brain[:, None] != brain] = np.inf
    nearest = apart.argmin(1)
    pairs = []
    for first, second in enumerate(nearest):
        mutual = first < second and nearest[second] == first and apart[first, second] < within_mm
        opposite = abs(right_share[first] - right_share[second]) > OPPOSITE
        alike = max(volume[[first, second]]) < LIKE_VOLUME * min(volume[[first, second]])
        if mutual and opposite and alike:
            pairs.append((int(present[first]), int(present[second])))
    return pairs


def _joined(groups: list[list[int]], volumes: np.ndarray, most: int) -> list[list[int]]:
    """Groups of labels, of which the two neighbours with the least volume are joined until `most` are left."""
    groups = list(groups)
    sizes = [int(volumes[group].sum()) for group in groups]
    while len(groups) > most:
        joint = [a + b for a, b in pairwise(sizes)]
        first = joint.index(min(joint))
        groups[first : first + 2] = [groups[first] + groups[first + 1]]
        sizes[first : first + 2] = [joint[first]]
    return groups
