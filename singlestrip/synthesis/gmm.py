"""Image and brain mask to a label map of GMM classes: step 1 of the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from msgspec import Meta

from ..configuration import INSIDE_BASE, GMMConfig
from ..errors import InputError
from ..io.text import typed
from ..space.scan import Scan

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

    from .shape_bank import ShapeBank

MAX_CLASSES = 90  # of one side: what labels have room for
ASSIGNED_AT_ONCE = 1_000_000  # values whose classes are computed together


@dataclass(frozen=True)
class NativeMap:
    """A label map on the grid of its scan.

    labels: uint8 [X, Y, Z]; vox2world: 4×4, voxel index to RAS mm; levels: float32 [256], the mean
    intensity of each class in the scan, 0 at the scan's lowest and 1 at its 99.5th percentile, or
    None where it is not known; targets: uint8 [X, Y, Z], channel of the class that a segmenter is to tell, 0 the
    background, or None if it learns the brain; bank: shapes of other people to deform it into, if there are any.
    """

    labels: np.ndarray
    vox2world: np.ndarray
    levels: np.ndarray | None = None
    targets: np.ndarray | None = None
    bank: ShapeBank | None = None

    @property
    def scan(self) -> Scan:
        """The labels in space."""
        return Scan(self.labels, self.vox2world)


Intensity = Annotated[float, Meta(ge=-1e39, le=1e39)]  # of 32 bits, and so of an image


@dataclass(frozen=True)
class SideRecord:
    """Label and mean intensity in the scan of each class of one side: the part of its record that levels need."""

    label: Annotated[list[Annotated[int, Meta(ge=1, le=255)]], Meta(min_length=1, max_length=INSIDE_BASE)]
    mean: list[Intensity]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.label):
            raise ValueError(f"{len(self.label)} labels and {len(self.mean)} means")
        if len(set(self.label)) != len(self.label):
            raise ValueError("a label is there twice")


@dataclass(frozen=True)
class FitRecord:
    """The part of a record of `fit_label_map` that levels need."""

    intensity_range: tuple[Intensity, Intensity]
    inside: SideRecord
    outside: SideRecord

    def __post_init__(self) -> None:
        if self.intensity_range[0] > self.intensity_range[1]:
            raise ValueError("intensity_range: the first is above the second")
        if min(self.inside.label) <= INSIDE_BASE or max(self.outside.label) > INSIDE_BASE:
            raise ValueError(f"labels inside lie above {INSIDE_BASE}, others do not")

    @property
    def labels(self) -> set[int]:
        """Labels of the classes of both sides."""
        return {*self.inside.label, *self.outside.label}

    def levels(self) -> np.ndarray:
        """See `NativeMap`."""
        low, high = self.intensity_range
        levels = np.zeros(256, dtype=np.float32)
        for side in (self.inside, self.outside):
            levels[side.label] = ((np.array(side.mean) - low) / max(high - low, np.finfo(float).tiny)).clip(0, 1)
        return levels


def levels_of(record: dict[str, Any]) -> np.ndarray:
    """The levels of `NativeMap` from a record of `fit_label_map`. Raises ValueError if it is none."""
    return typed.convert(record, FitRecord).levels()


def check_classes(config: GMMConfig) -> None:
    """Raise InputError for a number of classes that labels have no room for."""
    for name, count in (("inside", config.inside), ("outside", config.outside)):
        if not 1 <= count <= MAX_CLASSES:
            raise InputError(f"{count} classes {name}: choose from 1 to {MAX_CLASSES}")


def is_inside(labels: np.ndarray) -> np.ndarray:
    """Brain mask of a label map, boolean of its shape."""
    return np.asarray(labels) > INSIDE_BASE


def fit_label_map(image: np.ndarray, mask: np.ndarray, config: GMMConfig) -> tuple[np.ndarray, dict[str, Any]]:
    """Label map uint8 [X, Y, Z] of an image [X, Y, Z] with its boolean brain mask, and a record.

    Labels 1 … `outside` are the classes outside the mask and 101 … 100 + `inside` those within,
    each side sorted by mean intensity. Non-finite voxels count as the lowest finite intensity.

    Raises InputError for an empty or full mask, a mask of another shape, a constant image, or too few voxels.
    """
    image = np.asarray(image, dtype=np.float32)
    mask = np.asarray(mask, dtype=bool)
    _check_mask(mask, image.shape)
    check_classes(config)
    image = with_finite_voxels(image)
    labels = np.zeros(image.shape, dtype=np.uint8)
    record: dict[str, Any] = {"seed": config.seed, "intensity_range": intensity_range(image)}
    for side, where, classes, base in (
        ("inside", mask, config.inside, INSIDE_BASE),
        ("outside", ~mask, config.outside, 0),
    ):
        values = image[where]
        _check_values(values, classes, config, side)
        assigned, fit = fit_classes(values, classes, config)
        labels[where] = assigned + (base + 1)
        record[side] = fit | {"label": list(range(base + 1, base + 1 + classes))}
    return labels, record


def _check_mask(mask: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise InputError unless a mask has voxels on both sides and the shape of its image."""
    if mask.shape != shape:
        raise InputError(f"image {shape} and mask {mask.shape} differ in shape; give both on one grid")
    if not mask.any():
        raise InputError("the brain mask is empty: give the mask of the labelled image")
    if mask.all():
        raise InputError("the brain mask covers the whole image: there is nothing outside to learn from")


