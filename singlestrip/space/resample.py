"""Between grids: native to conformed, conformed to native, and label maps to a training grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from scipy import ndimage

from ..threads import for_each, thread_count
from .grid import Box, Grid
from .scan import Scan

ValuesOf = Callable[[np.ndarray], np.ndarray]
SLAB_VOXELS = 4_000_000  # most voxels that one thread works on at once
EDGE = 1e-4  # voxels that a rounded coordinate may lie beyond the source


def to_float32(array: np.ndarray) -> np.ndarray:
    """Stored values as they are, in 32 bits."""
    return array.astype(np.float32)


def block_mean(scan: Scan, target_mm: float, values_of: ValuesOf = to_float32) -> Scan:
    """Average whole blocks of voxels so that none is much smaller than `target_mm`; float32.

    values_of: turns part of the scan's array into finite float32 values. This is the low-pass filter that
    linear interpolation to a coarser grid needs. It reads the array once, in slabs, so that a large scan
    is never held as a whole in floating point. A last, partial block counts as a whole one, so that its
    centre lies off by less than half a target voxel.
    """
    data = scan.array
    factors = block_sizes(scan.grid, target_mm)
    shape = [-(-n // f) for n, f in zip(data.shape, factors, strict=True)]
    out = np.empty(shape, dtype=np.float32)
    depth = int(factors[2])
    sides = [np.minimum(f, n - np.arange(0, n, f)) for n, f in zip(data.shape, factors, strict=True)]
    counts = np.multiply.outer(sides[0], sides[1]).astype(np.float32)

    def fill_plane(k: int) -> None:
        """Average the blocks of one plane of the output."""
        sums = values_of(data[:, :, k * depth : (k + 1) * depth])
        for axis in (2, 1, 0):  # the planes of a file lie one after the other in memory
            sums = _block_sums(sums, int(factors[axis]), axis)
        np.divide(sums[:, :, 0], counts * np.float32(sides[2][k]), out=out[:, :, k])

    for_each(fill_plane, range(shape[2]))
    scale = np.diag([*factors, 1.0]).astype(float)
    scale[:3, 3] = (factors - 1) / 2  # centre of the first block, in old voxels
    return Scan(out, scan.vox2world @ scale)


def _block_sums(values: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Sums of blocks of so many values along an axis; the last block may be partial."""
    along = np.moveaxis(values, axis, 0)
    sums = along[::size].copy(order="K")
    for offset in range(1, size):
        part = along[offset::size]
        sums[: len(part)] += part
    return np.moveaxis(sums, 0, axis)


def block_sizes(grid: Grid, target_mm: float) -> np.ndarray:
    """Number of voxels along each axis, [3], of the blocks that `block_mean` averages."""
    return np.minimum(np.maximum(1, np.round(target_mm / grid.voxel_sizes_mm).astype(int)), grid.shape)


def coarsened(scan: Scan, voxel_size_mm: float, values_of: ValuesOf = to_float32) -> Scan:
    """`block_mean` of a scan, of which no slab is thinner than one voxel."""
    scan = block_mean(scan, voxel_size_mm, values_of)
    return Scan(scan.array, scan.grid.thickened(voxel_size_mm).vox2world)


def sample(
    data: np.ndarray,
    source_from_target: np.ndarray,
    shape: tuple[int, ...],
    fill: float = 0.0,
    order: Literal["C", "F"] = "C",
) -> np.ndarray:
    """Linear interpolation of data [X, Y, Z] at the voxels of a target grid of `shape`.

    source_from_target: 4×4, target voxel index to source voxel index. A source voxel reaches half
    a voxel beyond its centre, so that a single slice has its thickness; beyond that is `fill`.
    Returns float32 of `shape`, in memory in an order of NumPy: "F" is that of image files. Data beside one that is
    not finite may give NaN.
    """
    if order == "F":  # the same with the axes the other way round
        reverse = np.eye(4)[[2, 1, 0, 3]]
        return sample(data.T, reverse @ source_from_target @ reverse, shape[::-1], fill).T
    return _sample_box(data, source_from_target, tuple(slice(0, n) for n in shape), fill)


