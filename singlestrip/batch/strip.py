"""Strips image files: one or thousands with one loaded model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import describe_file_error
from ..io.images.header import ImageHeader
from .jobs import Job, StripOptions
from .ledger import Ledger
from .pipeline import Outcome, Say, do_job, run_jobs
from .stages import Brain, Prepared, assess_kept, find_brain, memory_needed, prepare, write_outputs

if TYPE_CHECKING:  # their modules import torch
    from ..quality.scores import MaskQuality, QualityModel
    from ..stripping.lesion_finder import LesionFinder
    from ..stripping.stripper import Stripper


@dataclass(frozen=True)
class Stripping:
    """The work of stripping an image; see `pipeline.Work`.

    quality: assesses the masks, kept ones too, unless `assess` is False, and makes maps of doubt. finder: finds
    the lesions of jobs that ask for them.
    """

    stripper: Stripper
    options: StripOptions
    quality: QualityModel | None = None
    assess: bool = True
    finder: LesionFinder | None = None
    done: str = "stripped"

    @property
    def memory_gib(self) -> float | None:
        return self.options.memory_gib

    def memory_needed(self, header: ImageHeader, job: Job) -> int:
        return memory_needed(header, job, self.options, self.stripper.config.window_mm)

    def prepare(self, job: Job, say: Say) -> Prepared:
        return prepare(job, self.options, self.stripper.config.window_mm, say)

    def look(self, prepared: Prepared, job: Job, say: Say) -> Brain:
        return find_brain(self.stripper, prepared, job, self.options, say, self.quality, self.assess, self.finder)

    def write(self, job: Job, prepared: Prepared, result: Brain) -> None:
        write_outputs(job, prepared, result, self.options)

    def measure(self, result: Brain) -> MaskQuality | None:
        return result.quality

    def measure_kept(self, job: Job) -> MaskQuality | None:
        if self.quality is None or not self.assess or "mask" not in job.outputs:
            return None
        return assess_kept(self.stripper, job, self.options, self.quality)

    def record(self, measured: MaskQuality | None) -> dict[str, Any]:
        return {}


def strip_file(
    stripper: Stripper, job: Job, options: StripOptions = StripOptions(), quality: QualityModel | None = None
) -> None:
    """Strip one image file. Each output appears whole or not at all. Raises SingleStripError.

    quality: makes the map of doubt if the job asks for one.
    """
    do_job(Stripping(stripper, options, quality, assess=False), job)


def strip_files(
    stripper: Stripper,
    jobs: Iterable[Job],
    options: StripOptions = StripOptions(),
    *,
    quality: QualityModel | None = None,
    assess: bool = True,
    finder: LesionFinder | None = None,
    resume: bool = False,
    debug: bool = False,
    made_with: dict[str, Any] | None = None,
    done: Callable[[Outcome[MaskQuality]], None] = lambda outcome: None,
    finish: Callable[[Job, bool, MaskQuality | None], None] = lambda job, kept, quality: None,
    describe: Callable[[Path, Exception], str] = describe_file_error,
) -> list[Outcome[MaskQuality]]:
    """Strip the image of each job. Returns the outcomes, which have the quality of each mask.

    quality, assess, finder: see `Stripping`; of several masks the quality is that of the worst. made_with: of
    `records.made_with`; each output then gets a record of how it was made, and `resume` makes anew what was made
    in another way, but keeps outputs without a record. Other arguments: see `pipeline.run_jobs`.
    """
    return run_jobs(
        Stripping(stripper, options, quality, assess, finder),
        jobs,
        ledger=None if made_with is None else Ledger(made_with, options),
        resume=resume,
        debug=debug,
        done=done,
        finish=finish,
        describe=describe,
    )
