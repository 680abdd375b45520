"""How much memory stripping a scan takes, known before the network runs."""

from __future__ import annotations

from pathlib import Path

from .errors import InputError
from .volume import Volume

GIB = 2**30
# Interpreter, torch and both networks at work in their windows, whose size no scan changes:
# measured 0.46 GiB for a 64³ scan (benchmarks/README.md), and 0.70 GiB with the largest field of view.
NETWORK_BYTES = 0.8 * GIB
WORK_BYTES_PER_VOXEL = 7  # logit, mask, and components' labels of the part within the window
SDT_BYTES_PER_VOXEL = 40  # nearest boundary voxel (three indices), its number, distance


def estimate(volume: Volume, sdt: bool) -> int:
    """Upper estimate in bytes of the whole process while it strips `volume`.

    sdt: whether distances are computed, for --sdt or --border.
    """
    voxels = volume.stored[..., 0].size
    # Beside the image its stripped copy, or while frames are gathered each output twice.
    masks = 5 if sdt else 1
    kept = volume.stored.nbytes + volume.stored.size * max(volume.stored.itemsize + masks, 2 * masks)
    return int(NETWORK_BYTES + kept + voxels * (WORK_BYTES_PER_VOXEL + sdt * SDT_BYTES_PER_VOXEL))


def available() -> int | None:
    """Bytes this process may still take: of the machine, or of its control group; None if unknown."""
    found = []
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


def check(volume: Volume, sdt: bool, limit_gib: float | None = None) -> None:
    """Raise InputError if stripping `volume` would take more than there is, or than `limit_gib`."""
    need = estimate(volume, sdt)
    if limit_gib is not None and need > limit_gib * GIB:
        raise InputError(f"{volume.path}: needs about {need / GIB:.1f} GiB, over the limit of {limit_gib:g} GiB")
    left = available()
    if left is not None and need > left:
        raise InputError(
            f"{volume.path}: needs about {need / GIB:.1f} GiB of memory and {left / GIB:.1f} GiB are free; "
            "use a larger machine" + (" or leave out the SDT and border" if sdt else " or a coarser scan")
        )
