"""Label maps of other programs to classes that images are made of.

Each class of a synthetic image has an intensity. A label map with one label for all tissue outside the brain would
show a blank head, and one with one label for the brain a blank brain. Labels that are a large part of their side
are therefore parted: by the intensities of an image if there is one, otherwise by position, into layers along the
brain's surface that random smooth fields break up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from ..configuration import INSIDE_BASE, GenerationConfig
from ..errors import BrainLabelsError
from ..space.grid import Box, voxel_sizes
from ..space.morphology import bounding_box, fill_holes
from .brain_labels import BACKGROUND
from .fields import enlarge, random_field
from .gmm import NativeMap, count_distinct, fit_classes, intensity_range, levels_of, with_finite_voxels
from .label_groups import group_labels
from .streams import RandomStreams

RANKS = np.linspace(0, 1, 257)  # at which the quantiles of distances are known
COARSE_VOXELS = 48  # along a brain on the grid that distances are measured on
SAMPLED = 1_000_000  # voxels that the quantiles of distances are taken of
WORTH_SAYING = 0.01  # share of the brain in pieces apart from it; less are specks


@dataclass(frozen=True)
class GenerationLabels:
    """Classes made of a label map.

    map: the classes; labels: for each class the labels that it is of, or of which it is a part; remarks: sentences
    about what is unusual.
    """

    map: NativeMap
    labels: dict[int, list[int]]
    remarks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Regions:
    """A label map as regions, each of one label or of several that were merged.

    number: [X, Y, Z] region of each voxel, from 0; inside: [R] whether each is brain; labels: of each region;
    voxel_mm: [3]; remarks: see `GenerationLabels`.
    """

    number: np.ndarray
    inside: np.ndarray
    labels: list[list[int]]
    voxel_mm: np.ndarray
    remarks: tuple[str, ...] = ()

    @cached_property
    def brain(self) -> np.ndarray:
        """Boolean [X, Y, Z]."""
        return self.inside[self.number]

    @cached_property
    def brain_mm(self) -> float:
        """Longest side of the brain's bounding box."""
        box = bounding_box(self.brain)
        assert box is not None, "a label is brain"
        return float(max((part.stop - part.start) * mm for part, mm in zip(box, self.voxel_mm, strict=True)))

    @cached_property
    def surface_mm(self) -> np.ndarray:
        """Distance to the other side of the brain's surface, float32 [X, Y, Z].

        It is measured on a coarse grid and interpolated: parts have smooth borders, and no need of exact ones.
        """
        steps = np.maximum(1, self.brain_mm / (COARSE_VOXELS * self.voxel_mm)).astype(int)
        shape = self.brain.shape
        points = [
            np.linspace(0, n - 1, 1 + -(-(n - 1) // step)).round() for n, step in zip(shape, steps, strict=True)
        ]
        coarse = self.brain[np.ix_(*(at.astype(int) for at in points))]
        sampling = self.voxel_mm * steps
        signed = ndimage.distance_transform_edt(~coarse, sampling=sampling)
        signed -= ndimage.distance_transform_edt(coarse, sampling=sampling)
        fine = enlarge(torch.from_numpy(signed.astype(np.float32))[None, None], shape)[0, 0].numpy()
        return np.abs(fine, out=fine)

    @cached_property
    def volumes(self) -> np.ndarray:
        """Number of voxels of each region, [R]."""
        return np.bincount(self.number.ravel(), minlength=len(self.inside))


def generation_labels(
    values: np.ndarray,
    brain: Collection[int],
    vox2world: np.ndarray,
    config: GenerationConfig,
    streams: RandomStreams,
    image: np.ndarray | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> GenerationLabels:
    """Classes of a label map of whole numbers [X, Y, Z].

    brain: the labels that are brain; the map may lack some of them.
    streams: of the random fields. The same streams give the same classes.
    image: [X, Y, Z], to part labels by its intensities. The classes of each side are then numbered by mean
    intensity, and have levels. Without it air is class 1, the other classes outside are numbered by their distance
    to the brain, and those inside in the order of their labels.
    pairs: labels of the left and right part of one structure, which share a class; None to find them by where they
    lie.

    Raises BrainLabelsError if no label is brain, or all are.
    """
    regions = _grouped(_regions_of(values, brain, voxel_sizes(vox2world)), vox2world, config, pairs)
    regions = _with_furrows(_without_islands(regions, config.island), config.closing)
    air = _background(regions)
    holds_head = air is not None and _holds_head(regions, air, config)
    if image is not None:
        image = with_finite_voxels(np.asarray(image, dtype=np.float32))
        counts = _part_counts(regions, None if holds_head else air, config.gmm.inside, config.gmm.outside)
        parted = _part_by_image(regions, counts, image, config)
        order = _mean_of_classes(parted, image)
    else:
        if air is not None and holds_head:
            regions = _part_head_from_air(regions, air, config, streams)
        parted = _part_by_position(
            regions, _part_counts(regions, air, config.inside, config.outside), config, streams
        )
        order = np.where(
            parted.inside, np.arange(len(parted.inside)), _mean_of_classes(parted, regions.surface_mm)
        )
        if air is not None:
            order[parted.region == air] = -1
    return _numbered(regions, parted, order, vox2world, image)


def _regions_of(values: np.ndarray, brain: Collection[int], voxel_mm: np.ndarray) -> _Regions:
    """A region for each label of a map."""
    labels = np.unique(values)
    inside = np.isin(labels, list(brain))
    if not inside.any():
        raise BrainLabelsError("has none of the labels that are brain")
    if inside.all():
        raise BrainLabelsError("all of its labels are brain; there is nothing outside to learn from")
    number = np.searchsorted(labels, values).astype(np.int32)
    return _Regions(number, inside, labels[:, None].tolist(), voxel_mm)


def _grouped(
    regions: _Regions,
    vox2world: np.ndarray,
    config: GenerationConfig,
    pairs: Sequence[tuple[int, int]] | None,
) -> _Regions:
    """The regions, each of one label, of which some are joined; see `group_labels`. pairs: of labels."""
    if pairs is not None:
        region_of = {label: region for region, (label,) in enumerate(regions.labels)}
        pairs = [(region_of[a], region_of[b]) for a, b in pairs if a in region_of and b in region_of]
        pairs = [pair for pair in pairs if len(set(regions.inside[list(pair)])) == 1]
    groups = group_labels(regions.number, regions.inside, vox2world, regions.brain_mm, config, pairs)
    group_of = np.empty(len(regions.inside), dtype=np.uint8)
    for number, group in enumerate(groups):
        group_of[group] = number
    labels = [[label for region in group for label in regions.labels[region]] for group in groups]
    inside = regions.inside[[group[0] for group in groups]]
    remarks: tuple[str, ...] = ()
    if any(len(group) > 2 for group in groups):  # more than a left and a right one
        remarks = (f"has more labels than images need; small ones are taken together, {len(groups)} are left",)
    return _Regions(group_of[regions.number], inside, labels, regions.voxel_mm, remarks)


def _without_islands(regions: _Regions, least: float) -> _Regions:
    """The regions, with one more outside for pieces of brain labels that lie apart from the brain.

    They are smaller than the share `least` of it. In some maps eyes have the labels of grey and white matter.
    """
    box = bounding_box(regions.brain)
    assert box is not None, "a label is brain"
    pieces, _ = ndimage.label(regions.brain[box])
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    small = (sizes > 0) & (sizes < least * sizes.max())
    if not small.any():
        return regions
    share = sizes[small].sum() / sizes.sum()
    remarks = regions.remarks
    if share > WORTH_SAYING:
        remarks += (
            f"{100 * share:.2g} % of what its labels say is brain lies apart from the brain; taken as outside",
        )
    number = regions.number.copy()
    island = small[pieces]
    labels = [label for region in np.unique(number[box][island]) for label in regions.labels[region]]
    number[box][island] = len(regions.inside)
    inside = np.append(regions.inside, False)
    return _Regions(number, inside, [*regions.labels, sorted(labels)], regions.voxel_mm, remarks)


def _with_furrows(regions: _Regions, width: float) -> _Regions:
    """The regions, with more inside for what the brain encloses: its chambers, and furrows up to twice as wide as
    the share `width` of its length.

    A brain mask holds the fluid in them, which tissue labels leave out.
    """
    radius_mm = width * regions.brain_mm
    box = bounding_box(regions.brain)
    assert box is not None, "a label is brain"
    margin = np.ceil(radius_mm / regions.voxel_mm).astype(int) + 1
    brain = np.pad(regions.brain[box], margin[:, None])
    widened = ndimage.distance_transform_edt(~brain, sampling=regions.voxel_mm) <= radius_mm
    closed = ndimage.distance_transform_edt(widened, sampling=regions.voxel_mm) > radius_mm
    closed = fill_holes(closed | brain, [False] * 3)[tuple(slice(n, -n) for n in margin)]
    enclosed = closed & ~regions.brain[box]
    if not enclosed.any():
        return regions
    number, inside, labels = regions.number.copy(), regions.inside, list(regions.labels)
    for region in np.unique(number[box][enclosed]):
        number[box][enclosed & (number[box] == region)] = len(inside)
        inside = np.append(inside, True)
        labels.append(regions.labels[region])
    return _Regions(number, inside, labels, regions.voxel_mm, regions.remarks)


def _background(regions: _Regions) -> int | None:
    """The region outside that is air, or holds it; None if only brain reaches the faces of the field.

    It is that of label 0 if it reaches them, otherwise the one with the largest part of them.
    """
    faces = [regions.number.take(end, axis).ravel() for axis in range(3) for end in (0, -1)]
    count = np.bincount(np.concatenate(faces), minlength=len(regions.inside)) * ~regions.inside
    for region in np.flatnonzero(count):
        if BACKGROUND in regions.labels[region]:
            return int(region)
    return int(count.argmax()) if count.any() else None


def _holds_head(regions: _Regions, air: int, config: GenerationConfig) -> bool:
    """Whether the background holds tissue too.

    Label 0 does where the other labels outside have too little volume for a head. A background with a label of its
    own always counts as such, as no program marks air alone.
    """
    if BACKGROUND not in regions.labels[air]:
        return True
    inside = regions.volumes[regions.inside].sum()
    return bool(regions.volumes.sum() - regions.volumes[air] - inside < config.tissue * inside)


def _part_head_from_air(regions: _Regions, air: int, config: GenerationConfig, streams: RandomStreams) -> _Regions:
    """The regions with one more: the part of the background that lies near the brain."""
    generator = streams("head")
    extent_mm = np.array(regions.number.shape) * regions.voxel_mm
    field = random_field(extent_mm.tolist(), config.head_blob * regions.brain_mm, generator)
    thickness = enlarge(field.mul_(config.head_uneven).exp_(), regions.number.shape)[0, 0].numpy()
    head = (regions.number == air) & (regions.surface_mm < config.head * regions.brain_mm * thickness)
    number = np.where(head, np.uint8(len(regions.inside)), regions.number)
    labels = [*regions.labels, regions.labels[air]]
    return _Regions(number, np.append(regions.inside, False), labels, regions.voxel_mm, regions.remarks)


def _part_counts(regions: _Regions, air: int | None, inside: int, outside: int) -> np.ndarray:
    """Into how many parts each region goes, [R].

    There are about `inside` parts in the brain and `outside` outside, as large as one another, and no fewer than
    regions. Air stays whole, and does not count.
    """
    volumes = regions.volumes.astype(float)
    if air is not None:
        volumes[air] = 0
    counts = np.ones(len(volumes), dtype=int)
    for side, parts in ((True, inside), (False, outside)):
        share = volumes * (regions.inside == side)
        if share.any():
            counts = np.maximum(counts, np.round(parts * share / share.sum()).astype(int))
    return counts


@dataclass(frozen=True, eq=False)
class _Classes:
    """Regions and parts of regions.

    number: [X, Y, Z] class of each voxel, from 0; region: [C] that each is of; inside: [C] whether it is brain.
    """

    number: np.ndarray
    region: np.ndarray
    inside: np.ndarray


def _parted(
    regions: _Regions, counts: np.ndarray, part_of: Callable[[int, Box, np.ndarray], np.ndarray]
) -> _Classes:
    """Part the regions with a count above 1.

    part_of: from the number of a region, a box around it and where in the box it is, to the parts of its N voxels
    from 0, [N].
    """
    first = np.cumsum(counts) - counts
    number = first.astype(np.uint8)[regions.number]
    for region in np.flatnonzero(counts > 1):
        where = regions.number == region
        box = bounding_box(where)
        assert box is not None, "regions have voxels"
        number[box][where[box]] += part_of(int(region), box, where[box])
    owner = np.repeat(np.arange(len(counts)), counts)
    return _Classes(number, owner, regions.inside[owner])


def _part_by_image(regions: _Regions, counts: np.ndarray, image: np.ndarray, config: GenerationConfig) -> _Classes:
    """Part regions by GMM classes of an image within each; fewer where its intensities do not allow as many."""

    def part_of(region: int, box: Box, where: np.ndarray) -> np.ndarray:
        values = image[box][where]
        most = min(counts[region], count_distinct(values), len(values) // config.gmm.voxels_per_class)
        if most < 2:
            return np.zeros(len(values), dtype=np.uint8)
        return fit_classes(values, int(most), config.gmm)[0]

    return _parted(regions, counts, part_of)


def _part_by_position(
    regions: _Regions, counts: np.ndarray, config: GenerationConfig, streams: RandomStreams
) -> _Classes:
    """Part regions into layers along the brain's surface, that a smooth random field of each breaks up."""

    def part_of(region: int, box: Box, where: np.ndarray) -> np.ndarray:
        count = int(counts[region])
        extent_mm = (np.array(where.shape) * regions.voxel_mm).tolist()
        generator = streams(f"parts of label {regions.labels[region][0]}")
        fields = random_field(extent_mm, config.blob * regions.brain_mm, generator, count)
        at = count * _ranks(regions.surface_mm[box][where])
        best = np.full(len(at), -np.inf, dtype=np.float32)
        parts = np.zeros(len(at), dtype=np.uint8)
        for part in range(count):
            field = enlarge(fields[:, part : part + 1], where.shape)[0, 0].numpy()
            score = config.unevenness * field[where] - np.abs(at - (part + 0.5))
            better = score > best
            best[better], parts[better] = score[better], part
        return parts

    return _parted(regions, counts, part_of)


def _ranks(distances: np.ndarray) -> np.ndarray:
    """Rank of each of many distances [N], float32 from 0 to 1."""
    quantiles = np.quantile(distances[:: 1 + len(distances) // SAMPLED], RANKS)
    return np.interp(distances, quantiles, RANKS).astype(np.float32)


def _mean_of_classes(classes: _Classes, image: np.ndarray) -> np.ndarray:
    """Mean of an image in each class, [C]; 0 in one without voxels."""
    number = classes.number.ravel()
    size = len(classes.region)
    sums = np.bincount(number, weights=image.ravel(), minlength=size)
    return sums / np.bincount(number, minlength=size).clip(1)


def _numbered(
    regions: _Regions, classes: _Classes, order: np.ndarray, vox2world: np.ndarray, image: np.ndarray | None
) -> GenerationLabels:
    """The classes of each side numbered by `order` [C], with their means in an image as levels if there is one."""
    present = np.bincount(classes.number.ravel(), minlength=len(order)) > 0
    label = np.zeros(len(order), dtype=np.uint8)
    record: dict[str, Any] = {}
    means = None if image is None else _mean_of_classes(classes, image)
    for side, is_side, base in (("inside", classes.inside, INSIDE_BASE), ("outside", ~classes.inside, 0)):
        chosen = np.flatnonzero(is_side & present)
        chosen = chosen[np.argsort(order[chosen], kind="stable")]
        label[chosen] = base + 1 + np.arange(len(chosen))
        if means is not None:
            record[side] = {"label": label[chosen].tolist(), "mean": means[chosen].tolist()}
    levels = None if image is None else levels_of(record | {"intensity_range": intensity_range(image)})
    labels = {int(label[c]): regions.labels[classes.region[c]] for c in np.flatnonzero(present)}
    return GenerationLabels(NativeMap(label[classes.number], vox2world, levels), labels, regions.remarks)
