"""How much memory an image takes, known from its header alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ...configuration import CascadeConfig
from ...errors import InputError
from .. import memory
from .header import ImageHeader
from .mgh_header import MGH_TYPES

# The interpreter, an engine and both networks, whose windows have one size for all images: 0.27 GiB were measured
# for an image of 64³, 0.53 GiB for the largest field of view, and 0.68 GiB with torch (docs/benchmarks.md).
NETWORK_BYTES = 0.8 * memory.GIB
MASK_BYTES_PER_VOXEL = 2  # the mask, and its copy while it is cleaned
WINDOW_BYTES_PER_VOXEL = 12  # within the segmenter's window: logit, labels of components, masks
SDT_BYTES_PER_VOXEL = 16  # the distance, and what measures it; 10 were measured at 256³, 8 at 512³
DOUBT_BYTES_PER_VOXEL = 16  # the map, its part with mask or votes, one vote as logit and as probability
PROBABILITY_BYTES_PER_VOXEL = 4  # the probability of the brain in 32 bits, and
ROUNDING_BYTES_PER_VOXEL = 8  # what turns it into bytes, before they are written
LESION_BYTES = 0.2 * memory.GIB  # a second model and the logits of its views; 0.09 GiB were measured
LESION_BYTES_PER_VOXEL = 16  # within the window: probability of lesion, labels of components, and masks
CHANNEL_COPIES = 6  # of logits and probabilities of all classes in the window, while the networks see it
POSTERIOR_BYTES_PER_VOXEL = 16  # within the window: bytes of the classes that are probable; 8 were measured
COARSER = " or a coarser scan"


def estimate(
    image: ImageHeader,
    sdt: bool,
    window_mm: float,
    brain_in_mgh: bool = False,
    doubt: bool = False,
    probability: bool = False,
    lesions: bool = False,
) -> int:
    """Upper estimate, in bytes, of the memory that the whole process takes to strip an image.

    sdt: whether signed distances are computed.
    window_mm: side of the segmenter's window.
    brain_in_mgh: whether the stripped image is written in MGH, which lacks scaling and some types.
    doubt: whether a map of doubt is made.
    probability: whether the probability of the brain is written.
    lesions: whether lesions are found, by a second model.
    """
    voxels = prod(image.space)
    voxel_mm3 = abs(np.linalg.det(image.vox2world[:3, :3]))
    window_voxels = min(voxels, int(window_mm**3 / voxel_mm3))
    # The image and its stripped copy stay. While several frames are gathered, each output is there twice.
    output_bytes = 1 + 4 * sdt + 4 * doubt + probability + lesions
    gathered = 2 * output_bytes if image.frames > 1 else 0
    kept = image.nbytes + voxels * image.frames * max(image.dtype.itemsize + output_bytes, gathered)
    if brain_in_mgh and not image.is_mgh:
        kept += voxels * image.frames * _mgh_bytes_per_voxel(image)
    most_at_once = max(
        sdt * SDT_BYTES_PER_VOXEL, doubt * DOUBT_BYTES_PER_VOXEL, probability * ROUNDING_BYTES_PER_VOXEL
    )
    most_at_once += probability * PROBABILITY_BYTES_PER_VOXEL
    window_bytes = WINDOW_BYTES_PER_VOXEL + lesions * LESION_BYTES_PER_VOXEL
    work = voxels * (MASK_BYTES_PER_VOXEL + most_at_once) + window_voxels * window_bytes
    return int(NETWORK_BYTES + lesions * LESION_BYTES + kept + work)


def estimate_segmenting(image: ImageHeader, config: CascadeConfig, posteriors: bool, frames: int) -> int:
    """Upper estimate, in bytes, of the memory that the whole process takes to segment an image.

    config: of the networks. posteriors: whether the probabilities of classes are kept. frames: how many label maps
    are made.
    """
    voxels = prod(image.space)
    voxel_mm3 = abs(np.linalg.det(image.vox2world[:3, :3]))
    window_voxels = min(voxels, int(config.window_mm**3 / voxel_mm3))
    logits = CHANNEL_COPIES * 4 * config.segmenter_outputs * config.segmenter_size**3
    # A frame's label map and one more byte, such as where it is finite; of all frames their channels.
    kept = image.nbytes + voxels * (frames + 5)
    work = window_voxels * (WINDOW_BYTES_PER_VOXEL + posteriors * POSTERIOR_BYTES_PER_VOXEL)
    return int(NETWORK_BYTES + logits + kept + work)


def _mgh_bytes_per_voxel(image: ImageHeader) -> int:
    """Bytes per voxel that converting the values to a type of MGH takes beside the image."""
    if (image.slope, image.intercept) != (1.0, 0.0):
        return 12  # 64 bits and the result, or 32 bits three times
    if image.dtype.newbyteorder("=") in MGH_TYPES:
        return 0
    check_bytes = image.dtype.itemsize + 1 if image.dtype.kind != "f" else 0  # do the integers survive 32 bits?
    return 4 + check_bytes


def check(
    image: ImageHeader,
    sdt: bool,
    window_mm: float,
    limit_gib: float | None = None,
    brain_in_mgh: bool = False,
    doubt: bool = False,
    probability: bool = False,
    lesions: bool = False,
) -> None:
    """Raise InputError if stripping an image would take more memory than is free, or than `limit_gib`."""
    advice = "use a larger machine" + (" or leave out the SDT and border" if sdt else COARSER)
    check_need(
        image, estimate(image, sdt, window_mm, brain_in_mgh, doubt, probability, lesions), limit_gib, advice
    )


def check_need(
    image: ImageHeader, need: int, limit_gib: float | None = None, advice: str = "use a larger machine" + COARSER
) -> None:
    """Raise InputError if the work on an image needs more bytes than are free, or than `limit_gib`.

    advice: what to do about it, as a clause.
    """
    if limit_gib is not None and need > limit_gib * memory.GIB:
        raise InputError(
            f"{image.path}: needs about {need / memory.GIB:.1f} GiB, over the limit of {limit_gib:g} GiB"
        )
    _check_free(image, need, advice)


def fits_beside(need: int, others: Sequence[int], limit_gib: float | None = None) -> bool:
    """Whether memory holds an image while others are worked on with the same networks; True if there are none.

    need, others: bytes, of `estimate`. The others may have taken nothing of theirs yet. limit_gib: as of `check`.
    """
    if not others:
        return True
    total = need + sum(other - NETWORK_BYTES for other in others)
    left = memory.available()
    over_limit = limit_gib is not None and total > limit_gib * memory.GIB
    return not over_limit and (left is None or total + NETWORK_BYTES <= left)


def check_reading(image: ImageHeader) -> None:
    """Raise InputError if memory cannot hold an image's voxels and one frame in 32 bits."""
    _check_free(image, image.nbytes + 4 * prod(image.space), "use a larger machine" + COARSER)


def check_map(image: ImageHeader, frames: int) -> None:
    """Raise InputError if memory cannot hold maps of doubt on the grid of an image, one for each frame."""
    _check_free(image, prod(image.space) * (4 * frames + DOUBT_BYTES_PER_VOXEL), "leave out the map of doubt")


def _check_free(image: ImageHeader, need: int, advice: str) -> None:
    left = memory.available()
    if left is not None and need > left:
        free = f"{max(left, 0) / memory.GIB:.1f} GiB are free"
        raise InputError(f"{image.path}: needs about {need / memory.GIB:.1f} GiB of memory and {free}; {advice}")
