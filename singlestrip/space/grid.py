"""Grids: shapes, voxel sizes, and where in the world they lie. Needs no torch.

vox2world is the 4×4 matrix from voxel index (centre of the voxel) to RAS mm. A conformed grid has
isotropic voxels and its axes along the world's right, anterior, superior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

Box = tuple[slice, ...]  # a part of a grid: a slice for each axis, with start and stop


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxels in space: a shape [3] and its vox2world."""

    shape: tuple[int, ...]
    vox2world: np.ndarray

    @staticmethod
    def conformed(centre_mm: np.ndarray | Sequence[float], shape: tuple[int, ...], voxel_size_mm: float) -> Grid:
        """The conformed grid whose middle lies at `centre_mm` (RAS)."""
        vox2world = np.diag([voxel_size_mm] * 3 + [1.0])
        vox2world[:3, 3] = np.asarray(centre_mm) - voxel_size_mm * (np.asarray(shape) - 1) / 2
        return Grid(shape, vox2world)

    @property
    def voxel_sizes_mm(self) -> np.ndarray:
        """Edge lengths of a voxel, [3]."""
        return voxel_sizes(self.vox2world)

    def corners_mm(self) -> np.ndarray:
        """RAS mm of the outer corners of the voxels at the corners, [8, 3]."""
        corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in self.shape], indexing="ij"), -1).reshape(-1, 3)
        return corners @ self.vox2world[:3, :3].T + self.vox2world[:3, 3]

    def bounds_mm(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest RAS mm, [3] each, that any part of a voxel reaches."""
        world = self.corners_mm()
        return world.min(0), world.max(0)

    def axis_codes(self) -> str:
        """The side of the head that each axis points to most, as letters: "RAS" or, for example, "LPI"."""
        columns = self.vox2world[:3, :3].T
        towards = [(row, column[row] > 0) for column in columns for row in [np.abs(column).argmax()]]
        return "".join(("LR", "PA", "IS")[row][int(positive)] for row, positive in towards)

    @property
    def axial_axis(self) -> int:
        """The axis that points up or down most: axial slices lie across it."""
        return int((np.abs(self.vox2world[2, :3]) / self.voxel_sizes_mm).argmax())

    def contains(self, point_mm: np.ndarray) -> bool:
        """Whether a point, RAS mm [3], lies in a voxel or on its border."""
        index = np.linalg.solve(self.vox2world[:3, :3], point_mm - self.vox2world[:3, 3])
        return bool(((index >= -0.5) & (index <= np.array(self.shape) - 0.5)).all())

    def part(self, box: Box) -> Grid:
        """The part within a box; it may reach beyond the grid."""
        vox2world = self.vox2world.copy()
        vox2world[:3, 3] += self.vox2world[:3, :3] @ [s.start for s in box]
        return Grid(tuple(s.stop - s.start for s in box), vox2world)

    def box_around(self, low_mm: np.ndarray, high_mm: np.ndarray, margin: float) -> Box:
        """The box within bounds in RAS mm, [3] each, with a margin that is a share of their longest side.

        It has at least one voxel along each axis.
        """
        beyond = margin * (high_mm - low_mm).max()
        corners = np.array(list(product(*zip(low_mm - beyond, high_mm + beyond, strict=True))))
        world2vox = np.linalg.inv(self.vox2world)
        index = corners @ world2vox[:3, :3].T + world2vox[:3, 3]
        start = np.clip(np.floor(index.min(0)), 0, np.array(self.shape) - 1).astype(int)
        stop = np.clip(np.ceil(index.max(0)) + 1, start + 1, self.shape).astype(int)
        return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))

    def thickened(self, thickness_mm: float) -> Grid:
        """This grid, counted as `thickness_mm` thick along axes where it is thinner.

        A thin slab, centred where it is, then covers the middle of at least one voxel of that size.
        """
        factor = np.maximum(1, 1.001 * thickness_mm / (self.voxel_sizes_mm * self.shape))
        stretch = np.diag([*factor, 1.0])
        stretch[:3, 3] = (np.array(self.shape) - 1) / 2 * (1 - factor)
        return Grid(self.shape, self.vox2world @ stretch)

    def is_same(self, other: Grid) -> bool:
        """Whether another grid has the same voxels."""
        return self.shape == other.shape and np.array_equal(self.vox2world, other.vox2world)

    def index_of(self, other: Grid) -> np.ndarray:
        """4×4, voxel index of another grid to voxel index of this one."""
        return np.linalg.inv(self.vox2world) @ other.vox2world


def corners_apart(grid: Grid, other: Grid) -> tuple[float, float]:
    """The largest distance between corresponding corners of two grids of the same shape.

    Returns it in mm, and in voxels of the other grid.
    """
    apart_mm = grid.corners_mm() - other.corners_mm()
    apart_voxels = np.linalg.solve(other.vox2world[:3, :3], apart_mm.T).T
    mm, voxels = (float(np.linalg.norm(apart, axis=1).max()) for apart in (apart_mm, apart_voxels))
    return mm, voxels


def voxel_sizes(vox2world: np.ndarray) -> np.ndarray:
    """Edge lengths of a voxel in mm, [3]: the norms of the columns."""
    return np.linalg.norm(vox2world[:3, :3], axis=0)


def voxel_volume_ml(vox2world: np.ndarray) -> float:
    """Volume of a voxel in millilitres."""
    return abs(float(np.linalg.det(vox2world[:3, :3]))) / 1000


def geometry_fault(vox2world: np.ndarray) -> str | None:
    """What makes a 4×4 vox2world unusable for a head scan, as a clause; None if nothing does."""
    if not np.isfinite(vox2world).all():
        return "its geometry, the map from voxels to the world, is not finite; repair its header"
    with np.errstate(over="ignore", invalid="ignore"):
        size = voxel_sizes(vox2world)
        singular = not abs(np.linalg.det(vox2world[:3, :3])) > 1e-6 * size.prod()
    if singular:
        return "its geometry, the map from voxels to the world, is singular; repair its header"
    if size.min() < 0.01 or size.max() > 100:
        return f"voxels of {' × '.join(f'{s:g}' for s in size)} mm are not of a head scan"
    return None
