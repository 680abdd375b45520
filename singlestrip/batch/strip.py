"""Strips image files: one or thousands with one loaded model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, OutputError, describe_file_error, errors_named
from ..io.images import diffusion, memory_need, volume
from ..io.images.header import is_mgh
from ..io.images.masks import read_masks
from ..io.images.volume import Volume
from ..io.output import check_distinct
from ..io.pictures import figures
from ..space.scan import Scan
from .frames import each_frame, frames_of_masks, mean_frame
from .jobs import Job, StripOptions
from .ledger import Ledger

if TYPE_CHECKING:  # their modules import torch
    from ..quality.reconstruction import Reconstruction
    from ..quality.scores import MaskQuality, QualityModel
    from ..stripping.brain_field import BrainField
    from ..stripping.stripper import Stripper

log = logging.getLogger(__name__)


def strip_file(
    stripper: Stripper,
    job: Job,
    options: StripOptions = StripOptions(),
    quality: QualityModel | None = None,
    begin: Callable[[], None] = lambda: None,
    assess: bool = True,
) -> MaskQuality | None:
    """Strip one image file. Each output appears whole or not at all.

    quality: assesses the mask, unless `assess` is False, and makes the map of doubt if the job asks for one.
    begin: called before anything is written. Returns the quality of the mask, that of the worst frame if there are
    several, or None if it was not assessed. Raises SingleStripError.
    """
    if "doubt" in job.outputs and quality is None:
        raise InputError(f"{job.image}: a map of doubt needs a quality network")
    _check_job(job, options, stripper.config.window_mm)
    image = volume.read(job.image)
    bad = _count_bad(image)
    if bad:
        log.warning("%s: %d voxels are not finite and count as background", job.image, bad)
    frames = _frames_to_strip(image, job, options)
    with errors_named(job.image):
        fill = stored_fill(image, options.fill)
        if "brain" in job.outputs:
            volume.check_values_fit(image, job.outputs["brain"], fill)
        made = _gathered(_strip_frames(stripper, frames, options, job.outputs, quality, assess))
    if made.unusual:
        log.warning("%s: %s: is this another anatomy? see 'singlestrip models'", job.image, made.unusual)
    begin()
    _write_outputs(job, image, made, fill, one_mask=options.mean_frame or job.bval is not None)
    return made.quality


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
        figures.check_picture(job.outputs["picture"])
    wants_distance = "sdt" in job.outputs or options.border_mm != 0
    brain_in_mgh = "brain" in job.outputs and is_mgh(job.outputs["brain"])
    memory_need.check(header, wants_distance, window_mm, options.memory_gib, brain_in_mgh, "doubt" in job.outputs)
    for path in images:
        volume.check_grid_fits(header, path)


def _write_outputs(job: Job, image: Volume, made: _Made, fill: np.ndarray, one_mask: bool) -> None:
    """Write the outputs of a job.

    made: of all frames, arrays [X, Y, Z, T]. fill: the stored value of the background. one_mask: whether one mask
    is of all frames, and is written in 3-D.
    """
    masks = made.mask
    if "brain" in job.outputs:
        brain = np.where(masks, image.stored, fill)
        volume.write_like(image, job.outputs["brain"], brain, image.slope, image.intercept)
    if "mask" in job.outputs:
        volume.write_like(image, job.outputs["mask"], masks.view(np.uint8), label="brain mask", one_frame=one_mask)
    if made.sdt is not None:
        volume.write_like(image, job.outputs["sdt"], made.sdt, label="brain SDT mm", one_frame=one_mask)
    if made.doubt is not None:
        volume.write_like(image, job.outputs["doubt"], made.doubt, label="brain doubt", one_frame=one_mask)
    if "picture" in job.outputs:
        grey = Scan(image.grey(), image.vox2world)
        figures.mask_figure(grey, masks[..., 0], job.outputs["picture"], job.image.name)


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
    if counting is None:
        return frames_of_masks(image, 1 if options.mean_frame else image.frames)
    return each_frame(image) if image.frames == 1 else [mean_frame(image, counting)]


@dataclass(frozen=True, eq=False)
class _Made:
    """What is made of one frame, or of all.

    mask: boolean [X, Y, Z], of all frames [X, Y, Z, T]. unusual: as in `Stripped`. sdt, in mm, and doubt: float32,
    shaped as the mask; these and quality, of the worst frame, are None if they were not asked for.
    """

    mask: np.ndarray
    unusual: str
    sdt: np.ndarray | None = None
    doubt: np.ndarray | None = None
    quality: MaskQuality | None = None


def _gathered(frames: Iterable[_Made]) -> _Made:
    """What is made of all frames, from what is made of each. `unusual` is the first clause, with its frame."""
    made = list(frames)
    return _Made(
        _stack_frames([each.mask for each in made]),
        _first_unusual([each.unusual for each in made]),
        _stack_given([each.sdt for each in made]),
        _stack_given([each.doubt for each in made]),
        _worst_of([each.quality for each in made if each.quality is not None]),
    )


def _strip_frames(
    stripper: Stripper,
    frames: list[Scan],
    options: StripOptions,
    kinds: Container[str],
    quality: QualityModel | None,
    assess: bool,
) -> Iterator[_Made]:
    """What is made of each frame. kinds: of outputs. quality, assess: as for `strip_file`.

    The networks' output for a frame is not kept, since a series may have hundreds of frames.
    """
    for number, frame in enumerate(frames):
        try:
            stripped = stripper.strip(
                frame, border_mm=options.border_mm, sdt="sdt" in kinds, centre_mm=options.centre_mm
            )
        except InputError as error:
            if len(frames) == 1:
                raise
            raise type(error)(
                f"frame {number} of 0 to {len(frames) - 1}: {error}; a single mask of their mean may work"
            ) from error
        made = _Made(stripped.mask, stripped.unusual, stripped.sdt)
        if quality is not None and (assess or "doubt" in kinds):
            mask = Scan(stripped.mask, frame.vox2world)
            reconstruction = quality.reconstruct(mask)
            judged = quality.measure(mask, reconstruction, frame, stripped.field) if assess else None
            doubt = _doubt_of(mask, reconstruction, stripped.field) if "doubt" in kinds else None
            made = replace(made, doubt=doubt, quality=judged)
        yield made


def _worst_of(qualities: list[MaskQuality]) -> MaskQuality | None:
    """The quality of the frame with the lowest estimated Dice; None of no frame."""
    if not qualities:
        return None
    frame = min(range(len(qualities)), key=lambda t: qualities[t].estimated_dice)
    return replace(qualities[frame], frame=frame if len(qualities) > 1 else None)


def _doubt_of(mask: Scan, reconstruction: Reconstruction, field: BrainField) -> np.ndarray:
    """The map of doubt of a mask, float32 [X, Y, Z]."""
    from ..quality.doubt import map_doubt  # imports torch

    return map_doubt(mask, reconstruction, field).everywhere()


def _first_unusual(clauses: list[str]) -> str:
    """The first clause that is not empty; of several frames, with the number of its frame."""
    for number, clause in enumerate(clauses):
        if clause:
            return clause if len(clauses) == 1 else f"frame {number} of 0 to {len(clauses) - 1}: {clause}"
    return ""


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


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    number: of the job, from 1. text: "stripped", "kept" or why the job failed. seconds: how long it took. quality:
    of the mask, the worst frame's if there are several; None if it was not assessed.
    """

    number: int
    job: Job
    text: str
    seconds: float
    quality: MaskQuality | None = None

    @property
    def failed(self) -> bool:
        """Whether there are no outputs."""
        return self.text not in ("stripped", "kept")


