"""Jobs: which files are made of an image, and how. Imports no library."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ..configuration import DiffusionConfig
from ..errors import OutputError
from ..io.images.names import beside, distinct_names, is_mgh, merge_pairs, suffix_of, without_repeats
from ..io.output import check_distinct, file_identity, make_folder


class JobOptions(Protocol):
    """How the outputs of a job are made, as far as records tell.

    mean_frame: whether the outputs are of the mean of all frames. b0_limit: the highest b-value, s/mm², of the
    frames that count as b=0.
    """

    @property
    def mean_frame(self) -> bool: ...

    @property
    def b0_limit(self) -> float: ...

    def recorded(self, kind: str) -> dict[str, Any]:
        """The options that an output of this kind depends on, by key of its record, without defaults."""


@dataclass(frozen=True)
class StripOptions:
    """How to strip files.

    border_mm: how far the mask's surface is moved out, or in if negative. fill: background value of the brain
    image; None for min(image minimum, 0). mean_frame: make one mask from the mean of all frames. memory_gib:
    refuse images that take more memory; None for what is free. centre_mm: RAS mm of the middle of the brain, in
    all frames of the one image; None to search for it. quality_sha256: checksum of the file of the quality network
    that maps of doubt are made with; None for the one that goes with the model. b0_limit: see `JobOptions`.
    crop_mm: crop the brain image to the box of the brain with a margin of so many mm; None to leave it whole.
    lesion_model_sha256: checksum of the file of the model that finds lesions; None if none are to be found.
    """

    border_mm: float = 0.0
    fill: float | None = None
    mean_frame: bool = False
    memory_gib: float | None = None
    centre_mm: tuple[float, float, float] | None = None
    quality_sha256: str | None = None
    b0_limit: float = DiffusionConfig().b0_limit
    crop_mm: float | None = None
    lesion_model_sha256: str | None = None

    def recorded(self, kind: str) -> dict[str, Any]:
        """See `JobOptions`."""
        recorded: dict[str, Any] = {}
        if self.centre_mm is not None:
            recorded["CentreMM"] = self.centre_mm
        if self.border_mm and kind not in ("sdt", "probability"):
            recorded["BorderMM"] = self.border_mm
        if self.fill is not None and kind == "brain":
            recorded["Fill"] = self.fill
        if self.crop_mm is not None and kind == "brain":
            recorded["CropMM"] = self.crop_mm
        if self.quality_sha256 is not None and kind == "doubt":
            recorded["QualityModelSHA256"] = self.quality_sha256
        if self.lesion_model_sha256 is not None and kind == "lesions":
            recorded["LesionModelSHA256"] = self.lesion_model_sha256
        return recorded


@dataclass(frozen=True)
class SegmentOptions:
    """How to segment files.

    mean_frame: segment the mean of all frames. memory_gib, centre_mm, b0_limit: as of `StripOptions`.
    """

    mean_frame: bool = False
    memory_gib: float | None = None
    centre_mm: tuple[float, float, float] | None = None
    b0_limit: float = DiffusionConfig().b0_limit

    def recorded(self, kind: str) -> dict[str, Any]:
        """See `JobOptions`."""
        return {} if self.centre_mm is None else {"CentreMM": self.centre_mm}


@dataclass(frozen=True)
class Job:
    """One image and where its outputs go, by kind.

    Kinds of stripping are "brain", "mask", "sdt", "picture", "doubt", "probability" and "lesions". Those of
    segmenting are "dseg", a label map; "table", of the structures in it; "probseg", posteriors; "names", of their
    frames; and "picture".

    bval: the file of b-values of a diffusion image, which gets one mask from the mean of its b=0 frames. records:
    JSON files by kind of output, which must exist too for the job to count as done. fault: why the job cannot be
    done, a sentence that names the image; "" if it can.
    """

    image: Path
    outputs: dict[str, Path]
    bval: Path | None = None
    records: dict[str, Path] = field(default_factory=dict)
    fault: str = ""


def with_companions(outputs: dict[str, Path]) -> dict[str, Path]:
    """The outputs of segmenting, and the files that stand beside them, as BIDS has them.

    A label map has a table of its structures, unless it is MGH, which holds one. Posteriors have a file with the
    names of their frames.
    """
    companions = dict(outputs)
    if "dseg" in outputs and not is_mgh(outputs["dseg"]):
        companions.setdefault("table", beside(outputs["dseg"], ".tsv"))
    if "probseg" in outputs:
        companions["names"] = beside(outputs["probseg"], ".json")
    return companions


def plan_folder(
    images: list[Path],
    folder: Path,
    kinds: Iterable[str],
    suffix: str | None = None,
    complete: Callable[[dict[str, Path]], dict[str, Path]] = dict,
) -> list[Job]:
    """Jobs that write `<name>_<kind><suffix>` in one folder. suffix: None for that of each image.

    complete: adds outputs that stand beside others.

    If two images have the same name, all outputs keep the folders of their images, from the folder that these
    share. Makes the folders. A job whose folder cannot be made fails when its turn comes, and so do jobs that
    would write the same file. Raises InputError if an image is named twice, OutputError if `folder` cannot be made
    or an output is one of the images.
    """
    names = distinct_names(images)
    make_folder(folder)
    for parent in {name.parent for name in names}:
        with suppress(OutputError):
            make_folder(folder / parent)
    jobs = []
    for image, name in zip(images, names, strict=True):
        ending = suffix or suffix_of(image) or ".nii.gz"
        endings = {kind: ".png" if kind == "picture" else ending for kind in kinds}
        outputs = {kind: folder / name.parent / f"{name.name}_{kind}{end}" for kind, end in endings.items()}
        jobs.append(Job(image, complete(outputs)))
    return _with_conflicts(jobs)


def _with_conflicts(jobs: list[Job]) -> list[Job]:
    """The jobs, with a fault in each that would write the same file as another; the fault names the other.

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
    for identity, sharing in writers.items():
        for job, other in zip(sharing, sharing[1:] + sharing[:1], strict=True):
            if other is not job:
                faults[job.image] = (
                    f"{job.image}: its output {paths[identity]} is also that of {other.image}; rename one, "
                    "or write them to separate folders"
                )
    return [replace(job, fault=faults.get(job.image, "")) for job in jobs]


def take_images(images: Iterable[Path]) -> list[Path]:
    """The named images, each once, and an .img/.hdr pair by its .img."""
    return without_repeats(merge_pairs(images), lambda image: (image,))