def _sample_box(data: np.ndarray, source_from_target: np.ndarray, box: Box, fill: float) -> np.ndarray:
    """`sample` at the voxels of the target grid within a box, in slabs, on all threads."""
    data = np.asarray(data, dtype=np.float32)
    shape = tuple(part.stop - part.start for part in box)
    out = np.empty(shape, dtype=np.float32)
    to_source = source_from_target @ _shift([part.start for part in box])
    rows = max(1, min(-(-shape[0] // thread_count()), SLAB_VOXELS // max(1, shape[1] * shape[2])))
    slabs = [slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows)]

    def fill_slab(slab: slice) -> None:
        """Interpolate some rows of the output."""
        _sample_slab(data, to_source @ _shift([slab.start, 0, 0]), out[slab], fill)

    for_each(fill_slab, slabs)
    return out


def _shift(voxels: Sequence[int]) -> np.ndarray:
    """The 4×4 that moves indices by so many voxels."""
    matrix = np.eye(4)
    matrix[:3, 3] = voxels
    return matrix


def _sample_slab(data: np.ndarray, source_from_target: np.ndarray, out: np.ndarray, fill: float) -> None:
    """`sample` into an array."""
    matrix, offset = source_from_target[:3, :3], source_from_target[:3, 3]
    # Beyond the centre of the last voxel its own value holds.
    ndimage.affine_transform(data, matrix, offset, out.shape, out, order=1, mode="nearest", prefilter=False)
    for row, size in enumerate(data.shape):
        along = [matrix[row, axis] * np.arange(n) for axis, n in enumerate(out.shape)]
        low, high = -0.5 - EDGE - offset[row], size - 0.5 + EDGE - offset[row]
        if sum(part.min() for part in along) >= low and sum(part.max() for part in along) <= high:
            continue  # all of the output lies within the source along this axis
        place = along[0][:, None, None] + along[1][:, None] + along[2]
        out[(place < low) | (place > high)] = fill


def conform(scan: Scan, grid: Grid, fill: float = 0.0) -> np.ndarray:
    """A scan's array, linearly interpolated to another grid; float32 of its shape."""
    return sample(scan.array, scan.grid.index_of(grid), grid.shape, fill)


def conform_labels(labels: Scan, spacing_mm: float, inside_base: int) -> Scan:
    """A label map, uint8, on the conformed grid that covers it, by a vote of area.

    Each voxel first falls inside or outside the brain by the larger share, then takes the class
    of the largest share on that side; it is 0 where the scan has no voxel.
    """
    low, high = labels.grid.bounds_mm()
    shape = tuple(int(n) for n in np.ceil((high - low) / spacing_mm).astype(int))
    target = Grid.conformed((low + high) / 2, shape, spacing_mm)
    turned = _turned(labels, target)
    if turned is not None:
        return Scan(turned, target.vox2world)

    inside = conform(block_mean(Scan(labels.array > inside_base, labels.vox2world), spacing_mm), target)
    blocks = block_mean(Scan(np.ones(labels.shape, dtype=bool), labels.vox2world), spacing_mm)
    covered = conform(blocks, target)
    best = [np.full(shape, -1, dtype=np.float32) for _ in range(2)]
    chosen = [np.zeros(shape, dtype=np.uint8) for _ in range(2)]
    for label, box in enumerate(ndimage.find_objects(labels.array.astype(np.int16) + 1)):
        if box is None:
            continue
        side = int(label > inside_base)
        if best[side].max() < 0:  # the first label of a side is taken where none has a share
            box = tuple(slice(0, n) for n in labels.shape)
        votes, part = _label_share(labels, label, box, spacing_mm, blocks.grid, target)
        better = votes > best[side][part]
        best[side][part][better] = votes[better]
        chosen[side][part][better] = label
    result = np.where(2 * inside > covered, chosen[1], chosen[0])
    result[covered < 0.5] = 0
    return Scan(result, target.vox2world)


def _turned(labels: Scan, target: Grid) -> np.ndarray | None:
    """Labels on a grid that has their voxels, the axes in another order or direction; None if it has others."""
    matrix = labels.grid.index_of(target)
    order = np.abs(matrix[:3, :3]).argmax(0)  # the axis of the labels along each axis of the target
    turned = labels.array.transpose(order) if len(set(order)) == 3 else labels.array
    if turned.shape != target.shape:
        return None
    backwards = [axis for axis, own in enumerate(order) if matrix[own, axis] < 0]
    expected = np.zeros((3, 4))
    for axis, own in enumerate(order):
        expected[own, [axis, 3]] = (-1, turned.shape[axis] - 1) if axis in backwards else (1, 0)
    if not np.allclose(matrix[:3], expected, rtol=0, atol=1e-3):
        return None
    return np.ascontiguousarray(np.flip(turned, tuple(backwards)))


def _label_share(
    labels: Scan, label: int, box: Box, spacing_mm: float, blocks: Grid, target: Grid
) -> tuple[np.ndarray, Box]:
    """The share of a label in the voxels of a target grid, float32, within a box of that grid; it is 0 beyond.

    box: around all voxels of the label; blocks: grid of the `block_mean` of the labels. Most labels of an
    anatomical map are small, and a small box saves time.
    """
    sizes = block_sizes(labels.grid, spacing_mm)
    within = tuple(slice(side.start // n, -(-side.stop // n)) for side, n in zip(box, sizes, strict=True))
    whole = tuple(slice(side.start * n, side.stop * n) for side, n in zip(within, sizes, strict=True))
    means = np.zeros(blocks.shape, dtype=np.float32)
    means[within] = block_mean(Scan(labels.array[whole] == label, labels.vox2world), spacing_mm).array
    reach = tuple(slice(side.start - 1, side.stop + 1) for side in within)  # of the interpolation
    part = target.box_around(*blocks.part(reach).bounds_mm(), 0.0)
    return _sample_box(means, blocks.index_of(target), part, 0.0), part