def strip_files(
    stripper: Stripper,
    jobs: Iterable[Job],
    options: StripOptions = StripOptions(),
    *,
    quality: QualityModel | None = None,
    resume: bool = False,
    debug: bool = False,
    made_with: dict[str, Any] | None = None,
    done: Callable[[Outcome], None] = lambda outcome: None,
    finish: Callable[[Job, bool, MaskQuality | None], None] = lambda job, kept, quality: None,
    describe: Callable[[Path, Exception], str] = describe_file_error,
    assess: bool = True,
) -> list[Outcome]:
    """Strip the image of each job. Returns the outcomes. A job that fails does not stop the others.

    quality: assesses the masks, kept ones too, unless `assess` is False, and makes maps of doubt. resume: keep
    the outputs of a job if all are there, complete, and on the grid of the image. debug: raise the first failure.
    made_with: of `records.made_with`; each output then gets a record of how it was made, and `resume` makes anew
    what was made in another way, but keeps outputs without a record. done: called after each job. finish: called
    at the end of each job that did not fail, with whether its outputs were kept and the quality of its mask; if it
    raises, the job fails. describe: makes the text of the outcome from an error in the work on an image.
    """
    ledger = None if made_with is None else Ledger(made_with, options)
    batch = _Batch(stripper, options, quality, assess, resume, ledger)
    outcomes = []
    for number, job in enumerate(jobs, start=1):
        start = time.monotonic()
        mask_quality = None
        try:
            kept, mask_quality = batch.run(job, finish)
            text = "kept" if kept else "stripped"
        except Exception as error:  # a fault in one scan must not stop the others
            if debug:
                raise
            text = describe(job.image, error)
        outcomes.append(Outcome(number, job, text, time.monotonic() - start, mask_quality))
        done(outcomes[-1])
    if batch.ledger is not None:
        batch.ledger.warn_of_unknown()
    return outcomes


