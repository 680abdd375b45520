"""Image to brain probability to brain mask, on arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from ..errors import InputError
from ..networks.cascade import Cascade
from ..networks.checkpoint import find_model, load_model
from ..networks.device import choose_device, fast_in_bfloat16, limit_threads_after_fork
from ..networks.normalisation import bright_percentile, normalise
from ..space import geometry, resample
from ..space.distance import signed_distance
from ..space.morphology import clean, largest_component, middle_mm
from .intensities import Intensities, intensities_of
from .views import VIEWS, View, mean_logit

MAX_LOCATOR_VOXELS = 160**3  # 640 mm a side for the human model; see io/memory.py
NO_BRAIN = "no brain found: is this a head, and is the orientation in its header right?"
FAR_LOGIT = -20.0  # beyond the segmenter's window there is no brain
SURFACE_VOXELS = 2  # beside the brain, whose logit tells where between voxels the surface lies
RECENTRE_MM = 8.0  # a second look where the brain lies further from the window's middle, adult head,
DIM = 0.9  # or where all of it is darker than this share of the brightest in the window
BRIGHTEST = 100  # of so many voxels, or a 200th of them, an image's brightness is taken
# Shares of that brightness. A mask whose median is below DIM_BRAIN is looked at again; what reaches BRIGHT belongs
# to the head. It must also stand out of the noise, where most of the image is noise that stays below AIR.
DIM_BRAIN, BRIGHT, AIR = 0.05, 0.1, 0.5
DEVIATIONS = 4.0  # of the noise, above its median
MAD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
SPECK = 27  # voxels of the locator: what is smaller and bright is damage, such as hot voxels
MOSTLY = 0.5  # of a mask must lie among what is bright, and of what is bright in one part to be a small head
BLACK = 0.005  # of the range of intensities: a mask whose median is below it holds nothing
MEDIAN_OF = 30_000  # voxels
# What is bright counts as the whole head where it is shorter than this share of the window and the field of view
# is longer by the factor; it is then magnified to the share that follows, as long as a brain or a head may be.
SMALL, WIDE, MAGNIFIED = 0.6, 1.25, 0.9
AROUND = 0.1  # shown around what is bright, as a share of its length


@dataclass(frozen=True)
class Stripped:
    """A brain mask, boolean [X, Y, Z], and where asked for the SDT, float32 [X, Y, Z] mm."""

    mask: np.ndarray
    sdt: np.ndarray | None = None


@dataclass(frozen=True)
class BrainField:
    """The network's continuous output: logit [X, Y, Z] on its grid, positive in the brain.

    brightness: the median of the brain's intensities, 0 for the darkest of the image and 1 for its brightest; 0
    without brain. within: the share of the brain that lies within the bounds of what is bright.
    """

    logit: torch.Tensor
    vox2world: np.ndarray
    brightness: float = 1.0
    within: float = 1.0

    def around_brain(self, shape: tuple[int, ...], vox2world: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray]:
        """The logit linearly interpolated to the part of another grid where there is brain.

        Returns the part, slices [3], and the logit float32 within it. All that is positive lies in it, and the
        voxels around that; FAR_LOGIT where it reaches beyond the window. Empty if there is no brain.
        """
        brain = geometry.bounding_box((self.logit > 0).cpu().numpy())
        if brain is None:
            return (slice(0, 0),) * 3, np.empty((0, 0, 0), dtype=np.float32)
        # Interpolation is positive less than a voxel beyond the last positive one; the surface is
        # drawn from the differences of the voxels on both sides.
        brain = tuple(slice(s.start - 1, s.stop + 1) for s in brain)
        to_index = np.linalg.inv(vox2world) @ geometry.part_of(self.vox2world, brain)
        low, high = geometry.world_bounds(tuple(s.stop - s.start for s in brain), to_index)
        start = np.clip(np.floor(low) - SURFACE_VOXELS, 0, shape).astype(int)
        stop = np.clip(np.ceil(high) + 1 + SURFACE_VOXELS, start, shape).astype(int)
        box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        source_from_box = np.linalg.inv(self.vox2world) @ geometry.part_of(vox2world, box)
        size = tuple(s.stop - s.start for s in box)
        return box, resample.sample(self.logit, source_from_box, size, FAR_LOGIT).cpu().numpy()


class Stripper:
    """A loaded model that strips one image after another, from any number of threads, and on a processor in
    forked workers too.

    views: how the segmenter is shown a window beside as it is; with none, stripping is faster and less accurate.
    """

    def __init__(self, model: Cascade, views: Sequence[View] = VIEWS):
        self.model = model.eval()
        self.config = model.config
        self.views = views

    @staticmethod
    def load(model: str | os.PathLike | None = None, device: str = "auto") -> Stripper:
        """From a model file, or a name in the models folder; None for the shipped weights."""
        return Stripper(load_model(find_model(model), choose_device(device))[0])

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def strip(
        self,
        image: np.ndarray,
        vox2world: np.ndarray,
        border_mm: float = 0.0,
        sdt: bool = False,
        slope: float = 1.0,
        intercept: float = 0.0,
    ) -> Stripped:
        """Brain mask of one image.

        image: [X, Y, Z] of any real type, scaled by slope and intercept where needed; non-finite
        voxels count as background. vox2world: 4×4, voxel index to RAS mm. border_mm moves the
        surface outward (positive) or inward. sdt: also return the signed distance, to the surface
        before `border_mm` moved it.

        Raises InputError if the image is constant, too large, or no brain is found in it. A mask most of which
        is as dark as the darkest of the image is no brain.
        """
        image, vox2world = np.asarray(image), np.asarray(vox2world, dtype=float)
        if image.ndim != 3 or vox2world.shape != (4, 4):
            raise InputError(f"need an image [X, Y, Z] and a 4×4 vox2world, not {image.shape}, {vox2world.shape}")
        if image.dtype.kind not in "biuf":
            raise InputError(f"voxels of type {image.dtype} are not real numbers")
        fault = geometry.geometry_fault(vox2world)
        if fault:
            raise InputError(fault)
        intensities = intensities_of(image, slope, intercept)
        field = self._field(image, vox2world, intensities)
        box, logit = field.around_brain(image.shape, vox2world)
        if image.dtype.kind == "f":
            logit[~np.isfinite(image[box])] = FAR_LOGIT
        mask = np.zeros_like(image, dtype=bool)  # in memory as the image: mixed orders are slow to combine
        mask[box] = logit > 0
        mask = clean(mask)
        if not mask.any() or _is_black(image[box][mask[box]], intensities):
            raise InputError(NO_BRAIN)
        if sdt and mask.all():
            raise InputError("the brain found fills the image: there is no surface to measure distances from")
        if not sdt and border_mm == 0:
            return Stripped(mask)
        everywhere = np.full(image.shape, FAR_LOGIT, dtype=np.float32)
        everywhere[box] = logit
        distance = signed_distance(everywhere, mask, vox2world)
        if border_mm != 0:
            moved = distance < border_mm
            if image.dtype.kind == "f":
                moved &= np.isfinite(image)
            mask = clean(moved)
            if not mask.any():
                raise InputError(f"a border of {border_mm:g} mm leaves no brain")
        return Stripped(mask, distance if sdt else None)

    def field(
        self, image: np.ndarray, vox2world: np.ndarray, slope: float = 1.0, intercept: float = 0.0
    ) -> BrainField:
        """The brain's logit in the segmenter's window; arguments and errors as for `strip`."""
        return self._field(image, vox2world, intensities_of(image, slope, intercept))

    def _field(self, image: np.ndarray, vox2world: np.ndarray, intensities: Intensities) -> BrainField:
        """The brain's logit in the segmenter's window.

        Where what is bright is small in a wide field of view, and where no brain is found but in the dark, the
        networks look at what is bright alone.
        """
        limit_threads_after_fork(self.device)
        fine, coarse = self._coarsened(image, vox2world, intensities.of)
        bright = find_bright(*coarse)
        small = self._is_small(bright, geometry.world_bounds(image.shape, vox2world))
        if not small:
            field = self._segment(*fine, self._locate(*coarse), bright)
            if field.brightness >= DIM_BRAIN and field.within > MOSTLY:
                return field
        box, closer = geometry.crop(image.shape, vox2world, bright.low_mm, bright.high_mm, AROUND)
        zoom = MAGNIFIED * self.config.window_mm / bright.length_mm if small else 1.0
        magnify = np.diag([zoom, zoom, zoom, 1.0])
        fine, coarse = self._coarsened(image[box], magnify @ closer, intensities.of)
        field = self._segment(*fine, self._locate(*coarse), bright)
        return replace(field, vox2world=np.linalg.inv(magnify) @ field.vox2world)

    def _is_small(self, bright: Bright, view: tuple[np.ndarray, np.ndarray]) -> bool:
        """Whether what is bright is one thing, too small for the networks, in a wider view, bounds in RAS mm."""
        small = bright.length_mm < SMALL * self.config.window_mm
        return small and bright.share > MOSTLY and bright.length_mm * WIDE < float((view[1] - view[0]).max())

    def _coarsened(self, image, vox2world, values_of):
        """Values of an image near the voxel sizes of segmenter and locator, each with its vox2world."""
        fine = _coarsen(image, vox2world, self.config.voxel_size_mm, values_of)
        return fine, _coarsen(*fine, self.config.locator_voxel_size_mm)

    def _segment(self, image, vox2world, centre, bright) -> BrainField:
        """The brain seen in a window around `centre`; in a second look where the first found it aside or dim.

        bright: what is bright in the whole image.
        """
        size = (self.config.segmenter_size,) * 3

        def lay(middle):
            grid = geometry.conformed_vox2world(middle, size, self.config.voxel_size_mm)
            return grid, resample.conform(image, vox2world, size, grid, self.device, fill=torch.nan)

        grid, window = lay(centre)
        shown = network_input(window)
        logit = self._predict("segmenter", shown)
        brain = largest_component(((logit > 0) & ~window.isnan()).cpu().numpy())
        middle = middle_mm(brain, grid)
        if middle is None:
            return BrainField(logit, grid, 0.0)
        aside = np.abs(middle - centre).max() > RECENTRE_MM * self.config.scale
        if aside or bright_percentile(shown[brain]) <= DIM:
            if aside:
                before = grid
                grid, window = lay(middle)
                brain = resample.conform(brain, before, size, grid).numpy() > 0.5
            shown = network_input(window, torch.from_numpy(brain).to(self.device))
            logit = self._predict("segmenter", shown)
        logit = mean_logit(logit, shown, partial(self._predict, "segmenter"), self.views)
        inside = (logit > 0) & ~window.isnan()
        if not inside.any():
            return BrainField(logit, grid, 0.0)
        brightness = bright.relative(float(window[inside].median()))
        return BrainField(logit, grid, brightness, bright.share_within(inside.cpu().numpy(), grid))

    @torch.inference_mode()
    def _predict(self, network: str, shown: torch.Tensor) -> torch.Tensor:
        """Logit [X, Y, Z] of one network for a normalised image [X, Y, Z]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast_in_bfloat16(self.device)):
            return getattr(self.model, network)(shown[None, None])[0, 0].float()

    def _locate(self, image: np.ndarray, vox2world: np.ndarray) -> np.ndarray:
        """RAS mm [3] of the middle of the brain's bounding box, as the locator sees it."""
        multiple = self.config.locator.multiple
        low, high = geometry.world_bounds(image.shape, vox2world)
        shape = np.ceil((high - low) / self.config.locator_voxel_size_mm / multiple) * multiple
        shape = tuple(int(n) for n in np.maximum(shape, self.config.locator_size))
        if np.prod(shape) > MAX_LOCATOR_VOXELS:
            extent = " × ".join(f"{x:.0f}" for x in high - low)
            raise InputError(
                f"the field of view, {extent} mm, is too large for a model with {self.config.voxel_size_mm:g} mm "
                "voxels; crop the image or use a model for this anatomy"
            )
        target = geometry.conformed_vox2world((low + high) / 2, shape, self.config.locator_voxel_size_mm)
        window = resample.conform(image, vox2world, shape, target, self.device, fill=torch.nan)
        logit = self._predict("locator", network_input(window))
        covered = ~window.isnan()
        if not covered.any():
            extent = " × ".join(f"{x:.3g}" for x in high - low)
            raise InputError(f"no brain found: the field of view, {extent} mm, is smaller than the model's voxels")
        logit = logit.masked_fill(~covered, FAR_LOGIT).cpu().numpy()
        # Where nothing is sure, the best guess lets the segmenter decide.
        threshold = 0.0 if (logit > 0).any() else float(np.quantile(logit[covered.cpu().numpy()], 0.98))
        middle = middle_mm(largest_component(logit >= threshold), target)
        if middle is None:  # weights whose logits are not finite
            raise InputError(NO_BRAIN)
        return middle


