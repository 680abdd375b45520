"""Runs jobs through three stages: read an image, show it to the networks, write the outputs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from ..errors import InputError, describe_file_error
from ..io.images import memory_need, volume
from ..io.images.header import ImageHeader
from ..io.images.names import suffix_of
from .jobs import Job
from .ledger import Ledger

log = logging.getLogger(__name__)

Say = Callable[[str], None]
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")
Measured = TypeVar("Measured")


class Work(Protocol[Prepared, Result, Measured]):
    """What is done with each image of a run.

    Each stage may run in a thread of its own. What is unusual goes to a function `say` as a sentence, so that the
    sentences of several images can be logged in the order of the images. The stages raise SingleStripError.

    done: the word for an image on which the work is done. memory_gib: refuse images that take more memory; None
    for what is free.
    """

    @property
    def done(self) -> str: ...

    @property
    def memory_gib(self) -> float | None: ...

    def memory_needed(self, header: ImageHeader, job: Job) -> int:
        """Upper estimate, in bytes, of the memory that the whole process takes for the image of a job."""

    def prepare(self, job: Job, say: Say) -> Prepared:
        """Read the image of a job and check everything that can be checked without a network."""

    def look(self, prepared: Prepared, job: Job, say: Say) -> Result:
        """What the networks see in an image."""

    def write(self, job: Job, prepared: Prepared, result: Result) -> None:
        """Write the outputs of a job. Each appears whole or not at all."""

    def measure(self, result: Result) -> Measured | None:
        """What was measured in an image; None if nothing was asked for."""

    def measure_kept(self, job: Job) -> Measured | None:
        """What is known of outputs that are kept; None if nothing was asked for, or nothing is known."""

    def record(self, measured: Measured | None) -> dict[str, Any]:
        """What the records of outputs tell of what was measured."""


@dataclass(frozen=True)
class Outcome(Generic[Measured]):
    """The outcome of a job.

    number: of the job, from 1. text: what was done, "kept", or why the job failed. seconds: how long it took.
    measured: what was measured; None if nothing was. failed: whether there are no outputs.
    """

    number: int
    job: Job
    text: str
    seconds: float
    measured: Measured | None = None
    failed: bool = False


def do_job(work: Work[Prepared, Result, Measured], job: Job) -> Result:
    """Do the work on one image, and return what the networks saw. Raises SingleStripError."""
    prepared = work.prepare(job, log.warning)
    result = work.look(prepared, job, log.warning)
    work.write(job, prepared, result)
    return result


def write_together(job: Job, write: Callable[[str, Path], None]) -> None:
    """Write the outputs of a job, all at the same time. write: writes one, given its kind and path."""
    with ThreadPoolExecutor(len(job.outputs)) as pool:
        for output in [pool.submit(write, kind, path) for kind, path in job.outputs.items()]:
            output.result()


def run_jobs(
    work: Work[Prepared, Result, Measured],
    jobs: Iterable[Job],
    *,
    ledger: Ledger | None = None,
    resume: bool = False,
    debug: bool = False,
    done: Callable[[Outcome[Measured]], None] = lambda outcome: None,
    finish: Callable[[Job, bool, Measured | None], None] = lambda job, kept, measured: None,
    describe: Callable[[Path, Exception], str] = describe_file_error,
) -> list[Outcome[Measured]]:
    """Do the work of each job. Returns the outcomes. A job that fails does not stop the others.

    While the networks see one image, a thread reads the next one, if there is memory for both, and another thread
    writes the outputs of the one before. What is logged, and the outcomes, keep the order of the jobs.

    ledger: records how each output is made; None for no records. resume: keep the outputs of a job if all are
    there, complete, and on the grid of the image, and by the ledger made as they would be now. debug: raise the
    first failure. done: called after each job. finish: called at the end of each job that did not fail, with
    whether its outputs were kept and what was measured; if it raises, the job fails. describe: makes the text of
    the outcome from an error in the work on an image. The functions are called in the caller's thread.
    """
    pipeline = _Pipeline(work, resume, ledger, finish)
    outcomes = []
    with closing(pipeline.run(jobs)) as tasks:
        for task in tasks:
            for remark in task.remarks:
                log.warning("%s", remark)
            outcomes.append(_outcome(task, work.done, describe, debug))
            done(outcomes[-1])
    if ledger is not None:
        ledger.warn_of_unknown()
    return outcomes


def _outcome(
    task: _Task[Prepared, Result, Measured], word: str, describe: Callable[[Path, Exception], str], debug: bool
) -> Outcome[Measured]:
    """The outcome of a job on which all work is done. debug: raise the error with which it failed."""
    if task.error is None:
        return Outcome(task.number, task.job, "kept" if task.kept else word, task.seconds, task.measured)
    if debug:
        raise task.error
    return Outcome(task.number, task.job, describe(task.job.image, task.error), task.seconds, failed=True)


@dataclass(eq=False)
class _Task(Generic[Prepared, Result, Measured]):
    """A job on its way through the stages.

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
    result: Result | None = None
    measured: Measured | None = None
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

    def wait(self) -> None:
        """Wait for the thread that works on this task."""
        if self.stage is not None:
            self.stage.result()


