"""The signed distance against planes, spheres, ellipsoids and exact distance transforms."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from singlestrip.space import distance, surface
from singlestrip.space.distance import move_border, signed_distance
from singlestrip.space.morphology import bounding_box

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
    assert error[interior].mean() < 0.05 * size.max() and error[interior].max() < 0.3 * size.max()


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


def test_parts_make_no_difference(monkeypatch):
    """Points are measured and layers interpolated some at a time."""
    vox2world, world = grid("oblique")
    logit = -sphere(world, 7.3)
    whole = signed_distance(logit, logit > 0, vox2world)
    monkeypatch.setattr(distance, "POINTS_AT_ONCE", 700)
    monkeypatch.setattr(distance, "LAYERS_AT_ONCE", 5)
    np.testing.assert_allclose(signed_distance(logit, logit > 0, vox2world), whole, atol=1e-5)


@pytest.mark.parametrize("name", GRIDS)
def test_order_in_memory_makes_no_difference(name):
    vox2world, world = grid(name)
    logit = -sphere(world, 7.3)
    mask = logit > 0
    expected = signed_distance(logit, mask, vox2world)
    turned = signed_distance(np.asfortranarray(logit), np.asfortranarray(mask), vox2world)
    size = np.linalg.norm(vox2world[:3, :3], axis=0).max()
    assert turned.shape == expected.shape and turned.flags.f_contiguous
    assert np.abs(turned - expected).mean() < 0.02 * size
    assert np.abs(turned - expected)[np.abs(expected) < size].mean() < 0.002 * size
    moved = move_border(np.asfortranarray(logit), np.asfortranarray(mask), vox2world, 1.5)
    assert (moved == (turned < 1.5)).all()


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
    far = exact > surface.NEAR_VOXELS * size.max()
    assert far.sum() > 500
    error = np.abs(found - exact)[far]
    assert (error > np.linalg.norm(size) / 2).mean() < 1e-3
    assert error.max() < np.linalg.norm(size) / 2 + 0.25 * size.max()


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


RADII_MM = np.array([17.0, 24.0, 14.0])
BRAIN_GRIDS = {
    "1 mm": (np.eye(3), (68, 76, 56)),
    "anisotropic": (np.diag([1.0, 1.2, 4]), (64, 68, 17)),
    "sheared": (TURN @ SHEAR @ np.diag([1, 1.2, 1.5]), (72, 72, 48)),
}


def distance_to_ellipsoid(world):
    """The exact distance of points [..., 3] to the ellipsoid with RADII_MM, negative inside.

    The nearest point is r²p / (t + r²) for the largest root t of a function that falls with t; found by halving.
    """
    p = np.abs(world.reshape(-1, 3)) + 1e-9
    squares = RADII_MM**2
    low = (RADII_MM * p - squares).max(1)
    high = np.linalg.norm(RADII_MM * p, axis=1)
    for _ in range(45):
        middle = (low + high) / 2
        above = ((RADII_MM * p / (middle[:, None] + squares)) ** 2).sum(1) > 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    nearest = squares * p / (low[:, None] + squares)
    unsigned = np.linalg.norm(p - nearest, axis=1)
    inside = ((p / RADII_MM) ** 2).sum(1) < 1
    return np.where(inside, -unsigned, unsigned).reshape(world.shape[:-1])


@pytest.fixture(scope="module", params=BRAIN_GRIDS)
def ellipsoid(request):
    """The logit of a ellipsoid, vox2world, voxel sizes, and the distance found and expected."""
    matrix, shape = BRAIN_GRIDS[request.param]
    vox2world = np.eye(4)
    vox2world[:3, :3] = matrix
    vox2world[:3, 3] = -matrix @ (np.array(shape) - 1) / 2 + 0.3
    world = np.moveaxis(np.indices(shape), 0, -1) @ matrix.T + vox2world[:3, 3]
    expected = distance_to_ellipsoid(world)
    logit = -expected.astype(np.float32)
    found = signed_distance(logit, logit > 0, vox2world)
    return logit, vox2world, np.linalg.norm(matrix, axis=0), found, expected


def test_ellipsoid_is_exact_near_its_surface_and_right_far_away(ellipsoid):
    *_, size, found, expected = ellipsoid
    error = np.abs(found - expected) / size.max()
    near = np.abs(expected) < 1.5 * size.max()
    assert error[near].mean() < 0.03 and error[near].max() < 0.25
    assert error[~near].mean() < 0.04 and np.quantile(error[~near], 0.99) < 0.2 and error.max() < 0.6
    assert ((found < 0) == (expected < 0)).all()


def test_distance_has_no_jumps(ellipsoid):
    """From voxel to voxel it changes no more than they are apart, also where interpolation begins."""
    *_, size, found, _ = ellipsoid
    for axis in range(3):
        assert np.abs(np.diff(found, axis=axis)).max() < size[axis] + 0.5 * size.max()


@pytest.mark.parametrize("border_mm", [-12.0, -2.0, -0.4, 0.7, 2.0, 9.0, 300.0])
def test_a_moved_border_is_where_the_distance_says(ellipsoid, border_mm):
    logit, vox2world, _, found, _ = ellipsoid
    mask = logit > 0
    before = mask.copy()
    moved = move_border(logit, mask, vox2world, border_mm)
    other = moved != (found < border_mm)  # interpolation from nodes that are measured or interpolated themselves
    assert other.sum() <= 3 and np.abs(found - border_mm)[other].max(initial=0) < 0.01
    assert (mask == before).all()
    assert moved.any() and (moved != mask).any()


def test_a_border_is_measured_in_the_box_around_the_mask(ellipsoid, monkeypatch):
    logit, vox2world, size, _, _ = ellipsoid
    boxes = []
    whole = distance._Measurement.distance
    monkeypatch.setattr(distance._Measurement, "distance", lambda self: boxes.append(self.box) or whole(self))
    move_border(logit, logit > 0, vox2world, 2.0)
    ((box,), tight) = boxes, bounding_box(logit > 0)
    for part, of_mask, step in zip(box, tight, size, strict=True):
        reach = 2 + 3 / step
        assert part.start >= of_mask.start - reach and part.stop <= of_mask.stop + reach


def test_logit_within_a_box_is_enough(ellipsoid):
    logit, vox2world, _, found, _ = ellipsoid
    mask = logit > 0
    box = tuple(slice(max(0, s.start - 2), s.stop + 2) for s in bounding_box(mask))
    assert (signed_distance(logit[box], mask, vox2world, box) == found).all()
    moved = move_border(logit[box], mask, vox2world, 3.0, box)
    assert (moved == move_border(logit, mask, vox2world, 3.0)).all()


def test_components_far_apart():
    """Each voxel is nearest to one of three spheres of very different size."""
    vox2world, shape = np.eye(4), (90, 70, 60)
    world = np.moveaxis(np.indices(shape), 0, -1).astype(float)
    spheres = (((20, 20, 20), 14.2), ((70, 50, 40), 9.7), ((80, 8, 8), 2.6))
    expected = np.min([sphere(world - centre, radius) for centre, radius in spheres], axis=0)
    found = signed_distance(-expected, expected < 0, vox2world)
    error = np.abs(found - expected)
    assert error.mean() < 0.04 and np.quantile(error, 0.999) < 0.4 and error.max() < 1
    assert ((found < 0) == (expected < 0)).all()


def test_the_ends_of_the_grid_are_no_surface():
    """A slab that fills the grid along two axes has a surface on two sides."""
    expected = np.broadcast_to(np.abs(np.arange(40.0) - 17.3)[:, None, None] - 9.1, (40, 30, 30))
    found = signed_distance(-expected, expected < 0, np.eye(4))
    np.testing.assert_allclose(found[:, 8:-8, 8:-8], expected[:, 8:-8, 8:-8], atol=0.35)
    one_sided = np.broadcast_to(np.arange(40.0)[:, None, None] - 9.1, (40, 30, 30))
    found = signed_distance(-one_sided, one_sided < 0, np.eye(4))
    np.testing.assert_allclose(found[:18, 8:-8, 8:-8], one_sided[:18, 8:-8, 8:-8], atol=0.25)


@pytest.mark.parametrize("full", [False, True])
def test_a_border_of_nothing_moves_nowhere(full):
    mask = np.full((4, 5, 6), full)
    moved = move_border(np.where(mask, 1.0, -1.0), mask, np.eye(4), 2.0)
    assert (moved == mask).all() and moved is not mask


@pytest.mark.parametrize("shape", [(1, 1, 30), (30, 1, 1), (1, 20, 20), (2, 2, 2), (3, 17, 9)])
def test_small_grids(shape):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(0, (n + 1) // 2) for n in shape)] = True
    found = signed_distance(np.where(mask, 1.0, -1.0), mask, np.eye(4))
    exact = ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)
    assert found.shape == shape and ((found < 0) == mask).all()
    assert np.abs(found - exact).max() < 1
