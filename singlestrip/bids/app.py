"""The two levels of the BIDS-App: masks of every participant, and the quality of all masks together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..batch.assess import Assessor, assess_files
from ..batch.assessment import Assessment, Case
from ..batch.jobs import Job, StripOptions
from ..batch.quality_table import write_table
from ..batch.report import write_report
from ..batch.strip import Outcome, strip_files
from ..errors import InputError, OutputError
from ..io.output import make_folder, path_exists
from ..io.volume import has_one_frame
from ..quality.scores import MaskQuality, QualityModel
from ..stripping.stripper import Stripper
from .layout import REPORT, Derivative, sidecar


def plan(derivative: Derivative, images: list[Path], brain: bool = False) -> list[Job]:
    """A job for each image; brain: with the image without its background. Makes the folders; a job whose folder
    cannot be made fails when its turn comes."""
    jobs = []
    for image in images:
        outputs = {"mask": derivative.mask(image)}
        if brain:
            outputs["brain"] = derivative.brain(image)
        with suppress(OutputError):
            make_folder(outputs["mask"].parent)
        records = {kind: sidecar(path) for kind, path in outputs.items()}
        jobs.append(Job(image, outputs, None if has_one_frame(image) else derivative.bval(image), records))
    return jobs


def participant_level(
    derivative: Derivative,
    images: list[Path],
    stripper: Stripper,
    made_with: dict[str, Any],
    options: StripOptions = StripOptions(),
    brain: bool = False,
    resume: bool = False,
    done: Callable[[Outcome], None] = lambda outcome: None,
    debug: bool = False,
    quality: QualityModel | None = None,
) -> list[Outcome]:
    """Strip the images of a data set into its derivative; a scan that fails does not stop the others.

    made_with: what the JSON file of each output tells of model and version. The other arguments are those
    of `batch.strip.strip_files`; images of several frames get one mask.
    """
    derivative.prepare()
    jobs = plan(derivative, images, brain)
    claims = Counter(job.outputs["mask"] for job in jobs)
    jobs = [replace(job, fault=_twin_fault(job) if claims[job.outputs["mask"]] > 1 else "") for job in jobs]

    def finish(job: Job, kept: bool, found: MaskQuality | None) -> None:
        if not kept:
            derivative.describe_mask(job.image, made_with, found)
            if brain:
                derivative.describe_brain(job.image, made_with)
        elif found is not None:
            derivative.add_quality(job.image, found)

    options = replace(options, mean_frame=True)
    return strip_files(
        stripper,
        jobs,
        options,
        quality=quality,
        resume=resume,
        debug=debug,
        made_with=made_with,
        done=done,
        finish=finish,
    )


def _twin_fault(job: Job) -> str:
    return f"{job.image}: another image has the same name but for its ending; remove one of them"


def group_level(
    derivative: Derivative,
    images: list[Path],
    quality: QualityModel,
    about: str,
    others: bool = True,
    done: Callable[[int, Assessment], None] = lambda number, assessment: None,
    debug: bool = False,
) -> list[Assessment]:
    """Score every mask of the derivative, and write the table and the page; worst first.

    images: of which there should be masks; those without are failures too. others: score masks of other
    images too. Raises InputError if there is nothing to score.
    """
    derivative.prepare()
    expected = {derivative.mask(image): image for image in images}
    there = derivative.masks() if others else []
    images_of = {mask: derivative.image_of(mask) for mask in there} | expected
    if not images_of:
        raise InputError(f"{derivative.root}: no mask here, and no image in {derivative.source} to make one of")
    folder = derivative.root / REPORT
    cases = [Case(mask, image) for mask, image in sorted(images_of.items())]
    found = []
    for assessment in assess_files(Assessor(quality, report_folder=folder), cases, done, debug):
        case = assessment.case
        if not path_exists(case.mask):
            assessment = replace(assessment, note=f"{case.image}: has no mask; run the participant level")
        found.append(assessment)
    write_table(folder / "quality.tsv", found)
    write_report(folder, found, derivative.root.resolve().name, about)
    return found
