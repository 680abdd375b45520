"""How much memory stripping a scan takes, known from the header, before its voxels are read."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from ..errors import InputError
from . import limits
from .image_header import MGH_TYPES, ImageHeader

GIB = 2**30
# Interpreter, torch and both networks at work in their windows, whose size no scan changes:
# measured 0.46 GiB for a 64³ scan (docs/benchmarks.md), and 0.70 GiB with the largest field of view.
NETWORK_BYTES = 0.8 * GIB
MASK_BYTES_PER_VOXEL = 2  # the mask, and once more while it is cleaned
WINDOW_BYTES_PER_VOXEL = 12  # of the part within the segmenter's window: logit, components' labels, masks
COARSER = " or a coarser scan"
SDT_BYTES_PER_VOXEL = 24  # nearest boundary voxel (three indices), its number, distance; 20 measured


def estimate(image: ImageHeader, sdt: bool, window_mm: float, brain_in_mgh: bool = False) -> int:
    """Upper estimate in bytes of the whole process while it strips an image of which the header is known.

    sdt: whether distances are computed, for --sdt or --border. window_mm: side of the segmenter's window.
    brain_in_mgh: whether the stripped image is written in MGH, which has not all types and no scaling.
    """
    voxels = prod(image.space)
    within = min(voxels, int(window_mm**3 / abs(np.linalg.det(image.vox2world[:3, :3]))))
    # Beside the image its stripped copy; and of several frames each output twice while they are gathered.
    masks = 5 if sdt else 1
    gathered = 2 * masks if image.frames > 1 else 0
    kept = image.nbytes + voxels * image.frames * max(image.dtype.itemsize + masks, gathered)
    if brain_in_mgh and not image.is_mgh:
        kept += voxels * image.frames * _mgh_bytes_per_voxel(image)
    work = voxels * (MASK_BYTES_PER_VOXEL + sdt * SDT_BYTES_PER_VOXEL) + within * WINDOW_BYTES_PER_VOXEL
    return int(NETWORK_BYTES + kept + work)


def _mgh_bytes_per_voxel(image: ImageHeader) -> int:
    """What values take beside the image while they become ones that MGH holds: 32 bits and what leads to them."""
    if (image.slope, image.intercept) != (1.0, 0.0):
        return 12  # 64 bits and what they become, or 32 bits thrice
    if image.dtype.newbyteorder("=") in MGH_TYPES:
        return 0
    checked = image.dtype.itemsize + 1 if image.dtype.kind != "f" else 0  # whether they come back from 32 bits
    return 4 + checked


def available() -> int | None:
    """Bytes this process may still take: of the machine, its control group or its limits; None if unknown."""
    limit = limits.memory_left()
    found = [] if limit is None else [limit]
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass
    for folder, limit, used, cache in (
        ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            left = int(Path(folder, limit).read_text()) - int(Path(folder, used).read_text())
            # Files read lately count as used, and give way.
            statistics = dict(line.split() for line in Path(folder, "memory.stat").read_text().splitlines())
            found.append(left + int(statistics.get(cache, 0)))
        except (OSError, ValueError):  # no control group, or "max"
            continue
    return min(found) if found else None


def check(
    image: ImageHeader,
    sdt: bool,
    window_mm: float,
    limit_gib: float | None = None,
    brain_in_mgh: bool = False,
) -> None:
    """Raise InputError if stripping an image would take more than there is, or than `limit_gib`."""
    need = estimate(image, sdt, window_mm, brain_in_mgh)
    if limit_gib is not None and need > limit_gib * GIB:
        raise InputError(f"{image.path}: needs about {need / GIB:.1f} GiB, over the limit of {limit_gib:g} GiB")
    _check_free(image, need, "use a larger machine" + (" or leave out the SDT and border" if sdt else COARSER))


def check_reading(image: ImageHeader) -> None:
    """Raise InputError if there is no room for the voxels of an image and for one frame in 32 bits."""
    _check_free(image, image.nbytes + 4 * prod(image.space), "use a larger machine" + COARSER)


def _check_free(image: ImageHeader, need: int, advice: str) -> None:
    left = available()
    if left is not None and need > left:
        raise InputError(
            f"{image.path}: needs about {need / GIB:.1f} GiB of memory and {max(left, 0) / GIB:.1f} GiB are free; "
            f"{advice}"
        )
