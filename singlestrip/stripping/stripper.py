"""Image to brain probability to brain mask, on arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from scipy import special

from ..configuration import MAX_LOCATOR_SIZE, StrippingConfig
from ..errors import InputError, ModelError, NoBrainError
from ..networks.engine import Engine
from ..networks.engine_choice import as_engine, load_engine
from ..networks.evidence import Evidence, find_evidence
from ..networks.model_files import find_model
from ..networks.model_header import CASCADE, Anatomy
from ..networks.normalisation import bright_percentile, intensity_range, normalise
from ..space.distance import move_border, signed_distance
from ..space.grid import Box, Grid, geometry_fault
from ..space.metrics import dice
from ..space.morphology import clean, large_components, largest_component, largest_components, middle_mm
from ..space.resample import coarsened, conform
from ..space.scan import Scan, as_scan
from .brain_field import FAR_LOGIT, BrainField
from .brain_volume import describe_unusual_volume, usual_volumes_ml
from .brightness import Bright, find_bright
from .class_field import ClassViews, Shown, brain_channels, brain_logit
from .intensities import Intensities, intensities_of
from .views import View, logits_of_views, usual_views

if TYPE_CHECKING:  # its module imports torch
    from ..networks.cascade import Cascade

MAX_LOCATOR_VOXELS = MAX_LOCATOR_SIZE**3  # 640 mm a side for the human model; see io/images/memory_need.py
NO_BRAIN = (
    "no brain found: is this a head, and is the orientation in its header right? if so, strip it with the middle "
    "of its brain given"
)
Point = Sequence[float] | np.ndarray  # RAS mm [3]
MEDIAN_VOXELS = 30_000  # a median is taken of about as many


@dataclass(frozen=True, eq=False)
class Stripped:
    """A brain mask, and what is told beside it.

    mask: boolean [X, Y, Z]. sdt: float32 [X, Y, Z] mm, or None if it was not asked for. unusual: a clause if the
    brain, before its border was moved, is smaller or larger than those that the model is for; "" if it is not.
    doubts: clauses that say why the mask may be wrong, of what costs no time to tell: views of the networks that
    do not agree, or much of the mask in the dark. field: the output of the networks that the mask is made of.
    probability: of brain by the networks, float32 [X, Y, Z], or None if it was not asked for. It is that before
    components are left out, holes are filled and the border is moved: 0.5 at the border of the mask elsewhere.
    """

    mask: np.ndarray
    field: BrainField
    sdt: np.ndarray | None = None
    unusual: str = ""
    doubts: tuple[str, ...] = ()
    probability: np.ndarray | None = None


ClassUser = TypeVar("ClassUser")


def load_for_classes(
    make: Callable[[Stripper], ClassUser], model: str | os.PathLike[str], device: str, engine: str
) -> ClassUser:
    """What uses the classes of a model, made of its stripper. Arguments and errors as of `Stripper.load`; an error
    of `make` gets the model's name."""
    stripper = Stripper.load(model, device, engine, keeps_classes=True)
    try:
        return make(stripper)
    except ModelError as error:
        raise ModelError(f"{model}: {error}") from error


@dataclass(frozen=True, eq=False)
class Look:
    """An image, the range of its intensities, and what the networks see in it."""

    scan: Scan
    intensities: Intensities
    field: BrainField


