"""Errors of the signed distance to spheres and ellipsoids, whose distance is known, and the time it takes.

    python benchmarks/distance_accuracy.py

The logit is the distance itself. Prints, in voxels of the largest size, errors near the surface and farther away,
and processor seconds.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.spatial.transform import Rotation

from singlestrip.space.distance import signed_distance

SHAPES_MM = {"sphere": (50.0, 50.0, 50.0), "ellipsoid": (62.0, 80.0, 55.0)}
SHEAR = np.array([[1, 0.25, 0], [0, 1, -0.15], [0, 0, 1]])
TURN = Rotation.from_euler("xyz", (25, -15, 40), degrees=True).as_matrix()
GRIDS = {  # a matrix from voxels to mm, and the number of voxels along each axis
    "1 mm": (np.eye(3), (192, 224, 176)),
    "1 × 1 × 4 mm": (np.diag([1.0, 1.0, 4.0]), (192, 224, 44)),
    "oblique, 1 × 1.2 × 1.5 mm": (TURN @ np.diag([1, 1.2, 1.5]), (192, 176, 128)),
    "sheared, 1 × 1.2 × 1.5 mm": (TURN @ SHEAR @ np.diag([1, 1.2, 1.5]), (192, 176, 128)),
}
NEAR_VOXELS = 2.0
NEWTON_STEPS = 15  # they end less than 1e-4 mm from the root


def distance_to_ellipsoid(points: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """The distance of points [N, 3] to an ellipsoid around the origin with radii [3], negative inside; mm.

    The nearest point is r²p / (t + r²) for the largest root t of the sum of (rp / (t + r²))² - 1 (Eberly 2013,
    "Distance from a Point to an Ellipse, an Ellipsoid, or a Hyperellipsoid"). Newton's steps go up to the root.
    """
    p, squares = np.abs(points) + 1e-9, radii**2
    t = (radii * p - squares).max(axis=1, keepdims=True)
    for _ in range(NEWTON_STEPS):
        terms = (radii * p / (t + squares)) ** 2
        slope = -2 * (terms / (t + squares)).sum(axis=1, keepdims=True)
        t -= (terms.sum(axis=1, keepdims=True) - 1) / slope
    unsigned = np.linalg.norm(p - squares * p / (t + squares), axis=1)
    return np.where(((p / radii) ** 2).sum(axis=1) < 1, -unsigned, unsigned)


def row(shape: str, grid: str) -> str:
    """A line of the table."""
    to_world, size = GRIDS[grid]
    vox2world = np.eye(4)
    vox2world[:3, :3] = to_world
    vox2world[:3, 3] = 0.3 - to_world @ (np.array(size) - 1) / 2
    layers = [np.stack(np.meshgrid([x], *map(np.arange, size[1:]), indexing="ij"), -1) for x in range(size[0])]
    points = (layer.reshape(-1, 3) @ to_world.T + vox2world[:3, 3] for layer in layers)
    exact = np.stack([distance_to_ellipsoid(p, np.array(SHAPES_MM[shape])) for p in points]).reshape(size)
    start = time.process_time()
    measured = signed_distance(-exact.astype(np.float32), exact < 0, vox2world)
    seconds = time.process_time() - start
    voxel = np.linalg.norm(to_world, axis=0).max()
    error = np.abs(measured - exact) / voxel
    near = np.abs(exact) < NEAR_VOXELS * voxel
    figures = [figure for e in (error[near], error[~near]) for figure in (e.mean(), np.quantile(e, 0.99), e.max())]
    return f"| {shape} | {grid} | {' | '.join(f'{figure:.3f}' for figure in figures)} | {seconds:.1f} |"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    near, far = (f"{words} {NEAR_VOXELS:g} voxels" for words in ("within", "beyond"))
    print(f"| shape | grid | {near}: mean | 99 % | max | {far}: mean | 99 % | max | processor s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for shape in SHAPES_MM:
        for grid in GRIDS:
            print(row(shape, grid), flush=True)


if __name__ == "__main__":
    main()
