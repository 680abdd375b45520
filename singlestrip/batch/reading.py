"""Reads the image of a job, and checks what can be checked without a network."""

from __future__ import annotations

import numpy as np

from ..errors import OutputError
from ..io.images import diffusion, volume
from ..io.images.header import ImageHeader
from ..io.images.names import suffix_of
from ..io.images.volume import Volume
from ..io.output import check_distinct, check_picture, check_writable
from ..space.scan import Scan
from .frames import each_frame, frames_of_masks, mean_frame
from .jobs import Job, JobOptions
from .pipeline import Say


def check_files(job: Job) -> ImageHeader:
    """The header of a job's image. Raises SingleStripError if it, or the name of an output, cannot be used."""
    if job.fault:
        raise OutputError(job.fault)
    check_distinct([job.image, job.bval] if job.bval else [job.image], job.outputs.values())
    # The header comes first, so that a name that no file can have is reported of the image, not of its outputs.
    header = volume.read_header(job.image)
    checks = {"picture": check_picture, "table": check_writable, "names": check_writable}
    for kind, path in job.outputs.items():
        checks.get(kind, volume.check_output)(path)
    return header


def check_grids(header: ImageHeader, job: Job) -> None:
    """Raise OutputError if the format of an output cannot hold the grid of the image."""
    for path in job.outputs.values():
        if suffix_of(path):
            volume.check_grid_fits(header, path)


def read_image(job: Job, say: Say) -> Volume:
    """The image of a job. say: is told what is unusual. Raises InputError."""
    image = volume.read_quietly(job.image)
    for remark in image.remarks:
        say(f"{image.path}: {remark}")
    bad = _count_bad(image)
    if bad:
        say(f"{job.image}: {bad} voxels are not finite and count as background")
    return image


def _count_bad(image: Volume) -> int:
    """The number of voxels that are not finite. Raises InputError if many of one frame are infinite."""
    if image.stored.dtype.kind != "f":
        return 0
    total = 0
    for t in range(image.frames):
        bad = int(np.count_nonzero(~np.isfinite(image.frame(t))))
        if 0 < bad < image.frame(t).size:
            image.check_not_overflowed(t)
        total += bad
    return total


def frames_to_see(image: Volume, job: Job, options: JobOptions) -> list[Scan]:
    """What the networks are shown of an image: each frame, or the mean of those that a single output is made from.

    That is the mean of all frames if the options say so, and with b-values that of the b=0 frames.
    """
    counting = None if job.bval is None else diffusion.b0_frames(job.bval, image.frames, options.b0_limit)
    if counting is None:
        return frames_of_masks(image, 1 if options.mean_frame else image.frames)
    return each_frame(image) if image.frames == 1 else [mean_frame(image, counting)]
