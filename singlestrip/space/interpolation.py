"""Linear interpolation as a sparse matrix, for many images on one grid. Needs no torch."""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy import sparse

from .grid import Grid

EDGE = 0.5 + 1e-4  # voxels beyond the centre of an outermost voxel that still lie in it; the rest is for rounding


def grid_points(source: Grid, target: Grid) -> np.ndarray:
    """Where the voxels of a target grid lie in a source grid: voxel indices of the source, float32 [3, N].

    The last axis of the target varies fastest.
    """
    x, y, z = (np.arange(size, dtype=np.float32) for size in target.shape)
    points = np.empty((3, *target.shape), dtype=np.float32)
    for row, along in zip(source.index_of(target)[:3].astype(np.float32), points, strict=True):
        along[:] = (row[0] * x + row[3])[:, None, None] + (row[1] * y)[:, None] + row[2] * z
    return points.reshape(3, -1)


def within(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Whether points [3, N] lie in a voxel of a grid of this shape, boolean [N]."""
    ends = np.array(shape, dtype=np.float32)[:, None] - 1
    return np.logical_and.reduce((points >= -EDGE) & (points <= ends + EDGE))


def linear_weights(points: np.ndarray, shape: tuple[int, ...]) -> sparse.csr_array:
    """The matrix [N, X·Y·Z] that interpolates images of a shape at points, voxel indices [3, N].

    Points beyond the centres of the outermost voxels get the value at the nearest point between centres.
    """
    count = points.shape[1]
    places: list[tuple[np.ndarray, np.ndarray]] = []  # of each axis, below and above a point
    shares: list[tuple[np.ndarray, np.ndarray]] = []
    for at, size, stride in zip(points, shape, (shape[1] * shape[2], shape[2], 1), strict=True):
        clamped = at.clip(0, size - 1)
        low = clamped.astype(np.int32)
        above = clamped - low
        places.append((low * stride, np.minimum(low + 1, size - 1) * stride))
        shares.append((1 - above, above))
    index = np.empty((count, 8), dtype=np.int32)
    weight = np.empty((count, 8), dtype=np.float32)
    for i, j in product((0, 1), repeat=2):
        place, share = places[0][i] + places[1][j], shares[0][i] * shares[1][j]
        for k in (0, 1):
            corner = 4 * i + 2 * j + k
            np.add(place, places[2][k], out=index[:, corner])
            np.multiply(share, shares[2][k], out=weight[:, corner])
    rows = np.arange(0, 8 * count + 1, 8, dtype=np.int32)
    return sparse.csr_array((weight.ravel(), index.ravel(), rows), shape=(count, int(np.prod(shape))))
