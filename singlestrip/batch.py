"""Files in, files out: one scan or thousands through one loaded model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import diffusion, memory, report, volume
from .errors import InputError, SingleStripError, sentence
from .output import check_distinct, make_folder
from .volume import Volume

if TYPE_CHECKING:  # names and plans of files are wanted where no torch is
    from .quality import MaskQuality, QualityModel
    from .stripping import Stripper


@dataclass(frozen=True)
class StripOptions:
    """How to strip files.

    border_mm: how far the mask's surface is moved out (or, negative, in). fill: background value
    of the brain image, None for min(image minimum, 0). mean_frame: one mask from the mean of all
    frames. memory_gib: refuse scans that would take more.
    """

    border_mm: float = 0.0
    fill: float | None = None
    mean_frame: bool = False
    memory_gib: float | None = None


@dataclass(frozen=True)
class Job:
    """One image and where its outputs go, by kind: "brain", "mask", "sdt" and "picture".

    bval: the b-values of a diffusion image, which gets one mask from the mean of its b=0 frames. records:
    further files without which the job does not count as done.
    """

    image: Path
    outputs: dict[str, Path]
    bval: Path | None = None
    records: tuple[Path, ...] = ()


def strip_file(
    stripper: Stripper,
    job: Job,
    options: StripOptions = StripOptions(),
    warn: Callable[[str], None] = lambda text: None,
    quality: QualityModel | None = None,
) -> MaskQuality | None:
    """Strip one image file; each output appears whole or not at all.

    warn: called with a sentence about anything unusual. Returns what `quality` makes of the mask, of
    several frames the worst, or None without it. Raises SingleStripError.
    """
    check_distinct([job.image, job.bval] if job.bval else [job.image], job.outputs.values())
    for kind, path in job.outputs.items():
        report.check_picture(path) if kind == "picture" else volume.check_output(path)
    scan = volume.read(job.image)
    wants_sdt = "sdt" in job.outputs
    wants_distance = wants_sdt or options.border_mm != 0
    memory.check(scan, wants_distance, stripper.config.window_mm, options.memory_gib)
    bad = _count_bad(scan)
    if bad:
        warn(f"{job.image}: {bad} voxels are not finite and count as background")
    counting = _frames_of_mean(scan, job, options)
    one_mask = options.mean_frame or job.bval is not None
    try:
        fill = stored_fill(scan, options.fill)
        masks, sdts = _strip_frames(stripper, scan, counting, options.border_mm, wants_sdt)
    except InputError as error:
        raise InputError(f"{job.image}: {error}") from error
    if "brain" in job.outputs:
        brain = np.where(masks, scan.stored, fill)
        volume.write_like(scan, job.outputs["brain"], brain, scan.slope, scan.intercept)
    if "mask" in job.outputs:
        volume.write_like(scan, job.outputs["mask"], masks.view(np.uint8), label="brain mask", one_frame=one_mask)
    if wants_sdt:
        volume.write_like(scan, job.outputs["sdt"], sdts, label="brain SDT mm", one_frame=one_mask)
    if "picture" in job.outputs:
        report.mask_figure(scan.scaled(), masks[..., 0], scan.vox2world, job.outputs["picture"], job.image.name)
    return None if quality is None else _worst_frame(quality, masks, scan.vox2world)


def _worst_frame(quality: QualityModel, masks: np.ndarray, vox2world: np.ndarray) -> MaskQuality:
    frames = (quality.assess(masks[..., t], vox2world) for t in range(masks.shape[3]))
    return min(frames, key=lambda found: found.estimate)


def _count_bad(scan: Volume) -> int:
    if scan.stored.dtype.kind != "f":
        return 0
    return sum(int(np.count_nonzero(~np.isfinite(scan.frame(t)))) for t in range(scan.frames))


def _frames_of_mean(scan: Volume, job: Job, options: StripOptions) -> Sequence[int] | None:
    """The frames whose mean is stripped, or None where each is by itself."""
    found = None if job.bval is None else diffusion.b0_frames(job.bval, scan.frames)
    if scan.frames == 1:
        return None
    return range(scan.frames) if found is None and options.mean_frame else found


def _strip_frames(stripper, scan: Volume, counting: Sequence[int] | None, border_mm: float, sdt: bool):
    """Masks boolean [X, Y, Z, T] and SDTs [X, Y, Z, T] or None; T is 1 for the mean of the counting frames."""
    each = (scan.frame(t) for t in range(scan.frames))
    frames = each if counting is None else [_mean_frame(scan, counting)]
    masks, sdts = [], []
    for number, frame in enumerate(frames):
        try:
            result = stripper.strip(frame, scan.vox2world, border_mm, sdt, scan.slope, scan.intercept)
        except InputError as error:
            if scan.frames == 1 or counting is not None:
                raise
            raise InputError(
                f"frame {number} of 0 to {scan.frames - 1}: {error}; --mask-mean-frame makes one mask for all"
            ) from error
        masks.append(result.mask)
        sdts.append(result.sdt)
    return _gather(masks), _gather(sdts) if sdt else None


def _gather(frames: list[np.ndarray]) -> np.ndarray:
    """[X, Y, Z, T] of frames [X, Y, Z], in the order in memory that files have."""
    return frames[0][..., None] if len(frames) == 1 else np.stack([frame.T for frame in frames]).T


def _mean_frame(scan: Volume, counting: Iterable[int]) -> np.ndarray:
    """Mean of some frames' stored values float32 [X, Y, Z]; frames that are not finite do not count."""
    total = np.zeros(scan.stored.shape[:3], dtype=np.float32)
    count = np.zeros(scan.stored.shape[:3], dtype=np.int32)
    for t in counting:
        frame = scan.frame(t).astype(np.float32)
        finite = np.isfinite(frame)
        np.add(total, frame, out=total, where=finite)
        count += finite
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def stored_fill(scan: Volume, fill: float | None) -> np.ndarray:
    """The background of the brain image as a stored value, 0-D, in the stored type.

    fill: a value after scaling; None for min(image minimum, 0), or the nearest that can be stored.
    Raises InputError if a given value cannot be stored.
    """
    value = fill
    if value is None:
        ends = [stored * scan.slope + scan.intercept for stored in volume.finite_range(scan.stored)]
        value = min(*ends, 0.0)
    raw = (value - scan.intercept) / scan.slope
    kind = scan.stored.dtype
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        if fill is not None and not (np.isfinite(raw) and limits.min <= round(raw) <= limits.max):
            raise InputError(f"a fill of {fill:g} cannot be stored as {kind} with the scaling of this image")
        raw = min(max(round(raw), limits.min), limits.max)
    return np.array(raw, dtype=kind)


