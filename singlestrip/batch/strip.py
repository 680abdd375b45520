"""Strips image files: one or thousands with one loaded model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, describe_file_error
from ..io.images import memory_need, volume
from .jobs import Job, StripOptions
from .ledger import Ledger
from .stages import Brain, Prepared, assess_kept, find_brain, memory_needed, prepare, write_outputs

if TYPE_CHECKING:  # their modules import torch
    from ..quality.scores import MaskQuality, QualityModel
    from ..stripping.stripper import Stripper

log = logging.getLogger(__name__)


def strip_file(
    stripper: Stripper, job: Job, options: StripOptions = StripOptions(), quality: QualityModel | None = None
) -> None:
    """Strip one image file. Each output appears whole or not at all. Raises SingleStripError.

    quality: makes the map of doubt if the job asks for one.
    """
    prepared = prepare(job, options, stripper.config.window_mm, log.warning)
    brain = find_brain(stripper, prepared, job, options, log.warning, quality, assess=False)
    write_outputs(job, prepared, brain, options)


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
    assess: bool = True,
    resume: bool = False,
    debug: bool = False,
    made_with: dict[str, Any] | None = None,
    done: Callable[[Outcome], None] = lambda outcome: None,
    finish: Callable[[Job, bool, MaskQuality | None], None] = lambda job, kept, quality: None,
    describe: Callable[[Path, Exception], str] = describe_file_error,
) -> list[Outcome]:
    """Strip the image of each job. Returns the outcomes. A job that fails does not stop the others.

    While the networks see one image, a thread reads the next one, if there is memory for both, and another thread
    writes the outputs of the one before. What is logged, and the outcomes, keep the order of the jobs.

    quality: assesses the masks, kept ones too, unless `assess` is False, and makes maps of doubt. resume: keep
    the outputs of a job if all are there, complete, and on the grid of the image. debug: raise the first failure.
    made_with: of `records.made_with`; each output then gets a record of how it was made, and `resume` makes anew
    what was made in another way, but keeps outputs without a record. done: called after each job. finish: called
    at the end of each job that did not fail, with whether its outputs were kept and the quality of its mask; if it
    raises, the job fails. describe: makes the text of the outcome from an error in the work on an image. The
    functions are called in the caller's thread.
    """
    ledger = None if made_with is None else Ledger(made_with, options)
    batch = _Batch(stripper, options, quality, assess, resume, ledger, finish)
    outcomes = []
    with closing(batch.run(jobs)) as tasks:
        for task in tasks:
            for remark in task.remarks:
                log.warning("%s", remark)
            outcomes.append(_outcome(task, describe, debug))
            done(outcomes[-1])
    if ledger is not None:
        ledger.warn_of_unknown()
    return outcomes


def _outcome(task: _Task, describe: Callable[[Path, Exception], str], debug: bool) -> Outcome:
    """The outcome of a job on which all work is done. debug: raise the error with which it failed."""
    if task.error is None:
        text = "kept" if task.kept else "stripped"
        return Outcome(task.number, task.job, text, task.seconds, task.quality)
    if debug:
        raise task.error
    return Outcome(task.number, task.job, describe(task.job.image, task.error), task.seconds)


@dataclass(eq=False)
class _Task:
    """A job on its way through the stages of a batch.

    stage: the work of another thread on it. need: estimated bytes of memory. waits: whether memory did not suffice
    to read the image beside others. remarks: sentences to log. seconds: of work so far. error: why the job failed;
    later stages then do nothing.
    """

    number: int
    job: Job
    stage: Future[None] | None = None
    need: int = 0
    waits: bool = False
    wanted: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: bool = False
    prepared: Prepared | None = None
    brain: Brain | None = None
    quality: MaskQuality | None = None
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: Exception | None = None

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the time of a stage, and keep the error that ends it."""
        start = time.monotonic()
        try:
            yield
        except Exception as error:  # a fault in one scan must not stop the others
            self.error = error
        finally:
            self.seconds += time.monotonic() - start


