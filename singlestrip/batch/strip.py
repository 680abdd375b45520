"""Files in, files out: one scan or thousands through one loaded model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, OutputError, SingleStripError, describe_error
from ..io import diffusion, figures, memory, volume
from ..io.checksum import checksum
from ..io.json_file import read_json
from ..io.masks import read_masks
from ..io.output import atomic_write, check_distinct, file_identity, make_folder
from ..io.textfile import named_path, read_text
from ..io.volume import Volume
from . import records

if TYPE_CHECKING:  # names and plans of files are wanted where no torch is
    from ..quality.scores import MaskQuality, QualityModel
    from ..stripping.stripper import Stripper


LONGEST_PATH = 2**15  # bytes of a line of a list: some times what systems allow
LIST_MARKS = ("#", "~", " ", "\t", "\r", "\ufeff")  # what a path in a list does not begin with


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

    bval: the b-values of a diffusion image, which gets one mask from the mean of its b=0 frames. records: JSON
    files by kind of output, without which the job does not count as done. fault: why the job cannot be done, a
    sentence that names the image; "" if it can.
    """

    image: Path
    outputs: dict[str, Path]
    bval: Path | None = None
    records: dict[str, Path] = field(default_factory=dict)
    fault: str = ""


def strip_file(
    stripper: Stripper,
    job: Job,
    options: StripOptions = StripOptions(),
    warn: Callable[[str], None] = lambda text: None,
    quality: QualityModel | None = None,
    begin: Callable[[], None] = lambda: None,
) -> MaskQuality | None:
    """Strip one image file; each output appears whole or not at all.

    warn: called with a sentence about anything unusual. begin: called before anything is written. Returns what
    `quality` makes of the mask, of several frames the worst, or None without it. Raises SingleStripError.
    """
    if job.fault:
        raise OutputError(job.fault)
    check_distinct([job.image, job.bval] if job.bval else [job.image], job.outputs.values())
    header = volume.read_header(job.image)  # a name that no file can have is told of the image, not of its outputs
    images = [path for kind, path in job.outputs.items() if kind != "picture"]
    for path in images:
        volume.check_output(path)
    if "picture" in job.outputs:
        figures.check_picture(job.outputs["picture"])
    wants_sdt = "sdt" in job.outputs
    wants_distance = wants_sdt or options.border_mm != 0
    brain_in_mgh = "brain" in job.outputs and volume.suffix_of(job.outputs["brain"]) in (".mgh", ".mgz")
    memory.check(header, wants_distance, stripper.config.window_mm, options.memory_gib, brain_in_mgh)
    for path in images:
        volume.check_grid_fits(header, path)
    scan = volume.read(job.image, warn)
    bad = _count_bad(scan)
    if bad:
        warn(f"{job.image}: {bad} voxels are not finite and count as background")
    counting = _frames_of_mean(scan, job, options)
    one_mask = options.mean_frame or job.bval is not None
    try:
        fill = stored_fill(scan, options.fill)
        if "brain" in job.outputs:
            volume.check_values_fit(scan, job.outputs["brain"], fill)
        masks, sdts = _strip_frames(stripper, scan, counting, options.border_mm, wants_sdt)
    except InputError as error:
        raise InputError(f"{job.image}: {error}") from error
    begin()
    if "brain" in job.outputs:
        brain = np.where(masks, scan.stored, fill)
        volume.write_like(scan, job.outputs["brain"], brain, scan.slope, scan.intercept)
    if "mask" in job.outputs:
        volume.write_like(scan, job.outputs["mask"], masks.view(np.uint8), label="brain mask", one_frame=one_mask)
    if wants_sdt:
        volume.write_like(scan, job.outputs["sdt"], sdts, label="brain SDT mm", one_frame=one_mask)
    if "picture" in job.outputs:
        figures.mask_figure(scan.grey(), masks[..., 0], scan.vox2world, job.outputs["picture"], job.image.name)
    return None if quality is None else quality.assess_worst(masks, scan.vox2world)[0]