@dataclass(frozen=True)
class Outcome:
    """What became of a job: number from 1; "stripped", "kept" or the reason of failure; seconds taken; and
    the quality of its mask, of several frames the worst, where it was assessed."""

    number: int
    job: Job
    text: str
    seconds: float
    quality: MaskQuality | None = None

    @property
    def failed(self) -> bool:
        return self.text not in ("stripped", "kept")


def strip_files(
    stripper: Stripper,
    jobs: Iterable[Job],
    options: StripOptions = StripOptions(),
    resume: bool = False,
    warn: Callable[[str], None] = lambda text: None,
    done: Callable[[Outcome], None] = lambda outcome: None,
    debug: bool = False,
    quality: QualityModel | None = None,
    finish: Callable[[Job, bool, MaskQuality | None], None] = lambda job, kept, quality: None,
) -> list[Outcome]:
    """Strip each job; one that fails does not stop the others. Returns what became of them.

    resume: pass over jobs whose outputs are all there, whole, and on the grid of the image. done: called after
    each job. finish: called at the end of each job that went well, with whether its outputs were kept and the
    quality of its mask; what it raises is a failure of that job.
    debug: raise the first failure. quality: assess masks, those kept from before too.
    """
    outcomes = []
    for number, job in enumerate(jobs, start=1):
        start = time.monotonic()
        text, found = "stripped", None
        try:
            kept = resume and _is_done(job)
            if kept:
                text = "kept"
                if quality is not None and "mask" in job.outputs:
                    mask = volume.read(job.outputs["mask"])
                    found = _worst_frame(quality, mask.stored > 0, mask.vox2world)
            else:
                found = strip_file(stripper, job, options, warn, quality)
            finish(job, kept, found)
        except Exception as error:  # a fault in one scan must not stop the night's batch
            if debug:
                raise
            known = isinstance(error, SingleStripError)  # such errors name their file
            text = sentence(error) if known else f"{job.image}: {sentence(error)}"
        outcomes.append(Outcome(number, job, text, time.monotonic() - start, found))
        done(outcomes[-1])
    return outcomes


def _is_done(job: Job) -> bool:
    """Whether all that a job writes is there, its images whole and on the grid of the job's image."""
    pictures = [path for kind, path in job.outputs.items() if kind == "picture"]
    images = [path for kind, path in job.outputs.items() if kind != "picture"]
    return all(path.is_file() for path in (*job.records, *pictures)) and all(
        volume.is_whole(path, job.image) for path in images
    )


def plan_folder(images: list[Path], folder: Path, kinds: Iterable[str], suffix: str | None = None) -> list[Job]:
    """Jobs that write `<name>_<kind><suffix>` into one folder, suffix as the image's own unless given.

    Where two images have one name, all keep their folders below the one that they share. Creates
    the folders. Raises InputError if an image is named twice, OutputError if a folder can't be made.
    """
    names = volume.distinct_names(images)
    jobs = []
    for image, name in zip(images, names, strict=True):
        target = folder / name
        make_folder(target.parent)
        ending = suffix or volume.suffix_of(image) or ".nii.gz"
        endings = {kind: ".png" if kind == "picture" else ending for kind in kinds}
        outputs = {kind: target.with_name(f"{target.name}_{kind}{end}") for kind, end in endings.items()}
        jobs.append(Job(image, outputs))
    check_distinct(images, [path for job in jobs for path in job.outputs.values()])
    return jobs


def read_list(path: Path) -> list[Path]:
    """Image paths of a text file, one a line; blank lines and lines from # on do not count.

    Relative paths are as seen from the working folder.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of paths ({error})") from error
    found = [
        Path(line.strip()).expanduser() for line in lines if line.strip() and not line.lstrip().startswith("#")
    ]
    if not found:
        raise InputError(f"{path}: the list names no image")
    return found
