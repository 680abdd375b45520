"""The signed distance against planes, spheres and exact distance transforms."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from singlestrip.space import distance
from singlestrip.space.distance import signed_distance

TURN = Rotation.from_euler("xyz", (25, -15, 40), degrees=True).as_matrix()
SHEAR = np.array([[1, 0.25, 0], [0, 1, -0.15], [0, 0, 1]])
GRIDS = {
    "isotropic": (np.eye(3), (24, 24, 24)),
    "fine": (np.eye(3) * 0.5, (24, 24, 24)),
    "anisotropic": (np.diag([0.8, 1.2, 4]), (30, 20, 10)),
    "left-handed": (np.diag([-1, 1, 1.5]), (24, 24, 18)),
    "oblique": (TURN @ np.diag([1, 1.5, 2]), (24, 20, 16)),
    "sheared": (TURN @ SHEAR @ np.diag([1, 1.2, 2]), (24, 24, 16)),
}
NORMALS = {"x": (1, 0, 0), "-z": (0, 0, -1), "edge": (1, 1, 0), "oblique": (0.5, -0.7, 0.3)}


def grid(name):
    """vox2world with the middle of the grid at the origin, and world mm [X, Y, Z, 3]."""
    matrix, shape = GRIDS[name]
    vox2world = np.eye(4)
    vox2world[:3, :3] = matrix
    vox2world[:3, 3] = -matrix @ (np.array(shape) - 1) / 2
    return vox2world, np.moveaxis(np.indices(shape), 0, -1) @ matrix.T + vox2world[:3, 3]


def sphere(world, radius):
    """Analytic distance, negative inside."""
    return np.linalg.norm(world, axis=-1) - radius


@pytest.mark.parametrize("offset", [0.0, 0.37, -0.81])
@pytest.mark.parametrize("normal", NORMALS)
@pytest.mark.parametrize("name", GRIDS)
def test_planes_are_exact(name, normal, offset):
    vox2world, world = grid(name)
    n = np.array(NORMALS[normal]) / np.linalg.norm(NORMALS[normal])
    expected = world @ n - offset - 1e-3
    found = signed_distance(-3 * expected, expected < 0, vox2world)
    # Where a ball that reaches past the plane lies within the grid: the grid's border cuts the surface.
    size = np.linalg.norm(vox2world[:3, :3], axis=0)
    foot = world - expected[..., None] * n
    index = (foot - vox2world[:3, 3]) @ np.linalg.inv(vox2world[:3, :3]).T
    interior = ((index > 2) & (index < np.array(expected.shape) - 3)).all(-1)
    near = interior & (np.abs(expected) < 2 * size.max())
    assert near.sum() > 200
    error = np.abs(found - expected)
    # A crossing nearer than a thousandth of an edge counts as a thousandth.
    assert np.quantile(error[near], 0.99) < 1e-4 * size.max() and error[near].max() < 1e-3 * size.max()
    assert error[interior].max() < 0.15 * size.max()


@pytest.mark.parametrize("name", GRIDS)
def test_sphere(name):
    """The logit says where within an edge the surface is: a twentieth of the largest voxel on average."""
    vox2world, world = grid(name)
    size = np.linalg.norm(vox2world[:3, :3], axis=0).max()
    expected = sphere(world, 0.35 * min(np.linalg.norm(vox2world[:3, :3], axis=0) * GRIDS[name][1]))
    found = signed_distance(-expected, expected < 0, vox2world)
    error = np.abs(found - expected)
    assert error.mean() < 0.05 * size and error.max() < 0.3 * size
    assert ((found < 0) == (expected < 0)).all()


def test_sphere_in_slabs(monkeypatch):
    vox2world, world = grid("oblique")
    logit = -sphere(world, 7.3)
    whole = signed_distance(logit, logit > 0, vox2world)
    monkeypatch.setattr(distance, "SLAB_VOXELS", 700)
    np.testing.assert_allclose(signed_distance(logit, logit > 0, vox2world), whole, atol=1e-5)


def test_scale_of_the_logit_does_not_matter():
    vox2world, world = grid("anisotropic")
    logit = -sphere(world, 7.3)
    whole = signed_distance(logit, logit > 0, vox2world)
    np.testing.assert_allclose(signed_distance(40 * logit, logit > 0, vox2world), whole, atol=1e-4)


def test_units_are_mm():
    vox2world, world = grid("isotropic")
    logit = -sphere(world, 7.3)
    double = np.diag([2, 2, 2, 1]) @ vox2world
    once, twice = (signed_distance(logit, logit > 0, v) for v in (vox2world, double))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-4, atol=1e-4)


def test_empty_and_full():
    logit = np.ones((4, 5, 6))
    empty = signed_distance(-logit, logit < 0, np.eye(4))
    full = signed_distance(logit, logit > 0, np.eye(4))
    assert (empty == np.inf).all() and (full == -np.inf).all()
    assert empty.dtype == full.dtype == np.float32


@pytest.mark.parametrize("removed", [True, False])
def test_surface_of_cleaning_lies_mid_edge(removed):
    """Where the logit says nothing about the mask's surface, it is half-way between two voxels."""
    mask = np.zeros((20, 7, 7), dtype=bool)
    mask[:10] = True
    logit = np.ones(mask.shape) if removed else np.full(mask.shape, -1.0)
    found = signed_distance(logit, mask, np.diag([2.0, 1, 1, 1]))
    expected = 2 * (np.arange(20) - 9.5)
    np.testing.assert_allclose(found[:, 3, 3], expected, atol=0.1)
    np.testing.assert_allclose(found[8:12, 3, 3], expected[8:12], atol=1e-4)


@pytest.mark.parametrize("name", ["isotropic", "fine", "anisotropic", "left-handed", "oblique"])
@pytest.mark.parametrize("seed", range(3))
def test_far_away_agrees_with_the_exact_transform(name, seed):
    """A blob without symmetry or sub-voxel knowledge: half a voxel's diagonal is all that can differ."""
    vox2world, world = grid(name)
    size = np.linalg.norm(vox2world[:3, :3], axis=0)
    centres = np.random.default_rng(seed).uniform(-2.5, 2.5, (4, 3)) * size.min()
    radii = np.array([3.1, 4.2, 2.7, 3.6]) * size.min()
    mask = (np.linalg.norm(world[..., None, :] - centres, axis=-1) < radii).any(-1)
    found = signed_distance(np.where(mask, 1.0, -1.0), mask, vox2world)
    assert ((found < 0) == mask).all()
    exact = ndimage.distance_transform_edt(~mask, sampling=size)
    far = exact > distance.NEAR_VOXELS * size.max()
    assert far.sum() > 500
    assert np.abs(found - exact)[far].max() <= np.linalg.norm(size) / 2


def test_a_single_voxel():
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[4, 4, 4] = True
    found = signed_distance(np.where(mask, 1.0, -1.0), mask, np.diag([1, 2, 3, 1.0]))
    assert found[4, 4, 4] == pytest.approx(-0.5, abs=0.1)
    assert found[8, 4, 4] == pytest.approx(3.5, abs=0.3)
    assert (found[~mask] > 0).all() and np.isfinite(found).all()


def test_a_single_slice():
    matrix = np.diag([1, 1, 5.0, 1])
    x = np.indices((20, 18, 1))[:2] - np.array([9.4, 8.3]).reshape(2, 1, 1, 1)
    expected = np.linalg.norm(x, axis=0) - 5.3
    found = signed_distance(-expected, expected < 0, matrix)
    error = np.abs(found - expected)
    assert error.mean() < 0.05 and error.max() < 0.3