@dataclass(frozen=True)
class _Batch:
    """The models and settings that all jobs of a run share, and the stages of the work on a job."""

    stripper: Stripper
    options: StripOptions
    quality: QualityModel | None
    assess: bool
    resume: bool
    ledger: Ledger | None
    finish: Callable[[Job, bool, MaskQuality | None], None]

    def run(self, jobs: Iterable[Job]) -> Generator[_Task, None, None]:
        """The task of each job, in order, when all work on it is done.

        While the networks see an image, at most one other is read, and the outputs of one other are written.
        """
        tasks = (_Task(number, job) for number, job in enumerate(jobs, start=1))
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            behind: _Task | None = None  # its outputs are being written
            task = self._read_next(tasks, reader)
            while task is not None:
                _wait(task)
                if behind is not None and task.prepared is None:  # no network works meanwhile
                    yield self._end(behind)
                    behind = None
                if task.waits:
                    self._read(task)
                following = self._read_next(tasks, reader, *(each for each in (task, behind) if each is not None))
                self._find_brain(task)
                if behind is not None:
                    yield self._end(behind)
                task.stage = writer.submit(self._write, task)
                behind, task = task, following
            if behind is not None:
                yield self._end(behind)

    def _read_next(self, tasks: Iterator[_Task], reader: ThreadPoolExecutor, *in_work: _Task) -> _Task | None:
        """The next task, whose image `reader` begins to read; None if there is none. in_work: see `_read`."""
        task = next(tasks, None)
        if task is not None:
            needs = [each.need for each in in_work if each.prepared is not None]
            task.stage = reader.submit(self._read, task, needs)
        return task

    def _read(self, task: _Task, needs: Sequence[int] = ()) -> None:
        """Read the image of a job, unless its outputs can be kept, or it has to wait until memory is free.

        needs: estimated bytes of memory of each image that is worked on meanwhile.
        """
        with task.working():
            task.waits = not self._has_room(task, needs)
            if task.waits:
                return
            job = task.job
            if self.ledger is not None:
                task.wanted = self.ledger.wanted(job)  # before the image is read, since it may change
            if self.resume and _is_done(job):
                task.kept = self.ledger is None or self.ledger.can_keep(job, task.wanted, task.remarks.append)
            if not task.kept:
                task.prepared = prepare(job, self.options, self.stripper.config.window_mm, task.remarks.append)

    def _has_room(self, task: _Task, needs: Sequence[int]) -> bool:
        """Whether there is memory to read and strip an image beside others that need so much."""
        try:
            header = volume.read_header(task.job.image)
        except InputError:  # nothing will be read, and `prepare` says why
            return True
        task.need = memory_needed(header, task.job, self.options, self.stripper.config.window_mm)
        return memory_need.fits_beside(task.need, needs, self.options.memory_gib)

    def _find_brain(self, task: _Task) -> None:
        """Find the brain in an image that was read, and assess its mask, or a mask that is kept."""
        with task.working():
            if task.prepared is not None:
                say = task.remarks.append
                task.brain = find_brain(
                    self.stripper, task.prepared, task.job, self.options, say, self.quality, self.assess
                )
                task.quality = task.brain.quality
            elif task.kept and self.quality is not None and self.assess and "mask" in task.job.outputs:
                task.quality = assess_kept(self.stripper, task.job, self.options, self.quality)

    def _write(self, task: _Task) -> None:
        """Write the outputs of a job and let its arrays go."""
        with task.working():
            if task.error is None and task.prepared is not None and task.brain is not None:
                if self.ledger is not None:
                    self.ledger.begin(task.job)
                write_outputs(task.job, task.prepared, task.brain, self.options)
        task.prepared = task.brain = None

    def _end(self, task: _Task) -> _Task:
        """The task, when its outputs are written, and their records are too."""
        _wait(task)
        with task.working():
            if task.error is None:
                self.finish(task.job, task.kept, task.quality)
                if self.ledger is not None and not task.kept:
                    self.ledger.finish(task.job, task.wanted)
        return task


def _wait(task: _Task) -> None:
    """Wait for the thread that works on a task."""
    if task.stage is not None:
        task.stage.result()


def _is_done(job: Job) -> bool:
    """Whether all outputs of a job are there, images complete and on the grid of the job's image."""
    pictures = [path for kind, path in job.outputs.items() if kind == "picture"]
    images = [path for kind, path in job.outputs.items() if kind != "picture"]
    return (
        not job.fault
        and all(path.is_file() for path in (*job.records.values(), *pictures))
        and all(volume.is_complete(path, job.image) for path in images)
    )
