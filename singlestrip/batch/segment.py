"""Segments image files: one or thousands with one loaded model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, describe_file_error, errors_named
from ..io.images import memory_need, volume
from ..io.images.header import ImageHeader
from ..io.images.volume import Volume
from ..io.pictures import figures
from ..io.text.json_file import read_json, write_json
from ..io.text.structure_table import write_structures
from ..space.scan import Scan
from .jobs import Job, SegmentOptions
from .ledger import Ledger, record_path
from .pipeline import Outcome, Say, do_job, run_jobs, write_together
from .reading import check_files, check_grids, frames_to_see, read_image

if TYPE_CHECKING:
    from ..stripping.segmenter import Segmented, Segmenter

MEASURES = "Structures"  # key of a record
FAULTS = (KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class StructureMeasures:
    """What was measured in one frame, of structures by their number.

    intracranial_mm3: soft volume of the brain with the fluid around it; None if the model has no class that is
    brain. volumes_mm3: soft volumes. agreement: mean Dice of a structure in the views of the networks with that in
    their mean; without structures that no view has.
    """

    intracranial_mm3: float | None
    volumes_mm3: dict[int, float]
    agreement: dict[int, float]

    @staticmethod
    def of(segmented: Segmented) -> StructureMeasures:
        """Those of a frame."""
        numbers = [each.number for each in segmented.classes]
        pairs = zip(numbers, segmented.agreement, strict=True)
        agreement = {number: value for number, value in pairs if math.isfinite(value)}
        return StructureMeasures(segmented.intracranial_mm3, segmented.volumes_mm3, agreement)

    @staticmethod
    def of_record(record: dict[str, Any]) -> StructureMeasures:
        """Those of an object in a record; FAULTS are raised for another object."""
        intracranial = record["intracranial_mm3"]
        by_number = [
            {int(number): float(value) for number, value in record[name].items()}
            for name in ("volumes_mm3", "agreement")
        ]
        return StructureMeasures(None if intracranial is None else float(intracranial), *by_number)


@dataclass(frozen=True)
class PreparedImage:
    """An image that was read and checked. frames: what the networks are shown."""

    image: Volume
    frames: list[Scan]


@dataclass(frozen=True)
class Segmenting:
    """The work of segmenting an image; see `pipeline.Work`."""

    segmenter: Segmenter
    options: SegmentOptions = SegmentOptions()
    done: str = "segmented"

    @property
    def memory_gib(self) -> float | None:
        return self.options.memory_gib

    def memory_needed(self, header: ImageHeader, job: Job) -> int:
        frames = 1 if self.options.mean_frame or job.bval else header.frames
        return memory_need.estimate_segmenting(
            header, self.segmenter.stripper.config, "probseg" in job.outputs, frames
        )

    def prepare(self, job: Job, say: Say) -> PreparedImage:
        header = check_files(job)
        memory_need.check_need(header, self.memory_needed(header, job), self.options.memory_gib)
        check_grids(header, job)
        image = read_image(job, say)
        frames = frames_to_see(image, job, self.options)
        if "probseg" in job.outputs and len(frames) > 1:
            raise InputError(f"{job.image}: has {len(frames)} frames; posteriors are of one, or of their mean")
        return PreparedImage(image, frames)

    def look(self, prepared: PreparedImage, job: Job, say: Say) -> list[Segmented]:
        found = []
        with errors_named(job.image):
            for number, frame in enumerate(prepared.frames):
                place = "" if len(prepared.frames) == 1 else f"frame {number} of 0 to {len(prepared.frames) - 1}: "
                try:
                    found.append(
                        self.segmenter.segment(
                            frame, centre_mm=self.options.centre_mm, posteriors="probseg" in job.outputs
                        )
                    )
                except InputError as error:
                    raise type(error)(f"{place}{error}") from error
                for remark in (found[-1].unusual, *found[-1].doubts):
                    if remark:
                        say(f"{job.image}: {place}{remark}: look at the labels")
        return found

    def write(self, job: Job, prepared: PreparedImage, result: list[Segmented]) -> None:
        writers = {
            "dseg": self._write_labels,
            "probseg": self._write_posteriors,
            "table": self._write_table,
            "names": self._write_names,
            "picture": self._write_picture,
        }
        write_together(job, lambda kind, path: writers[kind](path, prepared.image, result))

    def _write_labels(self, path: Path, image: Volume, found: list[Segmented]) -> None:
        """Write the label maps of all frames."""
        from ..stripping.segmenter import class_numbers

        classes = self.segmenter.classes
        channels = [each.found.channels for each in found]
        volume.write_labels(image, path, channels, class_numbers(classes), classes)

    def _write_posteriors(self, path: Path, image: Volume, found: list[Segmented]) -> None:
        """Write the posterior of each class as a frame, without that of the background."""
        posteriors = (found[0].found.posterior(channel) for channel in self._channels())
        volume.write_frames(image, path, posteriors, len(self.segmenter.classes), 1 / 255, "posteriors")

    def _write_table(self, path: Path, image: Volume, found: list[Segmented]) -> None:
        """Write the table of all structures."""
        write_structures(path, self.segmenter.classes)

    def _write_names(self, path: Path, image: Volume, found: list[Segmented]) -> None:
        """Write the names of the posteriors' frames, as BIDS has them."""
        write_json(path, {"LabelMap": [each.name for each in self.segmenter.classes]})

    def _write_picture(self, path: Path, image: Volume, found: list[Segmented]) -> None:
        """Write a picture of the first frame."""
        scan, channels = Scan(image.grey(), image.vox2world), found[0].found.channels
        figures.structure_figure(scan, channels, self.segmenter.classes, path, image.path.name)

    def _channels(self) -> range:
        """The channels of the classes."""
        return range(1, 1 + len(self.segmenter.classes))

    def measure(self, result: list[Segmented]) -> list[StructureMeasures]:
        return [StructureMeasures.of(each) for each in result]

    def measure_kept(self, job: Job) -> list[StructureMeasures] | None:
        """What the records of the outputs tell; None if they tell nothing."""
        for kind in job.outputs:
            try:
                return [StructureMeasures.of_record(each) for each in read_json(record_path(job, kind))[MEASURES]]
            except FAULTS:
                continue
        return None

    def record(self, measured: list[StructureMeasures] | None) -> dict[str, Any]:
        return {MEASURES: [asdict(each) for each in measured or ()]}


