"""How far a mask can be trusted, with no truth at hand: an estimated Dice, a flag, and the reasons for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from scipy import ndimage

from ..configuration import FlagConfig
from ..errors import InputError
from ..networks.engine import Engine
from ..networks.engine_choice import as_engine, load_engine
from ..networks.model_files import find_model, is_shipped
from ..networks.model_header import AUTOENCODER, CASCADE, Anatomy, read_header
from ..space.metrics import volume_ml
from ..space.morphology import fill_holes, mask_box, thin_axes
from ..space.scan import Scan, as_scan
from ..stripping.brain_field import BrainField
from ..stripping.brain_volume import describe_unusual_volume, usual_volumes_ml
from .estimator import Estimate, estimate_dice
from .evidence import (
    ImageWindow,
    SeenMask,
    Source,
    difference,
    image_evidence,
    mask_evidence,
    networks_evidence,
    own_mask,
)
from .reasons import find_reasons, touched_faces
from .reconstruction import Reconstruction, reconstruct

if TYPE_CHECKING:  # its module imports torch
    from ..networks.autoencoder import Autoencoder

log = logging.getLogger(__name__)

Given = TypeVar("Given", covariant=True)
Beside = TypeVar("Beside")


class PerFrame(Protocol[Given]):
    """What is given for each frame, by its number from 0 on."""

    def __len__(self) -> int: ...

    def __getitem__(self, frame: int, /) -> Given: ...


@dataclass(frozen=True, kw_only=True)
class MaskQuality:
    """What is known of a mask without truth.

    estimated_dice: Dice with the true mask, 0 to 1, as far as can be told; low, high: the interval in which nine
    of ten masks with such evidence lie; evidence: what was there to judge by: "mask"; "image", with the mask;
    "model", the networks that strip, with both. flag: "pass", "look" or "fail"; reasons: clauses that say what
    speaks against the mask, the gravest first.

    shape_dice, hd95_mm: Dice and distance of mask and reconstruction; slice_dice: the same Dice of axial slices,
    from the lowest slice up; lowest_slice_dice: the least of the slices that hold over a tenth of the largest;
    view_dice: mean Dice of the views of the networks with their mean, None without networks. components:
    6-connected parts; holes: enclosed cavities; touches_edge: whether the mask reaches the edge of the image,
    along axes of more than three slices; frame: which of several frames it is of, from 0 on.
    """

    estimated_dice: float
    low: float
    high: float
    evidence: Source
    flag: str
    reasons: tuple[str, ...]
    shape_dice: float
    hd95_mm: float
    slice_dice: tuple[float, ...]
    lowest_slice_dice: float
    view_dice: float | None
    volume_ml: float
    components: int
    holes: int
    touches_edge: bool
    frame: int | None = None

    @property
    def estimate(self) -> float:
        """Another name of `estimated_dice`, for programs that know it by this one."""
        return self.estimated_dice

    @property
    def border(self) -> bool:
        """Another name of `touches_edge`, for programs that know it by this one."""
        return self.touches_edge


def flag_of(estimated_dice: float, source: Source = "model", config: FlagConfig = FlagConfig()) -> str:
    """The flag of an estimated Dice: "pass", "look" or "fail". source: of the evidence."""
    by_networks = source == "model"
    if estimated_dice >= (config.pass_from if by_networks else config.shape_pass_from):
        return "pass"
    return "look" if estimated_dice >= (config.look_from if by_networks else config.shape_look_from) else "fail"


def worst_frame(frames: Iterable[tuple[MaskQuality, Beside]]) -> tuple[MaskQuality, Beside]:
    """The quality of the frame with the lowest estimated Dice, and what is given beside it.

    frames: of each frame, at least one. If there are several, the quality gets the number of its frame.
    """
    numbered = enumerate(frames)
    (worst_number, worst), count = next(numbered), 1
    for number, each in numbered:  # one after the other: what is beside them may be large
        count += 1
        if each[0].estimated_dice < worst[0].estimated_dice:
            worst_number, worst = number, each
    quality, beside = worst
    return replace(quality, frame=worst_number if count > 1 else None), beside


class QualityModel:
    """A loaded quality network that scores one mask after another.

    If the network has no estimator, the estimate is the Dice of mask and reconstruction. anatomy: what its file
    tells of the brains that it is for. name: what is told of it in reports.
    """

    def __init__(
        self,
        networks: Engine | Autoencoder,
        flags: FlagConfig = FlagConfig(),
        name: str = "",
        anatomy: Anatomy | None = None,
    ) -> None:
        self.engine = as_engine(networks)
        self.config, self.flags, self.name = self.engine.config, flags, name
        self.usual_ml = usual_volumes_ml(self.config.scale, anatomy)

    @staticmethod
    def load(
        model: str | os.PathLike[str] | None = None,
        device: str = "auto",
        flags: FlagConfig = FlagConfig(),
        engine: str = "auto",
    ) -> QualityModel:
        """From a model file with a quality network, or the name of a model; None for the default quality network.

        Raises ModelError.
        """
        path = find_model(model, AUTOENCODER.shipped)
        name = "shipped" if model is None else os.fspath(model)
        network, header = load_engine(path, AUTOENCODER, device, engine)
        return QualityModel(network, flags, name, header["anatomy"])

    @staticmethod
    def load_for(
        path: Path, device: str = "auto", flags: FlagConfig = FlagConfig(), engine: str = "auto"
    ) -> QualityModel:
        """The quality network in the model file that masks are made with, or the shipped one if it holds none.

        Logs a warning if the shipped network, which knows adult brains, stands in for that of another model.
        Raises ModelError.
        """
        if AUTOENCODER in read_header(path, CASCADE).parts:
            return QualityModel.load(path, device, flags, engine)
        if not is_shipped(path):
            log.warning(
                "%s: holds no quality network; the one for adult human brains estimates the quality of its masks",
                path,
            )
        return QualityModel.load(None, device, flags, engine)

    def assess(
        self,
        mask: Scan | np.ndarray,
        vox2world: np.ndarray | None = None,
        image: Scan | None = None,
        field: BrainField | None = None,
    ) -> MaskQuality:
        """Quality of a mask: a Scan, or a boolean array [X, Y, Z] with its vox2world.

        image: what the mask is of. field: the output of the networks for that image, see `Stripper.field`; it
        needs the image. Masks that are empty, and those that fill their image, have the estimated Dice 0. Raises
        InputError for what is no mask, and for an image with nothing to see.
        """
        scan = as_scan(mask, vox2world)
        return self.measure(scan, self.reconstruct(scan), image, field)

    def assess_worst(
        self,
        masks: np.ndarray,
        vox2world: np.ndarray,
        images: PerFrame[Scan] = (),
        fields: PerFrame[BrainField | None] = (),
    ) -> tuple[MaskQuality, Reconstruction]:
        """Quality and reconstruction of the frame with the lowest estimated Dice.

        masks: boolean [X, Y, Z, T]. images, fields: of each frame, as for `assess`; one for all frames, or none.
        A field may be None where the networks find no brain.
        """

        def frame(t: int) -> tuple[MaskQuality, Reconstruction]:
            """Quality and reconstruction of one frame."""
            mask = Scan(masks[..., t], vox2world)
            reconstruction = self.reconstruct(mask)
            return self.measure(mask, reconstruction, _of_frame(images, t), _of_frame(fields, t)), reconstruction

        if not masks.shape[3]:
            raise InputError("a mask without frames")
        return worst_frame(frame(t) for t in range(masks.shape[3]))

    def reconstruct(self, mask: Scan) -> Reconstruction:
        """A boolean mask as the network rebuilds it. Raises InputError for what is no mask."""
        return reconstruct(self.engine, mask)

    def measure(
        self,
        mask: Scan,
        reconstruction: Reconstruction,
        image: Scan | None = None,
        field: BrainField | None = None,
    ) -> MaskQuality:
        """Quality of a mask by its reconstruction, and by its image and the networks' output for it if given."""
        box = mask_box(mask.array)
        if box is None:
            return _EMPTY
        seen = None if image is None else self._seen(mask, reconstruction, image, field)
        evidence = self.evidence(mask, seen, reconstruction)
        if seen is not None and field is not None:
            evidence |= self._compared(seen, field)
        estimate = self._estimate(evidence)
        # A mask that fills its image says nothing of where the brain ends.
        full = bool(mask.array.mean() > self.flags.full)
        unusual = describe_unusual_volume(mask.array, mask.vox2world, self.usual_ml)
        faces = touched_faces(mask.array, mask.grid)
        reasons = find_reasons(evidence, full, unusual, faces)
        if full:
            estimate = replace(estimate, dice=0.0, low=0.0, high=0.0)
        is_wrong = full or bool(unusual) or evidence.get("dark", 0.0) > self.flags.dark
        part = mask.array[box]
        slice_dice, lowest = reconstruction.slice_dice()
        return MaskQuality(
            estimated_dice=estimate.dice,
            low=estimate.low,
            high=estimate.high,
            evidence=estimate.source,
            flag="fail" if is_wrong else flag_of(estimate.dice, estimate.source, self.flags),
            reasons=reasons,
            shape_dice=reconstruction.dice,
            hd95_mm=reconstruction.hd95_mm,
            slice_dice=slice_dice,
            lowest_slice_dice=lowest,
            view_dice=evidence.get("views"),
            volume_ml=volume_ml(part, mask.vox2world),
            components=int(ndimage.label(part)[1]),
            holes=int(ndimage.label(fill_holes(part, thin_axes(mask.shape)) & ~part)[1]),
            touches_edge=bool(faces),
        )

    def evidence(
        self, mask: Scan, seen: SeenMask | None = None, reconstruction: Reconstruction | None = None
    ) -> dict[str, float]:
        """What a boolean mask, not empty, shows by itself, and on its image if it is seen there."""
        evidence = mask_evidence(mask, reconstruction or self.reconstruct(mask))
        return evidence if seen is None else evidence | image_evidence(seen)

    def networks_evidence(self, field: BrainField, own: np.ndarray) -> dict[str, float]:
        """What the networks tell of their own mask. field: their output; own: of `own_mask`, not empty."""
        return networks_evidence(field, self.evidence(Scan(own, field.vox2world)))

    def _seen(self, mask: Scan, reconstruction: Reconstruction, image: Scan, field: BrainField | None) -> SeenMask:
        """A mask on its image, where the networks see it, or around the mask if it lies elsewhere."""
        grids = ([] if field is None else [field.grid]) + [reconstruction.finer_grid()]
        for grid in grids:
            seen = SeenMask.of(mask, ImageWindow.of(image, grid))
            if seen.brain.any():
                break
        return seen

    def _compared(self, seen: SeenMask, field: BrainField) -> dict[str, float]:
        """What the networks tell of a mask of an image: of their own mask, and of how the two differ."""
        own = own_mask(field)
        if not own.any():
            return {}
        return self.networks_evidence(field, own) | difference(seen.on(field.grid), own)

    def _estimate(self, evidence: dict[str, float]) -> Estimate:
        """The Dice that evidence speaks for."""
        if self.engine.estimator is None:
            return Estimate(evidence["shape_dice"], 0.0, 1.0, "mask")
        return estimate_dice(self.engine.estimator, evidence)


_EMPTY = MaskQuality(
    estimated_dice=0.0,
    low=0.0,
    high=0.0,
    evidence="mask",
    flag="fail",
    reasons=("empty",),
    shape_dice=0.0,
    hd95_mm=np.inf,
    slice_dice=(),
    lowest_slice_dice=0.0,
    view_dice=None,
    volume_ml=0.0,
    components=0,
    holes=0,
    touches_edge=False,
)


def _of_frame(given: PerFrame[Given], frame: int) -> Given | None:
    """What is given for a frame: of one for all frames that one; None of none."""
    return given[min(frame, len(given) - 1)] if given else None
