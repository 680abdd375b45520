"""Writes the records of a run's outputs, and decides which outputs a resumed run can keep."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..configuration import DiffusionConfig
from ..io.checksum import checksum
from ..io.images import volume
from ..io.text.json_file import read_json
from . import records
from .jobs import Job, JobOptions

log = logging.getLogger(__name__)


class Ledger:
    """The records of a run's outputs, in this run and in earlier ones.

    made_with: of `records.made_with`. options: what is made of the images, and how.
    """

    def __init__(self, made_with: dict[str, Any], options: JobOptions) -> None:
        self.made_with, self.options = made_with, options
        self.warned: set[str] = set()
        self.unknown = 0

    def begin(self, job: Job) -> None:
        """Note that the outputs of a job are being written."""
        for kind in job.outputs:
            path = record_path(job, kind)
            if kind not in job.records or path.is_file():  # without its JSON file no output counts as done
                records.begin_record(path)

    def finish(self, job: Job, made: dict[str, dict[str, Any]], measured: dict[str, Any]) -> None:
        """Record how the outputs of a job were made, by kind, and with each what was measured."""
        for kind, output in job.outputs.items():
            records.finish_record(record_path(job, kind), output, made[kind] | measured)

    def can_keep(self, job: Job, wanted: dict[str, dict[str, Any]], say: Callable[[str], None]) -> bool:
        """Whether the outputs of a job can be kept. say: is told what is different, as a sentence.

        They cannot if a run ended before they were finished, or if one was made in another way than wanted; each
        difference is told once. If one of the outputs was not made by this program, all are kept.
        """
        recorded = {kind: read_json(record_path(job, kind)) for kind in job.outputs}
        if any(records.is_unfinished(record) for record in recorded.values()):
            return False
        ours = {kind for kind, output in job.outputs.items() if records.is_of(recorded[kind], output)}
        self.unknown += len(recorded) - len(ours)
        for kind in sorted(ours):
            difference = records.differences(recorded[kind], wanted[kind])
            if not difference:
                continue
            output = job.outputs[kind]
            if len(ours) == len(recorded):
                if difference not in self.warned:
                    self.warned.add(difference)
                    say(f"{output}: was made with {difference}; making it anew, and all others like it")
                return False
            say(f"{output}: was made with {difference}; kept: another program wrote a file beside it")
        return True

    def warn_of_unknown(self) -> None:
        """Log how many of the kept outputs have no record."""
        if self.unknown:
            log.warning(
                "%d of the kept outputs have no record of how they were made, or have changed since: "
                "they may be of another image, model or border",
                self.unknown,
            )

    def wanted(self, job: Job) -> dict[str, dict[str, Any]]:
        """The record that each output should have, by kind: what the output depends on."""
        shared = self.made_with | {"ImageSHA256": _checksum_if_readable(volume.voxel_file(job.image))}
        if job.bval is not None:
            shared["BvalSHA256"] = _checksum_if_readable(job.bval)
            if self.options.b0_limit != DiffusionConfig().b0_limit:
                shared["B0Limit"] = self.options.b0_limit
        if not volume.has_one_frame(job.image):
            shared["Frames"] = "b=0" if job.bval else "mean" if self.options.mean_frame else "each"
        shared = {key: value for key, value in shared.items() if value is not None}
        return {kind: shared | self.options.recorded(kind) for kind in job.outputs}


def _checksum_if_readable(path: Path) -> str | None:
    """SHA-256 of a file; None if it cannot be read, which its job will report."""
    try:
        return checksum(path) if os.path.isfile(path) else None  # noqa: PTH113 - Path.is_file raises for some names
    except OSError:
        return None


def record_path(job: Job, kind: str) -> Path:
    """The path of the record of an output: the output's own JSON file, or a hidden file."""
    return job.records.get(kind) or records.hidden_record(job.outputs[kind])