def _count_bad(scan: Volume) -> int:
    """How many voxels of all frames are not finite. Raises InputError where many of one frame are infinite."""
    if scan.stored.dtype.kind != "f":
        return 0
    total = 0
    for t in range(scan.frames):
        bad = int(np.count_nonzero(~np.isfinite(scan.frame(t))))
        if 0 < bad < scan.frame(t).size:
            scan.check_not_overflowed(t)
        total += bad
    return total


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
        lowest, highest = int(limits.min), int(limits.max)
        raw = round(raw) if np.isfinite(raw) else raw
        fits = lowest <= raw <= highest
    else:
        limits = np.finfo(kind)
        lowest, highest = float(limits.min), float(limits.max)
        fits = not np.isfinite(value) or lowest <= raw <= highest
    if not fits:
        if fill is not None:
            raise InputError(f"a fill of {fill:g} cannot be stored as {kind} with the scaling of this image")
        raw = lowest if raw < lowest else highest
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
    made_with: dict[str, Any] | None = None,
) -> list[Outcome]:
    """Strip each job; one that fails does not stop the others. Returns what became of them.

    resume: pass over jobs whose outputs are all there, whole, and on the grid of the image. made_with: what
    `records.made_with` tells of the model; then each output gets a record of how it was made, and resume does
    not pass over outputs that were made in another way. Those without a record it keeps. done: called after
    each job. finish: called at the end of each job that went well, with whether its outputs were kept and the
    quality of its mask; what it raises is a failure of that job.
    debug: raise the first failure. quality: assess masks, those kept from before too.
    """
    outcomes = []
    ledger = None if made_with is None else _Ledger(made_with, options, warn)
    for number, job in enumerate(jobs, start=1):
        start = time.monotonic()
        text, found = "stripped", None
        try:
            made = {} if ledger is None else ledger.wanted(job)  # of the image as it is before it is read
            kept = resume and _is_done(job) and (ledger is None or ledger.is_as_wanted(job, made))
            if kept:
                text = "kept"
                if quality is not None and "mask" in job.outputs:
                    mask, frames = read_masks(job.outputs["mask"], warn)
                    found = quality.assess_worst(frames, mask.vox2world)[0]
            else:
                begin = (lambda: None) if ledger is None else partial(ledger.begin, job)
                found = strip_file(stripper, job, options, warn, quality, begin)
            finish(job, kept, found)
            if ledger is not None and not kept:
                ledger.finish(job, made)
        except Exception as error:  # a fault in one scan must not stop the night's batch
            if debug:
                raise
            known = isinstance(error, SingleStripError)  # such errors name their file
            text = describe_error(error) if known else f"{job.image}: {describe_error(error)}"
        outcomes.append(Outcome(number, job, text, time.monotonic() - start, found))
        done(outcomes[-1])
    if ledger is not None:
        ledger.tell_of_unknown()
    return outcomes


class _Ledger:
    """The records of a run's outputs: what they are to be made with, and what those of former runs were."""

    def __init__(self, made_with: dict[str, Any], options: StripOptions, warn: Callable[[str], None]):
        self.made_with, self.options, self.warn = made_with, options, warn
        self.told: set[str] = set()
        self.unknown = 0

    def begin(self, job: Job) -> None:
        for kind in job.outputs:
            path = _record_path(job, kind)
            if kind not in job.records or path.is_file():  # without its JSON file no output counts as done
                records.begin_record(path)

    def finish(self, job: Job, made: dict[str, dict[str, Any]]) -> None:
        for kind, output in job.outputs.items():
            records.finish_record(_record_path(job, kind), output, made[kind])

    def is_as_wanted(self, job: Job, wanted: dict[str, dict[str, Any]]) -> bool:
        """Whether the outputs of a job can be kept. They cannot if a run ended before they were finished, or if
        one was made in another way, which is told once. They are in any case if one is not ours to replace."""
        found = {kind: read_json(_record_path(job, kind)) for kind in job.outputs}
        if any(records.is_unfinished(record) for record in found.values()):
            return False
        ours = {kind for kind, output in job.outputs.items() if records.is_of(found[kind], output)}
        self.unknown += len(found) - len(ours)
        for kind in sorted(ours):
            different = records.differences(found[kind], wanted[kind])
            if different and len(ours) < len(found):
                self.warn(f"{job.outputs[kind]}: was made with {different}; kept, as a file beside it is not ours")
            elif different:
                if different not in self.told:
                    self.warn(
                        f"{job.outputs[kind]}: was made with {different}; stripping anew, and all others like it"
                    )
                self.told.add(different)
                return False
        return True

    def tell_of_unknown(self) -> None:
        if self.unknown:
            self.warn(
                f"{self.unknown} of the outputs kept have no record of how they were made, or have changed since: "
                "they may be of another image, model or border"
            )

    def wanted(self, job: Job) -> dict[str, dict[str, Any]]:
        """What the record of each output is to tell, by kind; only what it depends on."""
        shared = self.made_with | {"ImageSHA256": _checksum_if_there(volume.voxel_file(job.image))}
        if job.bval is not None:
            shared["BvalSHA256"] = _checksum_if_there(job.bval)
        if not volume.has_one_frame(job.image):
            shared["Frames"] = "b=0" if job.bval else "mean" if self.options.mean_frame else "each"
        shared = {key: value for key, value in shared.items() if value is not None}
        return {kind: shared | self._drawn(kind) for kind in job.outputs}

    def _drawn(self, kind: str) -> dict[str, Any]:
        """The options that an output of this kind depends on, where they are not the default."""
        drawn = {}
        if self.options.border_mm and kind != "sdt":
            drawn["BorderMM"] = self.options.border_mm
        if self.options.fill is not None and kind == "brain":
            drawn["Fill"] = self.options.fill
        return drawn


def _checksum_if_there(path: Path) -> str | None:
    """SHA-256 of a file; None where there is none that can be read, as its job will tell."""
    try:
        return checksum(path) if os.path.isfile(path) else None  # noqa: PTH113 - Path.is_file raises for some names
    except OSError:
        return None


