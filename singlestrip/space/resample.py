"""Between grids: native to conformed, conformed to native, and label maps to a training grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from .grid import Box, Grid
from .scan import Scan

ValuesOf = Callable[[np.ndarray], np.ndarray]
SLAB_VOXELS = 4_000_000  # most voxels whose coordinates are held at once: 12 bytes each


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
    fx, fy, fz = factors
    edges_x, edges_y = np.arange(0, data.shape[0], fx), np.arange(0, data.shape[1], fy)
    count_x = np.minimum(fx, data.shape[0] - edges_x).astype(np.float32)
    count_y = np.minimum(fy, data.shape[1] - edges_y).astype(np.float32)
    for k in range(shape[2]):
        plane = values_of(data[:, :, k * fz : (k + 1) * fz]).mean(axis=2)
        plane = np.add.reduceat(plane, edges_x, axis=0) / count_x[:, None]
        out[:, :, k] = np.add.reduceat(plane, edges_y, axis=1) / count_y
    scale = np.diag([*factors, 1.0]).astype(float)
    scale[:3, 3] = (factors - 1) / 2  # centre of the first block, in old voxels
    return Scan(out, scan.vox2world @ scale)


def block_sizes(grid: Grid, target_mm: float) -> np.ndarray:
    """Number of voxels along each axis, [3], of the blocks that `block_mean` averages."""
    return np.minimum(np.maximum(1, np.round(target_mm / grid.voxel_sizes_mm).astype(int)), grid.shape)


def coarsened(scan: Scan, voxel_size_mm: float, values_of: ValuesOf = to_float32) -> Scan:
    """`block_mean` of a scan, of which no slab is thinner than one voxel."""
    scan = block_mean(scan, voxel_size_mm, values_of)
    return Scan(scan.array, scan.grid.thickened(voxel_size_mm).vox2world)


def sample(
    data: torch.Tensor, source_from_target: np.ndarray, shape: tuple[int, ...], fill: float = 0.0
) -> torch.Tensor:
    """Linear interpolation of data [X, Y, Z] at the voxels of a target grid of `shape`.

    source_from_target: 4×4, target voxel index to source voxel index. A source voxel reaches half
    a voxel beyond its centre, so that a single slice has its thickness; beyond that is `fill`.
    Returns float32 of `shape`, on the device of `data`. It works in slabs of bounded memory.
    """
    return _sample_box(data, source_from_target, tuple(slice(0, n) for n in shape), fill)


def _sample_box(data: torch.Tensor, source_from_target: np.ndarray, box: Box, fill: float) -> torch.Tensor:
    """`sample` at the voxels of the target grid within a box."""
    shape = tuple(part.stop - part.start for part in box)
    out = torch.empty(shape, dtype=torch.float32, device=data.device)
    rows = max(1, SLAB_VOXELS // max(1, shape[1] * shape[2]))
    for start in range(0, shape[0], rows):
        slab = slice(box[0].start + start, min(box[0].start + start + rows, box[0].stop))
        out[start : start + rows] = _sample_slab(data, source_from_target, (slab, *box[1:]), fill)
    return out


def _sample_slab(data: torch.Tensor, source_from_target: np.ndarray, box: Box, fill: float) -> torch.Tensor:
    """`_sample_box` of a box that is small enough to be done at once."""
    axes = [torch.arange(part.start, part.stop, dtype=torch.float32, device=data.device) for part in box]
    matrix = torch.as_tensor(source_from_target, dtype=torch.float32, device=data.device)
    inside = torch.ones((), dtype=torch.bool, device=data.device)
    normalised = []
    for row, size in enumerate(data.shape):
        coordinate = (
            (matrix[row, 0] * axes[0] + matrix[row, 3])[:, None, None]
            + (matrix[row, 1] * axes[1])[None, :, None]
            + (matrix[row, 2] * axes[2])[None, None, :]
        )
        within = (coordinate >= -0.5 - 1e-4) & (coordinate <= size - 0.5 + 1e-4)
        inside = within.logical_and_(inside)
        normalised.append((2 * coordinate + 1) / size - 1)
    grid = torch.stack(normalised[::-1], dim=-1)[None]
    values = F.grid_sample(
        data[None, None].float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return torch.where(inside, values[0, 0], torch.as_tensor(fill, dtype=torch.float32, device=data.device))


def conform(scan: Scan, grid: Grid, device: torch.device | str = "cpu", fill: float = 0.0) -> torch.Tensor:
    """A scan's array, linearly interpolated to another grid; float32 tensor of its shape."""
    source = torch.from_numpy(np.ascontiguousarray(scan.array, dtype=np.float32)).to(device)
    return sample(source, scan.grid.index_of(grid), grid.shape, fill)


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
    best = [torch.full(shape, -1.0), torch.full(shape, -1.0)]
    chosen = [torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape, dtype=torch.uint8)]
    for label, box in enumerate(ndimage.find_objects(labels.array.astype(np.int16) + 1)):
        if box is None:
            continue
        side = int(label > inside_base)
        if best[side].max() < 0:  # the first label of a side is taken where none has a share
            box = tuple(slice(0, n) for n in labels.shape)
        votes, part = _label_share(labels, label, box, spacing_mm, blocks.grid, target)
        better = votes > best[side][part]
        best[side][part] = torch.where(better, votes, best[side][part])
        chosen[side][part] = torch.where(better, torch.tensor(label, dtype=torch.uint8), chosen[side][part])
    result = torch.where(2 * inside > covered, chosen[1], chosen[0])
    result[covered < 0.5] = 0
    return Scan(result.numpy(), target.vox2world)


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
) -> tuple[torch.Tensor, Box]:
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
    return _sample_box(torch.from_numpy(means), blocks.index_of(target), part, 0.0), part
