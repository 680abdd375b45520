"""The two levels of the BIDS-App: masks of every participant, and the quality of all masks together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..batch.assess import Assessor, assess_files
from ..batch.assessment import Assessment, Case
from ..batch.jobs import Job, StripOptions
from ..batch.pipeline import Outcome
from ..batch.quality_table import write_table
from ..batch.report import write_report
from ..batch.strip import strip_files
from ..errors import InputError, OutputError
from ..io.images.volume import has_one_frame
from ..io.output import make_folder, path_exists
from ..quality.scores import MaskQuality, QualityModel
from ..stripping.stripper import Stripper
from .layout import REPORT, Derivative, sidecar


@dataclass(frozen=True)
class ParticipantOptions:
    """How the participant level works.

    made_with: what the JSON file of each output tells of model and version. strip: how images are stripped; images
    of several frames get one mask in any case. brain: write the images without their background too. resume: keep
    outputs that are there, whole, and made in this way. debug: raise the first failure.
    """

    made_with: dict[str, Any]
    strip: StripOptions = StripOptions()
    brain: bool = False
    resume: bool = False
    debug: bool = False


def participant_level(
    derivative: Derivative,
    images: Sequence[Path],
    stripper: Stripper,
    options: ParticipantOptions,
    quality: QualityModel | None = None,
    done: Callable[[Outcome[MaskQuality]], None] = lambda outcome: None,
) -> list[Outcome[MaskQuality]]:
    """Strip the images of a data set into its derivative. A scan that fails does not stop the others.

    quality: assess the masks, and write the estimates to their JSON files. done: called after each image. Raises
    OutputError if the derivative cannot be written.
    """
    derivative.prepare()
    jobs = _plan_jobs(derivative, images, options.brain)

    def finish(job: Job, kept: bool, mask_quality: MaskQuality | None) -> None:
        if not kept:
            derivative.describe_mask(job.image, options.made_with, mask_quality)
            if options.brain:
                derivative.describe_brain(job.image, options.made_with)
        elif mask_quality is not None:
            derivative.add_quality(job.image, mask_quality)

    return strip_files(
        stripper,
        jobs,
        replace(options.strip, mean_frame=True),
        resume=options.resume,
        done=done,
        debug=options.debug,
        quality=quality,
        finish=finish,
        made_with=options.made_with,
    )


def _plan_jobs(derivative: Derivative, images: Sequence[Path], brain: bool) -> list[Job]:
    """A job for each image; makes the folders of the outputs.

    A job whose folder cannot be made fails when its turn comes, and so do jobs that would write the same mask.
    """
    jobs = []
    for image in images:
        outputs = {"mask": derivative.mask(image)}
        if brain:
            outputs["brain"] = derivative.brain(image)
        with suppress(OutputError):
            make_folder(outputs["mask"].parent)
        records = {kind: sidecar(path) for kind, path in outputs.items()}
        jobs.append(Job(image, outputs, None if has_one_frame(image) else derivative.bval(image), records))
    claims = Counter(job.outputs["mask"] for job in jobs)
    return [replace(job, fault=_twin_fault(job.image) if claims[job.outputs["mask"]] > 1 else "") for job in jobs]


def _twin_fault(image: Path) -> str:
    return f"{image}: another image has the same name but for its ending; remove one of them"


def group_level(
    derivative: Derivative,
    images: Sequence[Path],
    quality: QualityModel,
    about: str,
    stripper: Stripper | None = None,
    others: bool = True,
    debug: bool = False,
) -> list[Assessment]:
    """Score every mask of the derivative, and write the table and the page. Returns the assessments, worst first.

    images: those that should have a mask; one without a mask is a failure. about: a line for the page. stripper:
    the networks that look at the images; None to judge without. others: score the masks of other images too.
    debug: raise the first failure. Raises InputError if there is nothing to score.
    """
    derivative.prepare()
    expected = {derivative.mask(image): image for image in images}
    existing = derivative.masks() if others else []
    images_of = {mask: derivative.image_of(mask) for mask in existing} | expected
    if not images_of:
        raise InputError(f"{derivative.root}: no mask here, and no image in {derivative.source} to make one of")
    folder = derivative.root / REPORT
    cases = [Case(mask, image) for mask, image in sorted(images_of.items())]
    assessor = Assessor(quality, stripper, report_folder=folder)
    assessments = [_say_missing(each) for each in assess_files(assessor, cases, debug=debug)]
    write_table(folder / "quality.tsv", assessments)
    write_report(folder, assessments, derivative.root.resolve().name, about)
    return assessments


def _say_missing(assessment: Assessment) -> Assessment:
    """The assessment, with a note that says so if its mask is not there."""
    case = assessment.case
    if path_exists(case.mask):
        return assessment
    return replace(assessment, note=f"{case.image}: has no mask; run the participant level")
