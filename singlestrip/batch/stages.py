"""The work on one image in stages: read and check it, find the brain, write the outputs.

Each stage may run in a thread of its own. What is unusual goes to a function `say` as a sentence, so that the
caller can log the sentences of several images in the order of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, OutputError, errors_named
from ..io.images import diffusion, memory_need, volume
from ..io.images.header import ImageHeader
from ..io.images.names import is_mgh
from ..io.images.volume import Volume
from ..io.output import check_distinct, check_picture
from ..io.pictures import figures
from ..space.scan import Scan
from .jobs import Job, StripOptions

if TYPE_CHECKING:  # their modules import torch
    from ..stripping.brain_field import BrainField
    from ..stripping.stripper import Stripped, Stripper

Say = Callable[[str], None]


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
    """What was found in an image.

    masks: boolean [X, Y, Z, T]; sdts: signed distances float32 [X, Y, Z, T] mm, None if not wanted; fields: the
    output of the networks for each frame.
    """

    masks: np.ndarray
    sdts: np.ndarray | None
    fields: list[BrainField]


def prepare(job: Job, options: StripOptions, window_mm: float, say: Say) -> Prepared:
    """Read the image of a job and check everything that can be checked without a network.

    window_mm: side of the segmenter's window. Raises SingleStripError.
    """
    _check_job(job, options, window_mm)
    image = volume.read_quietly(job.image)
    for remark in image.remarks:
        say(f"{image.path}: {remark}")
    bad = _count_bad(image)
    if bad:
        say(f"{job.image}: {bad} voxels are not finite and count as background")
    frames = _frames_to_strip(image, job, options)
    with errors_named(job.image):
        fill = stored_fill(image, options.fill)
        if "brain" in job.outputs:
            volume.check_values_fit(image, job.outputs["brain"], fill)
    return Prepared(image, frames, fill)


def _check_job(job: Job, options: StripOptions, window_mm: float) -> None:
    """Raise SingleStripError if an image cannot be stripped, as far as its header and the outputs' names show.

    window_mm: side of the segmenter's window.
    """
    if job.fault:
        raise OutputError(job.fault)
    check_distinct([job.image, job.bval] if job.bval else [job.image], job.outputs.values())
    # The header comes first, so that a name that no file can have is reported of the image, not of its outputs.
    header = volume.read_header(job.image)
    images = [path for kind, path in job.outputs.items() if kind != "picture"]
    for path in images:
        volume.check_output(path)
    if "picture" in job.outputs:
        check_picture(job.outputs["picture"])
    wants_distance, brain_in_mgh = _wants_distance(job, options), _brain_in_mgh(job)
    memory_need.check(header, wants_distance, window_mm, options.memory_gib, brain_in_mgh)
    for path in images:
        volume.check_grid_fits(header, path)


def memory_needed(header: ImageHeader, job: Job, options: StripOptions, window_mm: float) -> int:
    """Upper estimate, in bytes, of the memory that the whole process takes to strip the image of a job."""
    return memory_need.estimate(header, _wants_distance(job, options), window_mm, _brain_in_mgh(job))


def _wants_distance(job: Job, options: StripOptions) -> bool:
    """Whether signed distances are computed."""
    return "sdt" in job.outputs or options.border_mm != 0


def _brain_in_mgh(job: Job) -> bool:
    """Whether the stripped image is written in MGH."""
    return "brain" in job.outputs and is_mgh(job.outputs["brain"])


def find_brain(stripper: Stripper, prepared: Prepared, job: Job, options: StripOptions, say: Say) -> Brain:
    """The brain in each frame of an image. Raises InputError."""
    with errors_named(job.image):
        stripped = _strip_frames(stripper, prepared.frames, options, "sdt" in job.outputs)
    _remark(job.image, stripped, say)
    masks = _stack_frames([each.mask for each in stripped])
    sdts = [each.sdt for each in stripped if each.sdt is not None]
    return Brain(masks, _stack_frames(sdts) if sdts else None, [each.field for each in stripped])


def write_outputs(job: Job, prepared: Prepared, brain: Brain, options: StripOptions) -> None:
    """Write the outputs of a job, all at the same time. Each appears whole or not at all. Raises OutputError."""
    one_mask = options.mean_frame or job.bval is not None
    with ThreadPoolExecutor(len(job.outputs)) as pool:
        writing = [
            pool.submit(_write_output, kind, path, prepared, brain, one_mask) for kind, path in job.outputs.items()
        ]
        for output in writing:
            output.result()


def _write_output(kind: str, path: Path, prepared: Prepared, brain: Brain, one_mask: bool) -> None:
    """Write one output. one_mask: whether one mask is of all frames, and is written in 3-D."""
    image = prepared.image
    if kind == "brain":
        stored = np.where(brain.masks, image.stored, prepared.fill)
        volume.write_like(image, path, stored, image.slope, image.intercept)
    elif kind == "mask":
        volume.write_like(image, path, brain.masks.view(np.uint8), label="brain mask", one_frame=one_mask)
    elif kind == "sdt" and brain.sdts is not None:
        volume.write_like(image, path, brain.sdts, label="brain SDT mm", one_frame=one_mask)
    elif kind == "picture":
        figures.mask_figure(Scan(image.grey(), image.vox2world), brain.masks[..., 0], path, image.path.name)


def _count_bad(image: Volume) -> int:
    """The number of voxels that are not finite. Raises InputError if many of one frame are infinite."""
    if image.stored.dtype.kind != "f":
        return 0
    total = 0
    for t in range(image.frames):
        bad = int(np.count_nonzero(~np.isfinite(image.frame(t))))
        if 0 < bad < image.frame(t).size:
            image.check_not_overflowed(t)
        total += bad
    return total


def _frames_to_strip(image: Volume, job: Job, options: StripOptions) -> list[Scan]:
    """All frames of an image; or, if it gets a single mask, the mean of the frames that the mask is made from."""
    counting = None if job.bval is None else diffusion.b0_frames(job.bval, image.frames)
    if counting is None and options.mean_frame:
        counting = list(range(image.frames))
    if image.frames == 1 or counting is None:
        return [image.scan(t) for t in range(image.frames)]
    return [replace(image.scan(), array=_mean_frame(image, counting))]


def _strip_frames(stripper: Stripper, frames: list[Scan], options: StripOptions, sdt: bool) -> list[Stripped]:
    """Strip the frames of an image. sdt: with signed distances."""
    stripped = []
    for number, frame in enumerate(frames):
        try:
            stripped.append(
                stripper.strip(frame, border_mm=options.border_mm, sdt=sdt, centre_mm=options.centre_mm)
            )
        except InputError as error:
            if len(frames) == 1:
                raise
            raise type(error)(
                f"frame {number} of 0 to {len(frames) - 1}: {error}; a single mask of their mean may work"
            ) from error
    return stripped


def _remark(image: Path, stripped: list[Stripped], say: Say) -> None:
    """Say what is unusual in the first frame in which something is, and why its mask may be wrong."""
    for number, each in enumerate(stripped):
        if not each.unusual and not each.doubts:
            continue
        frame = "" if len(stripped) == 1 else f"frame {number} of 0 to {len(stripped) - 1}: "
        if each.unusual:
            say(f"{image}: {frame}{each.unusual}: is this another anatomy? see 'singlestrip models'")
        for doubt in each.doubts:
            say(f"{image}: {frame}{doubt}: look at the mask")
        return


def _stack_frames(frames: list[np.ndarray]) -> np.ndarray:
    """Frames [X, Y, Z] as one array [X, Y, Z, T], in memory in the order of files."""
    return frames[0][..., None] if len(frames) == 1 else np.stack([frame.T for frame in frames]).T


def _mean_frame(image: Volume, counting: Iterable[int]) -> np.ndarray:
    """The mean of the stored values of some frames, float32 [X, Y, Z], without values that are not finite."""
    total = np.zeros(image.space, dtype=np.float32)
    count = np.zeros(image.space, dtype=np.int32)
    for t in counting:
        frame = image.frame(t).astype(np.float32)
        finite = np.isfinite(frame)
        np.add(total, frame, out=total, where=finite)
        count += finite
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


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
