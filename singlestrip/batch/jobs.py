"""Jobs: which image is stripped to which files, and how. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import OutputError
from ..io.images import volume
from ..io.output import check_distinct, file_identity, make_folder


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


def take_images(images: Iterable[Path]) -> list[Path]:
    """The images to strip of those that were named: a pair by its .img, one that is named again once."""
    return volume.without_repeats(volume.merge_pairs(images), lambda image: (image,))
