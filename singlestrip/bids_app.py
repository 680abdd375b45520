"""The two levels of the BIDS-App: masks of every participant, and the quality of all masks together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .assessment import Assessment, Assessor, Case, assess_files, write_report, write_table
from .batch import Job, Outcome, StripOptions, strip_files
from .bids import REPORT, Derivative, sidecar
from .errors import InputError
from .output import check_distinct, make_folder
from .quality import QualityModel
from .stripping import Stripper


def plan(derivative: Derivative, images: list[Path], brain: bool = False) -> list[Job]:
    """A job for each image; brain: with the image without its background. Makes the folders."""
    jobs = []
    for image in images:
        outputs = {"mask": derivative.mask(image)}
        if brain:
            outputs["brain"] = derivative.brain(image)
        make_folder(outputs["mask"].parent)
        jobs.append(Job(image, outputs, derivative.bval(image)))
    check_distinct(images, [path for job in jobs for path in job.outputs.values()])
    return jobs


def participant_level(
    derivative: Derivative,
    images: list[Path],
    stripper: Stripper,
    made_with: dict[str, Any],
    options: StripOptions = StripOptions(),
    brain: bool = False,
    resume: bool = False,
    warn: Callable[[str], None] = lambda text: None,
    done: Callable[[Outcome], None] = lambda outcome: None,
    debug: bool = False,
    quality: QualityModel | None = None,
) -> list[Outcome]:
    """Strip the images of a data set into its derivative; a scan that fails does not stop the others.

    made_with: what the JSON file of each output tells of model and version. The other arguments are those
    of `batch.strip_files`; images of several frames get one mask.
    """
    derivative.prepare()
    jobs = plan(derivative, images, brain)
    for job in jobs:
        if resume and not all(sidecar(path).is_file() for path in job.outputs.values()):
            job.outputs["mask"].unlink(missing_ok=True)  # whatever made it did not come to an end

    def finish(outcome: Outcome) -> None:
        if outcome.text == "stripped":
            derivative.describe_mask(outcome.job.image, made_with, outcome.quality)
            if brain:
                derivative.describe_brain(outcome.job.image, made_with)
        elif outcome.quality is not None:
            derivative.add_quality(outcome.job.image, outcome.quality)
        done(outcome)

    options = replace(options, mean_frame=True)
    return strip_files(stripper, jobs, options, resume, warn, finish, debug, quality)


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
        if not case.mask.exists():
            assessment = replace(assessment, note=f"{case.image}: has no mask; run the participant level")
        found.append(assessment)
    write_table(folder / "quality.tsv", found)
    write_report(folder, found, derivative.root.resolve().name, about)
    return found