def _record_path(job: Job, kind: str) -> Path:
    return job.records.get(kind) or records.hidden_record(job.outputs[kind])


def _is_done(job: Job) -> bool:
    """Whether all that a job writes is there, its images whole and on the grid of the job's image."""
    pictures = [path for kind, path in job.outputs.items() if kind == "picture"]
    images = [path for kind, path in job.outputs.items() if kind != "picture"]
    return (
        not job.fault
        and all(path.is_file() for path in (*job.records.values(), *pictures))
        and all(volume.is_complete(path, job.image) for path in images)
    )


def plan_folder(images: list[Path], folder: Path, kinds: Iterable[str], suffix: str | None = None) -> list[Job]:
    """Jobs that write `<name>_<kind><suffix>` into one folder, suffix as the image's own unless given.

    Where two images have one name, all keep their folders below the one that they share. Creates
    the folders; a job whose own folder cannot be made fails when its turn comes, as do those that would write one
    file. Raises InputError if an image is named twice, OutputError if `folder` can't be made or an output is
    one of the images.
    """
    names = volume.distinct_names(images)
    make_folder(folder)
    for parent in {name.parent for name in names}:
        with suppress(OutputError):
            make_folder(folder / parent)
    jobs = []
    for image, name in zip(images, names, strict=True):
        ending = suffix or volume.suffix_of(image) or ".nii.gz"
        endings = {kind: ".png" if kind == "picture" else ending for kind in kinds}
        outputs = {kind: folder / name.parent / f"{name.name}_{kind}{end}" for kind, end in endings.items()}
        jobs.append(Job(image, outputs))
    return _with_rivals_named(jobs)


def _with_rivals_named(jobs: list[Job]) -> list[Job]:
    """The jobs; those of which several would write one file get the fault that names another of them.

    Raises OutputError if an output is one of the images.
    """
    writers: dict[str, list[Job]] = {}
    paths: dict[str, Path] = {}
    for job in jobs:
        for path in job.outputs.values():
            identity = file_identity(path)
            writers.setdefault(identity, []).append(job)
            paths.setdefault(identity, path)
    check_distinct([job.image for job in jobs], paths.values())
    faults = {}
    for identity, rivals in writers.items():
        for job, other in zip(rivals, rivals[1:] + rivals[:1], strict=True):
            if other is not job:
                faults[job.image] = (
                    f"{job.image}: its output {paths[identity]} is that of {other.image} too; rename one of both, "
                    "or strip them into folders of their own"
                )
    return [replace(job, fault=faults.get(job.image, "")) for job in jobs]


def take_images(images: Iterable[Path], warn: Callable[[str], None] = lambda text: None) -> list[Path]:
    """The images to strip of those that were named: a pair by its .img, one that is named again once."""
    return volume.without_repeats(volume.merge_pairs(images), lambda image: (image,), warn)


def read_list(path: Path) -> list[Path]:
    """Image paths of a text file or pipe, one a line; blank lines and lines from # on do not count.

    Relative paths are as seen from the working folder. A line that names no file is a path all the same: that
    is found out, as for any image, when its turn comes. Raises InputError if the file is no such list.
    """
    if volume.suffix_of(path):
        raise InputError(f"{path}: an image by its name; a list is a text file with the path of one image a line")
    lines = [line.strip(" \t\r") for line in read_text(path, "a list of paths", pipe=True).split("\n")]
    found = [named_path(line) for line in lines if line and not line.startswith("#")]
    if not found:
        raise InputError(f"{path}: the list names no image")
    if any(len(os.fsencode(image)) > LONGEST_PATH for image in found):
        raise InputError(f"{path}: not a list of paths: a line has more than {LONGEST_PATH} bytes")
    return volume.merge_pairs(found)


def write_list(path: Path, images: Iterable[Path]) -> None:
    """Write a list that `read_list` reads; a file that is this list already stays as old as it is.

    Raises InputError for a path that no list can hold, OutputError.
    """
    lines = []
    for image in images:
        text = str(image)
        if "\n" in text or text != text.rstrip(" \t\r"):
            raise InputError(f"{image}: no list can hold a name with a line end, or a blank at its end; rename it")
        lines.append(f"./{text}\n" if text.startswith(LIST_MARKS) else f"{text}\n")
    data = os.fsencode("".join(lines))
    if not path.is_file() or path.read_bytes() != data:
        with atomic_write(path) as (partial,):
            partial.write_bytes(data)


def images_below(folder: Path, leave_out: Path) -> list[Path]:
    """The images in a folder and the folders below it, sorted, but for what is hidden or below `leave_out`.

    Raises InputError if there is no such folder, or it is `leave_out`.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    leave_out = os.path.realpath(leave_out)
    if os.path.realpath(folder) == leave_out:
        raise InputError(f"{folder}: the folder of the outputs; name another for them")
    found = []
    for above, folders, files in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(Path(above, name)) != leave_out
        ]
        found += [Path(above, name) for name in files if not name.startswith(".")]
    return sorted(path for path in volume.merge_pairs(found) if volume.suffix_of(path) not in ("", ".hdr"))