def intensity_range(image: np.ndarray) -> tuple[float, float]:
    """The lowest intensity of an image [X, Y, Z] and its 99.5th percentile: levels 0 and 1 of `NativeMap`."""
    return float(image.min()), float(np.percentile(image[:: 1 + image.size // 10_000_000], 99.5))


def with_finite_voxels(image: np.ndarray) -> np.ndarray:
    """The image with its lowest finite intensity where it is not finite. Raises InputError if none is finite."""
    finite = np.isfinite(image)
    if finite.all():
        return image
    if not finite.any():
        raise InputError("the image has no finite voxel")
    return np.where(finite, image, image[finite].min())


def fit_classes(values: np.ndarray, classes: int, config: GMMConfig) -> tuple[np.ndarray, dict[str, Any]]:
    """Fit one mixture and assign every value to its most probable class.

    values: float [N] intensities, of which at least `classes` differ. Returns class numbers 0 … classes-1 [N],
    sorted by class mean, and a record with `mean`, `standard_deviation`, `weight` and `count` per class.
    """
    rng = np.random.default_rng(config.seed)
    sample = values if len(values) <= config.sample else rng.choice(values, config.sample, replace=False)
    sample, centre, spread = _standardised(sample)
    mixture = _fit_mixture(sample, classes, config)
    order = np.argsort(mixture.means_[:, 0])
    rank = np.empty(classes, dtype=np.uint8)
    rank[order] = np.arange(classes)
    assigned = np.empty(len(values), dtype=np.uint8)
    for start in range(0, len(values), ASSIGNED_AT_ONCE):
        part = slice(start, start + ASSIGNED_AT_ONCE)
        standardised = (values[part].astype(np.float64) - centre) / spread
        assigned[part] = rank[mixture.predict(standardised[:, None])]
    record = {
        "mean": (mixture.means_[order, 0] * spread + centre).tolist(),
        "standard_deviation": (np.sqrt(mixture.covariances_[order, 0, 0]) * spread).tolist(),
        "weight": mixture.weights_[order].tolist(),
        "count": np.bincount(assigned, minlength=classes).tolist(),
        "converged": bool(mixture.converged_),
    }
    return assigned, record


def _check_values(values: np.ndarray, classes: int, config: GMMConfig, side: str) -> None:
    """Raise InputError unless a side of the mask has voxels and different intensities enough for its classes."""
    if len(values) < config.voxels_per_class * classes:
        raise InputError(
            f"only {len(values)} voxels {side} the brain mask: too few for {classes} classes; "
            "check the mask or ask for fewer classes"
        )
    distinct = count_distinct(values)
    if distinct < 2:
        raise InputError(f"the image is constant {side} the brain mask: there is nothing to fit classes to")
    if distinct < classes:
        raise InputError(
            f"only {distinct} different intensities {side} the brain mask: too few for {classes} classes; "
            "ask for fewer classes"
        )


def count_distinct(values: np.ndarray) -> int:
    """Number of different values [N]; of about 100 000 of them where there are more."""
    return len(np.unique(values[:: max(1, len(values) // 100_000)]))


def _standardised(sample: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Values [N] with mean 0 and standard deviation 1, float64, and what these two were.

    The fit must not depend on the scale of the intensities.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        centre, spread = float(sample.mean()), float(sample.std())
        if not (np.isfinite(spread) and spread > 0):  # the squares leave what 32 bits hold
            sample = sample.astype(np.float64)
            centre, spread = float(sample.mean()), float(sample.std())
    return ((sample - centre) / spread).astype(np.float64), centre, spread


def _fit_mixture(sample: np.ndarray, classes: int, config: GMMConfig) -> GaussianMixture:
    """A mixture of Gaussians fitted to standardised values [N]; it begins with one on each quantile."""
    from sklearn.mixture import GaussianMixture

    column = sample[:, None]
    start = np.quantile(column, (np.arange(classes) + 0.5) / classes)[:, None]
    start += np.linspace(0, 1e-3, classes)[:, None]  # apart, where one value fills several quantiles
    return GaussianMixture(
        classes,
        means_init=start,
        random_state=config.seed,
        max_iter=config.iterations,
        tol=config.tolerance,
        reg_covar=1e-6,
    ).fit(column)