@dataclass(frozen=True)
class _Batch:
    """The models and settings that all jobs of a run share."""

    stripper: Stripper
    options: StripOptions
    quality: QualityModel | None
    assess: bool
    resume: bool
    ledger: Ledger | None

    def run(
        self, job: Job, finish: Callable[[Job, bool, MaskQuality | None], None]
    ) -> tuple[bool, MaskQuality | None]:
        """Run one job. Returns whether its outputs were kept, and the quality of its mask."""
        wanted = (
            {} if self.ledger is None else self.ledger.wanted(job)
        )  # before the image is read, since it may change
        kept = self.resume and _is_done(job) and (self.ledger is None or self.ledger.can_keep(job, wanted))
        if kept:
            mask_quality = self._assess_kept(job)
        else:
            begin = (lambda: None) if self.ledger is None else partial(self.ledger.begin, job)
            mask_quality = strip_file(self.stripper, job, self.options, self.quality, begin, self.assess)
        finish(job, kept, mask_quality)
        if self.ledger is not None and not kept:
            self.ledger.finish(job, wanted)
        return kept, mask_quality

    def _assess_kept(self, job: Job) -> MaskQuality | None:
        """The quality of a kept mask; None without a mask, or if masks are not assessed."""
        if self.quality is None or not self.assess or "mask" not in job.outputs:
            return None
        from ..quality.judging import FrameFields, judge_masks  # imports torch

        masks, image = read_masks(job.outputs["mask"])[1], volume.read(job.image)
        frames = _frames_to_strip(image, job, self.options)
        fields = FrameFields(self.stripper, frames, self.options.centre_mm)
        with errors_named(job.image):
            return judge_masks(self.quality, masks, image.vox2world, frames, fields)[0]


def _is_done(job: Job) -> bool:
    """Whether all outputs of a job are there, images complete and on the grid of the job's image."""
    pictures = [path for kind, path in job.outputs.items() if kind == "picture"]
    images = [path for kind, path in job.outputs.items() if kind != "picture"]
    return (
        not job.fault
        and all(path.is_file() for path in (*job.records.values(), *pictures))
        and all(volume.is_complete(path, job.image) for path in images)
    )
