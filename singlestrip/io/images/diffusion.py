"""b-values of diffusion images."""

from __future__ import annotations

import math
import os
from pathlib import Path

from ...configuration import DiffusionConfig
from ...errors import InputError
from ..text.textfile import read_text

BVAL_LIMIT = 2**20  # bytes: about a hundred thousand frames


def b0_frames(path: Path, frames: int, limit: float = DiffusionConfig().b0_limit) -> list[int]:
    """The numbers, from 0, of the frames of a diffusion image with a b-value up to `limit`, s/mm².

    path: text file with a b-value in s/mm² for each frame, as in FSL and BIDS. frames: how many the image has.
    Raises InputError if the file is something else, or no frame has such a b-value.
    """
    if not os.path.lexists(path):
        raise InputError(f"{path}: no such file; its b-values are needed to choose the frames to strip")
    text = read_text(path, "b-values", limit=BVAL_LIMIT)
    try:
        values = [float(word) for word in text.split()]
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as b-values ({str(error)[:100]})") from error
    if len(values) != frames or not all(map(math.isfinite, values)):
        raise InputError(f"{path}: {len(values)} b-values; the image has {frames} frames and needs a number each")
    b0 = [t for t, value in enumerate(values) if value <= limit]
    if not b0:
        raise InputError(
            f"{path}: no frame has a b-value up to {limit:g} s/mm²; raise the limit, or work without b-values"
        )
    return b0