def segment_file(segmenter: Segmenter, job: Job, options: SegmentOptions = SegmentOptions()) -> list[Segmented]:
    """Segment one image file. Each output appears whole or not at all. Returns what is found in each frame.

    Raises SingleStripError.
    """
    return do_job(Segmenting(segmenter, options), job)


def segment_files(
    segmenter: Segmenter,
    jobs: Iterable[Job],
    options: SegmentOptions = SegmentOptions(),
    *,
    resume: bool = False,
    debug: bool = False,
    made_with: dict[str, Any] | None = None,
    done: Callable[[Outcome[list[StructureMeasures]]], None] = lambda outcome: None,
    describe: Callable[[Path, Exception], str] = describe_file_error,
) -> list[Outcome[list[StructureMeasures]]]:
    """Segment the image of each job. Returns the outcomes, which have the measures of each frame.

    made_with: of `records.made_with`; each output then gets a record of how it was made and of what was measured.
    `resume` makes anew what was made in another way, but keeps outputs without a record; of these nothing is
    known. Other arguments: see `pipeline.run_jobs`.
    """
    return run_jobs(
        Segmenting(segmenter, options),
        jobs,
        ledger=None if made_with is None else Ledger(made_with, options),
        resume=resume,
        debug=debug,
        done=done,
        describe=describe,
    )