@dataclass(frozen=True)
class _Pipeline(Generic[Prepared, Result, Measured]):
    """The work and the settings that all jobs of a run share, and the stages of a job."""

    work: Work[Prepared, Result, Measured]
    resume: bool
    ledger: Ledger | None
    finish: Callable[[Job, bool, Measured | None], None]

    def run(self, jobs: Iterable[Job]) -> Generator[_Task[Prepared, Result, Measured], None, None]:
        """The task of each job, in order, when all work on it is done.

        While the networks see an image, at most one other is read, and the outputs of one other are written.
        """
        tasks: Iterator[_Task[Prepared, Result, Measured]]
        tasks = (_Task(number, job) for number, job in enumerate(jobs, start=1))
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            behind: _Task[Prepared, Result, Measured] | None = None  # its outputs are being written
            task = self._read_next(tasks, reader)
            while task is not None:
                task.wait()
                if behind is not None and task.prepared is None:  # no network works meanwhile
                    yield self._end(behind)
                    behind = None
                if task.waits:
                    self._read(task)
                following = self._read_next(tasks, reader, *(each for each in (task, behind) if each is not None))
                self._look(task)
                if behind is not None:
                    yield self._end(behind)
                task.stage = writer.submit(self._write, task)
                behind, task = task, following
            if behind is not None:
                yield self._end(behind)

    def _read_next(
        self,
        tasks: Iterator[_Task[Prepared, Result, Measured]],
        reader: ThreadPoolExecutor,
        *in_work: _Task[Prepared, Result, Measured],
    ) -> _Task[Prepared, Result, Measured] | None:
        """The next task, whose image `reader` begins to read; None if there is none. in_work: see `_read`."""
        task = next(tasks, None)
        if task is not None:
            needs = [each.need for each in in_work if each.prepared is not None]
            task.stage = reader.submit(self._read, task, needs)
        return task

    def _read(self, task: _Task[Prepared, Result, Measured], needs: Sequence[int] = ()) -> None:
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
                task.prepared = self.work.prepare(job, task.remarks.append)

    def _has_room(self, task: _Task[Prepared, Result, Measured], needs: Sequence[int]) -> bool:
        """Whether there is memory to work on an image beside others that need so much."""
        try:
            header = volume.read_header(task.job.image)
        except InputError:  # nothing will be read, and `prepare` says why
            return True
        task.need = self.work.memory_needed(header, task.job)
        return memory_need.fits_beside(task.need, needs, self.work.memory_gib)

    def _look(self, task: _Task[Prepared, Result, Measured]) -> None:
        """Show the networks an image that was read, or measure the outputs that are kept."""
        with task.working():
            if task.prepared is not None:
                task.result = self.work.look(task.prepared, task.job, task.remarks.append)
                task.measured = self.work.measure(task.result)
            elif task.kept:
                task.measured = self.work.measure_kept(task.job)

    def _write(self, task: _Task[Prepared, Result, Measured]) -> None:
        """Write the outputs of a job and let its arrays go."""
        with task.working():
            if task.error is None and task.prepared is not None and task.result is not None:
                if self.ledger is not None:
                    self.ledger.begin(task.job)
                self.work.write(task.job, task.prepared, task.result)
        task.prepared = task.result = None

    def _end(self, task: _Task[Prepared, Result, Measured]) -> _Task[Prepared, Result, Measured]:
        """The task, when its outputs are written, and their records are too."""
        task.wait()
        with task.working():
            if task.error is None:
                self.finish(task.job, task.kept, task.measured)
                if self.ledger is not None and not task.kept:
                    self.ledger.finish(task.job, task.wanted, self.work.record(task.measured))
        return task


def _is_done(job: Job) -> bool:
    """Whether all outputs of a job are there, images complete and on the grid of the job's image.

    A brain image may lie on a part of the grid; the records tell how it was cropped.
    """
    images = {kind: path for kind, path in job.outputs.items() if suffix_of(path)}
    others = [path for path in job.outputs.values() if not suffix_of(path)]
    return (
        not job.fault
        and all(path.is_file() for path in (*job.records.values(), *others))
        and all(volume.is_complete(path, job.image, kind == "brain") for kind, path in images.items())
    )
