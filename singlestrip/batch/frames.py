"""Frames of an image that masks are made of and judged by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ..io.images.volume import Volume
from ..space.scan import Scan


def each_frame(image: Volume) -> list[Scan]:
    """The frames of an image."""
    return [image.scan(t) for t in range(image.frames)]


def mean_frame(image: Volume, counting: Iterable[int]) -> Scan:
    """The mean of the stored values of some frames, float32 [X, Y, Z], without values that are not finite."""
    total = np.zeros(image.space, dtype=np.float32)
    count = np.zeros(image.space, dtype=np.int32)
    for t in counting:
        frame = image.frame(t).astype(np.float32)
        finite = np.isfinite(frame)
        np.add(total, frame, out=total, where=finite)
        count += finite
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    return replace(image.scan(), array=mean)


def frames_of_masks(image: Volume, masks: int) -> list[Scan]:
    """What a number of masks of an image is of: the frames, or their mean if there is one mask for several."""
    if masks == 1 and image.frames > 1:
        return [mean_frame(image, range(image.frames))]
    return each_frame(image)