class Stripper:
    """A loaded model that strips one image after another.

    It may be used from any number of threads, and on a processor in forked workers too. networks: of a model, as
    an engine or as torch has them. views: what the segmenter is shown of a window beside the window itself. None
    stands for `usual_views`; an empty sequence makes stripping faster and less accurate. anatomy: what the model's
    file tells of the brains that it is for. fluid: whether fluid around the brain belongs to the mask; False needs
    a model that tells it apart. keeps_classes: whether fields have the probabilities of the model's classes; all
    of these count as brain if none is.
    """

    def __init__(
        self,
        networks: Engine | Cascade,
        views: Sequence[View] | None = None,
        stripping: StrippingConfig = StrippingConfig(),
        anatomy: Anatomy | None = None,
        fluid: bool = True,
        keeps_classes: bool = False,
    ) -> None:
        """Raises ModelError if the model cannot tell the brain that is asked for; see `brain_channels`."""
        self.engine = as_engine(networks)
        self.config = self.engine.config
        self.brain_channels = brain_channels(self.config, fluid, or_all=keeps_classes)
        self.keeps_classes = keeps_classes
        self.is_one_piece = not self.config.classes or bool(self.config.brain_channels)  # other organs are several
        self.views = usual_views(stripping.peak) if views is None else views
        self.stripping = stripping
        self.usual_ml = usual_volumes_ml(self.config.scale, anatomy, stripping.volume)

    @staticmethod
    def load(
        model: str | os.PathLike[str] | None = None,
        device: str = "auto",
        engine: str = "auto",
        fluid: bool = True,
        keeps_classes: bool = False,
    ) -> Stripper:
        """From a model file, or a name in the models folder; None for the shipped weights.

        device, engine: where the networks run and what runs them, see `networks.engine.load_engine`. fluid,
        keeps_classes: see `Stripper`. Raises ModelError.
        """
        path = find_model(model)
        networks, header = load_engine(path, CASCADE, device, engine)
        try:
            return Stripper(networks, anatomy=header["anatomy"], fluid=fluid, keeps_classes=keeps_classes)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error

    def strip(
        self,
        image: Scan | np.ndarray,
        vox2world: np.ndarray | None = None,
        border_mm: float = 0.0,
        sdt: bool = False,
        slope: float = 1.0,
        intercept: float = 0.0,
        centre_mm: Point | None = None,
        probability: bool = False,
    ) -> Stripped:
        """Brain mask of one image.

        image: a Scan, or an array [X, Y, Z] of any real type with its vox2world (4×4, voxel index to RAS mm)
        and, if it has them, its slope and intercept. Voxels that are not finite count as background.
        border_mm moves the surface outward (positive) or inward. sdt: also return the signed distance to the
        surface before `border_mm` moved it. centre_mm: RAS mm [3], where a person sees the middle of the brain;
        the window is then put there, and the networks do not search. None to search. probability: also return
        the probability of brain.

        Raises InputError if the image is constant or too large, or if the centre lies outside it; NoBrainError if
        no brain is found. A mask most of which is as dark as the darkest of the image is no brain.
        """
        look = self.look(image, vox2world, slope, intercept, centre_mm)
        scan, field = look.scan, look.field
        # All that is combined lies in memory as the image does: mixed orders are slow.
        box, logit = field.around_brain(scan.grid, "C" if scan.array.flags.c_contiguous else "F")
        if scan.array.dtype.kind == "f":
            logit[~np.isfinite(scan.array[box])] = FAR_LOGIT
        mask = np.zeros_like(scan.array, dtype=bool)
        mask[box] = logit > 0
        probable = _probability(logit, box, mask) if probability else None
        if not sdt and border_mm == 0:
            del logit  # components need the memory
        mask = clean(mask)
        unusual, doubts = self.judge(look, mask, box, centre_mm)
        if sdt and mask.all():
            raise InputError("the brain found fills the image: there is no surface to measure distances from")
        distance = signed_distance(logit, mask, scan.vox2world, box) if sdt else None
        if border_mm != 0:
            moved = move_border(logit, mask, scan.vox2world, border_mm, box)
            if scan.array.dtype.kind == "f":
                moved &= np.isfinite(scan.array)
            mask = clean(moved)
            if not mask.any():
                raise InputError(f"a border of {border_mm:g} mm leaves no brain")
        return Stripped(mask, field, distance, unusual, doubts, probable)

    def judge(
        self, look: Look, mask: np.ndarray, box: Box, centre_mm: Point | None = None
    ) -> tuple[str, tuple[str, ...]]:
        """What is unusual in a brain mask of a scan, boolean [X, Y, Z], and why it may be wrong; see `Stripped`.

        look: that the mask is made of. box: around all of the mask. centre_mm: as for `strip`. Raises
        NoBrainError, or InputError with a centre, if the mask is no brain: empty, or mostly as dark as the darkest
        of the image.
        """
        inside = look.scan.array[box][mask[box]]
        brightness = look.intensities.relative(inside[:: 1 + inside.size // MEDIAN_VOXELS])
        if not inside.size or self._is_black(brightness):
            raise no_brain_error(centre_mm)
        unusual = describe_unusual_volume(mask, look.scan.vox2world, self.usual_ml)
        return unusual, self._doubts(look.field, brightness)

    def field(
        self,
        image: Scan | np.ndarray,
        vox2world: np.ndarray | None = None,
        slope: float = 1.0,
        intercept: float = 0.0,
        centre_mm: Point | None = None,
    ) -> BrainField:
        """The brain's logit in the segmenter's window; arguments and errors as for `strip`."""
        return self.look(image, vox2world, slope, intercept, centre_mm).field

    def look(
        self,
        image: Scan | np.ndarray,
        vox2world: np.ndarray | None = None,
        slope: float = 1.0,
        intercept: float = 0.0,
        centre_mm: Point | None = None,
    ) -> Look:
        """What the networks see in an image; arguments and errors as for `strip`."""
        scan = _checked(image, vox2world, slope, intercept)
        intensities = intensities_of(scan, self.stripping.intensities)
        return Look(scan, intensities, self._field(scan, intensities, centre_mm))

    def _field(self, scan: Scan, intensities: Intensities, centre_mm: Point | None = None) -> BrainField:
        """The brain's logit in the segmenter's window, which is put at `centre_mm` if that is given.

        The networks look at the bright part alone if it is small in a wide field of view, or if what they find in
        the whole image is dark or lies beside the bright part.
        """
        config = self.stripping.brightness
        fine, coarse = self._coarsened(scan, intensities.of)
        bright = find_bright(coarse, config)
        if centre_mm is not None:
            return self._segment(fine, checked_centre(centre_mm, scan.grid), bright)
        knows_wide_fields = self.config.locator_doublings > 0
        small = not knows_wide_fields and self._is_small(bright, scan.grid)
        if not small:
            field = self._segment(fine, self._locate(fine, coarse), bright)
            in_bright = knows_wide_fields or field.share_in_bright > config.most
            if field.brightness >= config.dim_brain and in_bright:
                return field
        closer = scan.part(scan.grid.box_around(bright.low_mm, bright.high_mm, config.margin))
        zoom = config.magnified * self.config.window_mm / bright.length_mm if small else 1.0
        magnify = np.diag([zoom, zoom, zoom, 1.0])
        fine, coarse = self._coarsened(replace(closer, vox2world=magnify @ closer.vox2world), intensities.of)
        field = self._segment(fine, self._locate(fine, coarse), bright)
        return replace(field, vox2world=np.linalg.inv(magnify) @ field.vox2world)

    def _is_small(self, bright: Bright, grid: Grid) -> bool:
        """Whether what is bright is one thing, too small for the networks, in a wider field of view."""
        config = self.stripping.brightness
        small = bright.length_mm < config.small * self.config.window_mm
        low, high = grid.bounds_mm()
        return small and bright.share > config.most and bright.length_mm * config.wide < float((high - low).max())

    def _is_black(self, brightness: np.ndarray) -> bool:
        """Whether most of a mask is as dark as the darkest of its image. brightness: [N], shares of the range."""
        return bool(np.median(brightness) < self.stripping.brightness.black)

    def _doubts(self, field: BrainField, brightness: np.ndarray) -> tuple[str, ...]:
        """Why a mask may be wrong. field: that it is made of; brightness: in it, [N], shares of the range."""
        doubts = []
        agreement, dark = float(np.mean(field.view_dice())), float((brightness < self.stripping.dark).mean())
        if agreement < self.stripping.view_dice:
            doubts.append(f"the views of the networks agree by {agreement:.2f} only")
        if dark > self.stripping.dark_share:
            doubts.append(f"{100 * dark:.0f} % of the mask is as dark as the darkest of the image")
        return tuple(doubts)

    def _coarsened(self, scan: Scan, values_of: Callable[[np.ndarray], np.ndarray]) -> tuple[Scan, Scan]:
        """Values of a scan near the voxel sizes of segmenter and locator."""
        fine = coarsened(scan, self.config.voxel_size_mm, values_of)
        return fine, coarsened(fine, self.config.locator_voxel_size_mm)

    def _segment(self, scan: Scan, centre_mm: np.ndarray, bright: Bright) -> BrainField:
        """The brain seen in a window around a point, RAS mm [3].

        A second look follows if the first found the brain aside or dim. bright: what is bright in the whole
        image.
        """
        size = (self.config.segmenter_size,) * 3
        grid, window = self._window(scan, centre_mm, size)
        shown, logits = self._show(window)
        logit = brain_logit(logits, self.brain_channels)
        brain = self._sought((logit > 0) & ~np.isnan(window))
        middle = middle_mm(brain, grid.vox2world)
        if middle is None:
            return BrainField(logit, grid.vox2world, 0.0)
        aside = np.abs(middle - centre_mm).max() > self.stripping.recentre_mm * self.config.scale
        if aside or bright_percentile(shown.image[brain]) <= self.stripping.dim:
            if aside:
                before = Scan(brain, grid.vox2world)
                grid, window = self._window(scan, middle, size)
                brain = conform(before, grid) > 0.5
            shown, logits = self._show(window, brain)
        predict, mirrored = partial(self._logits, "segmenter"), self.config.mirrored_channels
        seen = logits_of_views(logits, shown.image, predict, self.views, mirrored)
        gathered = ClassViews(~np.isnan(window)) if self.keeps_classes else None
        brain_views = []
        for logits in seen:
            brain_views.append(brain_logit(logits, self.brain_channels))
            if gathered is not None:
                gathered.add(logits)
            del logits  # before the next are computed
        views = np.stack(brain_views)
        logit = views.mean(0)
        inside = (logit > 0) & ~np.isnan(window)
        if not inside.any():
            return BrainField(logit, grid.vox2world, 0.0)
        brightness = bright.relative(float(np.median(window[inside])))
        share = bright.share_of(inside, grid, self.stripping.brightness.margin)
        classes = None if gathered is None else gathered.field(shown)
        return BrainField(logit, grid.vox2world, brightness, share, views, classes)

    def _sought(self, mask: np.ndarray) -> np.ndarray:
        """The anatomy sought in a mask [X, Y, Z]: of a brain the largest piece, of organs all large pieces."""
        return largest_component(mask) if self.is_one_piece else large_components(mask, self.stripping.least_piece)

    def _window(self, scan: Scan, centre_mm: np.ndarray, size: tuple[int, ...]) -> tuple[Grid, np.ndarray]:
        """The segmenter's grid around a point, and a scan on it, NaN beyond the scan."""
        grid = Grid.conformed(centre_mm, size, self.config.voxel_size_mm)
        return grid, conform(scan, grid, fill=np.nan)

    def _predict(self, network: str, shown: np.ndarray) -> np.ndarray:
        """The brain's logit [X, Y, Z] by one network for a normalised image [X, Y, Z]."""
        logits = self._logits(network, shown)
        return brain_logit(logits, self.brain_channels) if network == "segmenter" else logits[0]

    def _show(self, window: np.ndarray, brain: np.ndarray | None = None) -> tuple[Shown, np.ndarray]:
        """What the segmenter is shown of a conformed image [X, Y, Z], NaN where it has no data, and its logits
        [C, X, Y, Z], as of `_logits`; brain: see `normalise`."""
        image = network_input(window, brain)
        logits = self._network_logits("segmenter", image)
        evidence = self._evidence(image, logits)
        if evidence is None:
            return Shown(image), logits
        low, width = intensity_range(window, ~np.isnan(window), brain)
        says = evidence.of(image)
        return Shown(image, evidence, says, low, width), logits + says

    def _logits(self, network: str, shown: np.ndarray) -> np.ndarray:
        """All logits [C, X, Y, Z] of one network for a normalised image [X, Y, Z].

        Those of classes count what the image itself says of them.
        """
        logits = self._network_logits(network, shown)
        evidence = self._evidence(shown, logits) if network == "segmenter" else None
        return logits if evidence is None else logits + evidence.of(shown)

    def _network_logits(self, network: str, shown: np.ndarray) -> np.ndarray:
        """All logits [C, X, Y, Z] of one network alone."""
        return self.engine.run(network, shown[None, None])[0]

    def _evidence(self, shown: np.ndarray, logits: np.ndarray) -> Evidence | None:
        """What an image [X, Y, Z] says of classes with logits [C, X, Y, Z]; None if it is not asked."""
        asked = self.config.evidence
        return None if asked is None else find_evidence(shown, logits, self.config.mirrored_channels, asked)

    def _locate(self, fine: Scan, coarse: Scan) -> np.ndarray:
        """RAS mm [3] of the middle of the brain's bounding box, as the locator sees it.

        fine, coarse: the image near the voxel sizes of segmenter and locator. In a field of view wider than the
        locator's window several parts may look like a brain. A locator that has learned wide fields then looks at
        all of it at its own and at larger voxels. Both networks look closer at each part that it finds, and the
        one on which they agree most is the brain.
        """
        low, high = coarse.grid.bounds_mm()
        extent = high - low
        usual = self._locator_grid((low + high) / 2, extent)
        if extent.max() <= self.stripping.widest * self.config.locator_mm or not self.config.locator_doublings:
            return self._middle(usual, self._see(coarse, usual))
        grids = [self._locator_grid((low + high) / 2, extent, k) for k in range(1 + self.config.locator_doublings)]
        fitting = [grid for grid in grids if np.prod(grid.shape) <= MAX_LOCATOR_VOXELS]
        # If no grid fits, the usual one says so.
        looks = [(grid, self._see(coarsened(coarse, grid.voxel_sizes_mm[0]), grid)) for grid in fitting or [usual]]
        found = [middle for look in looks for middle in self._parts(*look)]
        closer = [each for middle in found if (each := self._look_closer(fine, coarse, middle)) is not None]
        return max(closer, key=lambda each: each[0])[1] if closer else self._middle(*looks[0])

    def _locator_grid(self, centre_mm: np.ndarray, extent_mm: np.ndarray, doublings: int = 0) -> Grid:
        """The locator's grid around a point that covers an extent [3], its voxel size doubled so often."""
        voxel_size_mm = self.config.locator_voxel_size_mm * 2**doublings
        multiple = self.config.locator.multiple
        size = np.ceil(extent_mm / voxel_size_mm / multiple) * multiple
        shape = np.maximum(size, self.config.locator_size).astype(int)
        return Grid.conformed(centre_mm, tuple(shape.tolist()), voxel_size_mm)

    def _see(self, scan: Scan, grid: Grid) -> np.ndarray:
        """The locator's logit [X, Y, Z] on a grid, FAR_LOGIT beyond the scan. Raises InputError if the grid is too
        large, or if the scan has no voxel on it."""
        low, high = scan.grid.bounds_mm()
        if np.prod(grid.shape) > MAX_LOCATOR_VOXELS:
            extent = " × ".join(f"{x:.0f}" for x in high - low)
            raise InputError(
                f"the field of view, {extent} mm, is too large for a model with {self.config.voxel_size_mm:g} mm "
                "voxels; crop the image or use a model for this anatomy"
            )
        window = conform(scan, grid, fill=np.nan)
        beyond = np.isnan(window)
        if beyond.all():
            extent = " × ".join(f"{x:.3g}" for x in high - low)
            raise InputError(f"no brain found: the field of view, {extent} mm, is smaller than the model's voxels")
        logit = self._predict("locator", network_input(window))
        return np.where(beyond, np.float32(FAR_LOGIT), logit)

    def _middle(self, grid: Grid, logit: np.ndarray) -> np.ndarray:
        """RAS mm [3] of the middle of the largest part that the locator takes for brain.

        If no voxel is positive, it is of the highest ones: the segmenter decides.
        """
        threshold = 0.0
        if not (logit > 0).any():
            threshold = float(np.quantile(logit[logit != FAR_LOGIT], 1 - self.stripping.least_share))
        middle = middle_mm(self._sought(logit >= threshold), grid.vox2world)
        if middle is None:  # weights whose logits are not finite
            raise NoBrainError(NO_BRAIN)
        return middle

    def _parts(self, grid: Grid, logit: np.ndarray) -> list[np.ndarray]:
        """RAS mm [3] of the middles of the largest parts that the locator takes for brain."""
        parts = (
            largest_components(logit > 0, self.stripping.parts) if self.is_one_piece else [self._sought(logit > 0)]
        )
        middles = (middle_mm(part, grid.vox2world) for part in parts)
        return [middle for middle in middles if middle is not None]

    def _look_closer(self, fine: Scan, coarse: Scan, start_mm: np.ndarray) -> tuple[float, np.ndarray] | None:
        """How far both networks agree on a brain near a point, and the middle [3] of what the locator sees there.

        None if the locator sees no brain there at its own voxel size.
        """
        middle = start_mm
        for _ in range(2):  # the second time in the middle of the window
            grid = self._locator_grid(middle, np.zeros(3))
            brain = self._sought(self._see(coarse, grid) > 0)
            seen = middle_mm(brain, grid.vox2world)
            if seen is None:
                return None
            middle = seen
        window_grid, window = self._window(fine, middle, (self.config.segmenter_size,) * 3)
        logit = self._predict("segmenter", network_input(window))
        logit = np.where(np.isnan(window), np.float32(FAR_LOGIT), logit)
        segmented = self._sought(logit > 0)
        located = conform(Scan(brain, grid.vox2world), window_grid) > 0.5
        return dice(located, segmented) * promised_dice(logit, segmented), middle


def _checked(image: Scan | np.ndarray, vox2world: np.ndarray | None, slope: float, intercept: float) -> Scan:
    """The scan to strip. Raises InputError if it is no image of real numbers in space."""
    given = as_scan(image, vox2world, slope, intercept)
    scan = replace(given, array=np.asarray(given.array), vox2world=np.asarray(given.vox2world, dtype=float))
    if scan.array.ndim != 3 or scan.vox2world.shape != (4, 4):
        raise InputError(
            f"need an image [X, Y, Z] and a 4×4 vox2world, not {scan.array.shape}, {scan.vox2world.shape}"
        )
    if scan.array.dtype.kind not in "biuf":
        raise InputError(f"voxels of type {scan.array.dtype} are not real numbers")
    fault = geometry_fault(scan.vox2world)
    if fault:
        raise InputError(fault)
    return scan


def _probability(logit: np.ndarray, box: Box, like: np.ndarray) -> np.ndarray:
    """The probability, float32, of a logit within a box of a grid; 0 beyond it. like: an array of that grid."""
    probability = np.zeros_like(like, dtype=np.float32)
    probability[box] = special.expit(logit)
    return probability


def promised_dice(logit: np.ndarray, mask: np.ndarray) -> float:
    """The Dice of a mask with the truth that the logit [X, Y, Z] promises: expected overlap over expected mean
    size. 0 for an empty mask."""
    probability = 1 / (1 + np.exp(-logit.clip(FAR_LOGIT, -FAR_LOGIT)))
    return 2 * float(probability[mask].sum()) / float(probability.sum() + np.count_nonzero(mask))


def checked_centre(centre_mm: Point, grid: Grid) -> np.ndarray:
    """The centre [3], RAS mm. Raises InputError if it lies outside a grid."""
    centre = np.asarray(centre_mm, dtype=float)
    if centre.shape != (3,) or not np.isfinite(centre).all():
        raise InputError(f"the centre of the brain is three finite numbers, RAS mm, not {centre_mm}")
    if not grid.contains(centre):
        bounds = zip("xyz", *grid.bounds_mm(), strict=True)
        reach = ", ".join(f"{axis} from {low:.4g} to {high:.4g}" for axis, low, high in bounds)
        raise InputError(f"the centre {_in_words(centre)} lies outside the field of view, which has {reach} mm")
    return centre


def no_brain_error(centre_mm: Point | None) -> InputError:
    """The error to raise if no brain is found; centre_mm: where a person sees one, None if nobody said so."""
    if centre_mm is None:
        return NoBrainError(NO_BRAIN)
    around = _in_words(centre_mm)
    return InputError(f"no brain found around {around}: is this its middle, and is the model for this anatomy?")


def _in_words(point_mm: Point) -> str:
    """A point in RAS mm as text."""
    return f"({', '.join(f'{value:g}' for value in point_mm)} mm)"


def network_input(window: np.ndarray, brain: np.ndarray | None = None) -> np.ndarray:
    """What a network is shown of a conformed image [X, Y, Z], NaN where it has no data; brain: see `normalise`."""
    return normalise(window, ~np.isnan(window), brain)