def _coarsen(image, vox2world, voxel_size_mm, values_of=np.float32) -> tuple[np.ndarray, np.ndarray]:
    """An image near a network's voxel size, and its vox2world; no slab thinner than one voxel."""
    image, vox2world = resample.block_mean(image, vox2world, voxel_size_mm, values_of)
    return image, geometry.thicken(image.shape, vox2world, voxel_size_mm)


def _is_black(stored: np.ndarray, intensities: Intensities) -> bool:
    """Whether most of the stored values [N] of a mask are as dark as the darkest of its image."""
    sample = stored[:: 1 + stored.size // MEDIAN_OF]
    return bool(np.median(intensities.relative(sample)) < BLACK)


@dataclass(frozen=True)
class Bright:
    """The largest bright part of an image: its bounds in RAS mm, [3] each, and its share of all that is bright;
    and the values of the darkest and the brightest of the image."""

    low_mm: np.ndarray
    high_mm: np.ndarray
    share: float
    darkest: float
    brightest: float

    @property
    def length_mm(self) -> float:
        return float((self.high_mm - self.low_mm).max())

    def relative(self, value: float) -> float:
        """A value as a share of the brightness of the image."""
        return (value - self.darkest) / max(self.brightest - self.darkest, 1e-30)

    def share_within(self, mask: np.ndarray, vox2world: np.ndarray) -> float:
        """How much of a mask, boolean [X, Y, Z] on a conformed grid, not empty, lies within the bounds or AROUND
        them."""
        beyond, size, first = AROUND * self.length_mm, vox2world[0, 0], vox2world[:3, 3]
        start = np.ceil((self.low_mm - beyond - first) / size).clip(0).astype(int)
        stop = np.floor((self.high_mm + beyond - first) / size + 1).clip(0).astype(int)
        part = mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        return np.count_nonzero(part) / np.count_nonzero(mask)


def find_bright(image: np.ndarray, vox2world: np.ndarray) -> Bright:
    """What is bright in an image [X, Y, Z] at the locator's voxel size, but for specks."""
    darkest, middle = float(image.min()), float(np.median(image))
    noise = middle + DEVIATIONS * MAD * float(np.median(np.abs(image - middle)))
    seen, found = image, None
    while True:
        rank = min(BRIGHTEST, 1 + image.size // 200)
        brightest = float(np.partition(seen, seen.size - rank, axis=None)[seen.size - rank])
        level = darkest + BRIGHT * (brightest - darkest)
        if noise < darkest + AIR * (brightest - darkest):
            level = max(level, noise)
        bright = seen >= level
        part = largest_component(bright)
        box = geometry.bounding_box(part)
        low, high = geometry.world_bounds(tuple(s.stop - s.start for s in box), geometry.part_of(vox2world, box))
        size = np.count_nonzero(part)
        latest = Bright(low, high, size / np.count_nonzero(bright), darkest, brightest)
        found = found or latest  # where all is small
        if size >= SPECK:
            return latest
        if level <= middle or level >= brightest:
            return found
        seen = np.where(bright, np.float32(darkest), seen)


def network_input(window: torch.Tensor, brain: torch.Tensor | None = None) -> torch.Tensor:
    """What a network is shown of a conformed image [X, Y, Z], NaN where it has no data; brain: see `normalise`."""
    return normalise(window[None], ~window.isnan()[None], None if brain is None else brain[None])[0]
