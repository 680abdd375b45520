"""The stages of stripping one image: read and check it, find the brain, write the outputs."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, errors_named
from ..io.images import memory_need, volume
from ..io.images.header import ImageHeader
from ..io.images.masks import read_masks
from ..io.images.names import is_mgh
from ..io.images.volume import Volume
from ..io.pictures import figures
from ..space.grid import Box, Grid
from ..space.morphology import bounding_box
from ..space.scan import Scan
from .jobs import Job, StripOptions
from .pipeline import Say, write_together
from .reading import check_files, check_grids, frames_to_see, read_image

if TYPE_CHECKING:  # their modules import torch
    from ..quality.reconstruction import Reconstruction
    from ..quality.scores import MaskQuality, QualityModel
    from ..stripping.brain_field import BrainField
    from ..stripping.lesion_finder import LesionFinder
    from ..stripping.stripper import Stripped, Stripper


PROBABILITY_STEP = 1 / 255  # probabilities are written as bytes


@dataclass(frozen=True)
class Prepared:
    """An image that was read and checked.

    frames: what the masks are made from. fill: the stored value of the background, 0-D.
    """

    image: Volume
    frames: list[Scan]
    fill: np.ndarray


@dataclass(frozen=True)
class Brain:
    """What was found in an image, or in one frame.

    masks: boolean [X, Y, Z, T]. sdts: signed distances in mm, and doubts: maps of doubt, float32 [X, Y, Z, T].
    probabilities: of brain in steps of PROBABILITY_STEP, uint8 [X, Y, Z, T]. lesions: boolean [X, Y, Z, T]. These
    and the quality, of the worst frame, are None if they are not wanted. remarks: clauses, with advice, on what is
    unusual or why the mask may be wrong, of the first such frame.
    """

    masks: np.ndarray
    sdts: np.ndarray | None
    doubts: np.ndarray | None
    quality: MaskQuality | None
    remarks: tuple[str, ...]
    probabilities: np.ndarray | None = None
    lesions: np.ndarray | None = None


def prepare(job: Job, options: StripOptions, window_mm: float, say: Say) -> Prepared:
    """Read the image of a job and check everything that can be checked without a network.

    window_mm: side of the segmenter's window. Raises SingleStripError.
    """
    header = check_files(job)
    memory_need.check(
        header,
        _wants_distance(job, options),
        window_mm,
        options.memory_gib,
        _brain_in_mgh(job),
        "doubt" in job.outputs,
        "probability" in job.outputs,
        "lesions" in job.outputs,
    )
    check_grids(header, job)
    image = read_image(job, say)
    frames = frames_to_see(image, job, options)
    with errors_named(job.image):
        fill = stored_fill(image, options.fill)
        if "brain" in job.outputs:
            volume.check_values_fit(image, job.outputs["brain"], fill)
    return Prepared(image, frames, fill)


def memory_needed(header: ImageHeader, job: Job, options: StripOptions, window_mm: float) -> int:
    """Upper estimate, in bytes, of the memory that the whole process takes to strip the image of a job."""
    return memory_need.estimate(
        header,
        _wants_distance(job, options),
        window_mm,
        _brain_in_mgh(job),
        "doubt" in job.outputs,
        "probability" in job.outputs,
        "lesions" in job.outputs,
    )


def _wants_distance(job: Job, options: StripOptions) -> bool:
    """Whether signed distances are computed."""
    return "sdt" in job.outputs or options.border_mm != 0


def _brain_in_mgh(job: Job) -> bool:
    """Whether the stripped image is written in MGH."""
    return "brain" in job.outputs and is_mgh(job.outputs["brain"])


def find_brain(
    stripper: Stripper,
    prepared: Prepared,
    job: Job,
    options: StripOptions,
    say: Say,
    quality: QualityModel | None = None,
    assess: bool = True,
    finder: LesionFinder | None = None,
) -> Brain:
    """The brain in each frame of an image.

    quality: assesses the masks, unless `assess` is False, and makes the maps of doubt if the job asks for them.
    finder: finds lesions if the job asks for them. Raises InputError.
    """
    if "doubt" in job.outputs and quality is None:
        raise InputError(f"{job.image}: a map of doubt needs a quality network")
    if "lesions" in job.outputs and finder is None:
        raise InputError(f"{job.image}: finding lesions needs a model of lesions")
    with errors_named(job.image):
        frames = list(_strip_frames(stripper, prepared.frames, options, job.outputs, quality, assess, finder))
    brain = _gathered(frames)
    for remark in brain.remarks:
        say(f"{job.image}: {remark}")
    return brain


def assess_kept(stripper: Stripper, job: Job, options: StripOptions, quality: QualityModel) -> MaskQuality:
    """The quality of the mask that is kept of a job, by its image and the networks. Raises InputError."""
    from ..quality.judging import FrameFields, judge_masks  # imports torch

    masks, image = read_masks(job.outputs["mask"])[1], volume.read_quietly(job.image)
    frames = frames_to_see(image, job, options)
    fields = FrameFields(stripper, frames, options.centre_mm)
    with errors_named(job.image):
        return judge_masks(quality, masks, image.vox2world, frames, fields)[0]


def write_outputs(job: Job, prepared: Prepared, brain: Brain, options: StripOptions) -> None:
    """Write the outputs of a job. Each appears whole or not at all. Raises OutputError."""
    one_mask = options.mean_frame or job.bval is not None
    write_together(job, lambda kind, path: _write_output(kind, path, prepared, brain, one_mask, options.crop_mm))


def _write_output(
    kind: str, path: Path, prepared: Prepared, brain: Brain, one_mask: bool, crop_mm: float | None
) -> None:
    """Write one output.

    one_mask: whether one mask is of all frames, and is written in 3-D. crop_mm: the margin to which the brain
    image is cropped; None to leave it whole.
    """
    image = prepared.image
    if kind == "brain":
        masks = brain.masks
        if crop_mm is not None:
            box = _box_with_margin(masks, image.grid, crop_mm)
            image, masks = volume.crop(image, box), masks[box]
        stored = np.where(masks, image.stored, prepared.fill)
        volume.write_like(image, path, stored, image.slope, image.intercept)
    elif kind == "mask":
        volume.write_like(image, path, brain.masks.view(np.uint8), label="brain mask", one_frame=one_mask)
    elif kind == "sdt" and brain.sdts is not None:
        volume.write_like(image, path, brain.sdts, label="brain SDT mm", one_frame=one_mask)
    elif kind == "doubt" and brain.doubts is not None:
        volume.write_like(image, path, brain.doubts, label="brain doubt", one_frame=one_mask)
    elif kind == "probability" and brain.probabilities is not None:
        label = "probability"
        volume.write_like(image, path, brain.probabilities, PROBABILITY_STEP, label=label, one_frame=one_mask)
    elif kind == "lesions" and brain.lesions is not None:
        volume.write_like(image, path, brain.lesions.view(np.uint8), label="lesions", one_frame=one_mask)
    elif kind == "picture":
        figures.mask_figure(Scan(image.grey(), image.vox2world), brain.masks[..., 0], path, image.path.name)


def _box_with_margin(masks: np.ndarray, grid: Grid, margin_mm: float) -> Box:
    """The box of brain masks [X, Y, Z, T], of all frames together, with a margin that ends with the grid."""
    brain = bounding_box(np.any(masks, axis=3))
    assert brain is not None, "a mask without brain is an error before"
    margin = np.ceil(np.minimum(margin_mm / grid.voxel_sizes_mm, grid.shape)).astype(int)
    return tuple(
        slice(max(side.start - int(beyond), 0), min(side.stop + int(beyond), length))
        for side, beyond, length in zip(brain, margin, grid.shape, strict=True)
    )


def _strip_frames(
    stripper: Stripper,
    frames: list[Scan],
    options: StripOptions,
    kinds: Container[str],
    quality: QualityModel | None,
    assess: bool,
    finder: LesionFinder | None,
) -> Iterator[Brain]:
    """What is found in each frame, arrays [X, Y, Z]. kinds: of outputs. Others: as for `find_brain`.

    The networks' output for a frame is not kept, since a series may have hundreds of frames.
    """
    for number, frame in enumerate(frames):
        place = "" if len(frames) == 1 else f"frame {number} of 0 to {len(frames) - 1}: "
        try:
            stripped = stripper.strip(
                frame,
                border_mm=options.border_mm,
                sdt="sdt" in kinds,
                centre_mm=options.centre_mm,
                probability="probability" in kinds,
            )
            lesions = finder.find(frame, stripped.mask) if finder is not None and "lesions" in kinds else None
        except InputError as error:
            if len(frames) == 1:
                raise
            raise type(error)(f"{place}{error}; a single mask of their mean may work") from error
        judged = doubt = None
        if quality is not None and (assess or "doubt" in kinds):
            mask = Scan(stripped.mask, frame.vox2world)
            reconstruction = quality.reconstruct(mask)
            judged = quality.measure(mask, reconstruction, frame, stripped.field) if assess else None
            doubt = _doubt_of(mask, reconstruction, stripped.field) if "doubt" in kinds else None
        remarks = tuple(place + each for each in _remarks(stripped))
        probability = _as_bytes(stripped.probability)
        yield Brain(stripped.mask, stripped.sdt, doubt, judged, remarks, probability, lesions)


def _as_bytes(probability: np.ndarray | None) -> np.ndarray | None:
    """A probability [X, Y, Z] in steps of PROBABILITY_STEP, uint8; None of None."""
    return None if probability is None else np.rint(probability / PROBABILITY_STEP).astype(np.uint8)


def _remarks(stripped: Stripped) -> Iterator[str]:
    """What is unusual in a frame, and why its mask may be wrong, with advice."""
    if stripped.unusual:
        yield f"{stripped.unusual}: is this another anatomy? see 'singlestrip models'"
    for doubt in stripped.doubts:
        yield f"{doubt}: look at the mask"


def _gathered(frames: list[Brain]) -> Brain:
    """What is found in all frames, from what is found in each."""
    return Brain(
        _stack_frames([each.masks for each in frames]),
        _stack_given([each.sdts for each in frames]),
        _stack_given([each.doubts for each in frames]),
        _worst_of([each.quality for each in frames if each.quality is not None]),
        next((each.remarks for each in frames if each.remarks), ()),
        _stack_given([each.probabilities for each in frames]),
        _stack_given([each.lesions for each in frames]),
    )


def _worst_of(qualities: list[MaskQuality]) -> MaskQuality | None:
    """The quality of the worst frame; None of no frame."""
    if not qualities:
        return None
    from ..quality.scores import worst_frame  # imports torch

    return worst_frame((quality, None) for quality in qualities)[0]


def _doubt_of(mask: Scan, reconstruction: Reconstruction, field: BrainField) -> np.ndarray:
    """The map of doubt of a mask, float32 [X, Y, Z]."""
    from ..quality.doubt import map_doubt  # imports torch

    return map_doubt(mask, reconstruction, field).everywhere()


def _stack_frames(frames: list[np.ndarray]) -> np.ndarray:
    """Frames [X, Y, Z] as one array [X, Y, Z, T], in memory in the order of files."""
    return frames[0][..., None] if len(frames) == 1 else np.stack([frame.T for frame in frames]).T


def _stack_given(frames: list[np.ndarray | None]) -> np.ndarray | None:
    """As `_stack_frames`, of the frames that are not None; None if all are."""
    given = [frame for frame in frames if frame is not None]
    return _stack_frames(given) if given else None


def stored_fill(image: Volume, fill: float | None) -> np.ndarray:
    """The background of the brain image as a stored value, 0-D, in the stored type.

    fill: a value after scaling; None for min(image minimum, 0), or the nearest value that can be stored.
    Raises InputError if `fill` cannot be stored.
    """
    value = fill
    if value is None:
        ends = [stored * image.slope + image.intercept for stored in volume.finite_range(image.stored)]
        value = min(*ends, 0.0)
    raw = (value - image.intercept) / image.slope
    kind = image.stored.dtype
    lowest: float
    highest: float
    if kind.kind in "iu":
        lowest, highest = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
        raw = round(raw) if np.isfinite(raw) else raw
        fits = lowest <= raw <= highest
    else:
        lowest, highest = float(np.finfo(kind).min), float(np.finfo(kind).max)
        fits = not np.isfinite(value) or lowest <= raw <= highest
    if not fits:
        if fill is not None:
            raise InputError(f"a fill of {fill:g} cannot be stored as {kind} with the scaling of this image")
        raw = lowest if raw < lowest else highest
    return np.array(raw, dtype=kind)
