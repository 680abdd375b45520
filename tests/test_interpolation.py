"""Linear interpolation as a matrix, by hand and against the interpolation of whole images."""

import numpy as np
import pytest

from singlestrip.space.grid import Grid
from singlestrip.space.interpolation import grid_points, linear_weights, within
from singlestrip.space.resample import sample


def test_weights_by_hand():
    image = np.array([[[0.0, 1.0], [2.0, 3.0]]])  # 1 × 2 × 2
    points = np.array([[0, 0, 0, 0], [0, 0.5, 1.4, 1], [0, 0, 1, 0.25]])
    values = linear_weights(points.astype(np.float32), image.shape) @ image.ravel()
    np.testing.assert_allclose(values, [0, 1, 3, 2.25])  # the third lies beyond the last centre


def test_a_voxel_reaches_half_a_voxel_beyond_its_centre():
    points = np.array([[-0.5, -0.6, 3.5, 3.6], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=np.float32)
    assert within(points, (4, 1, 1)).tolist() == [True, False, True, False]


def test_it_is_the_interpolation_of_images():
    rng = np.random.default_rng(0)
    image = rng.random((7, 6, 5), dtype=np.float32)
    oblique = np.array([[0.8, 0.1, 0, 1], [-0.1, 0.7, 0.2, 0.5], [0, -0.2, 0.9, 0.3], [0, 0, 0, 1]])
    source, target = Grid(image.shape, np.eye(4)), Grid((8, 7, 6), oblique)
    points = grid_points(source, target)
    values = (linear_weights(points, image.shape) @ image.ravel()).reshape(target.shape)
    wanted = sample(image, source.index_of(target), target.shape, np.nan)
    inside = within(points, image.shape).reshape(target.shape)
    np.testing.assert_array_equal(inside, ~np.isnan(wanted))
    np.testing.assert_allclose(values[inside], wanted[inside], atol=1e-5)
    assert 0.3 < inside.mean() < 1


@pytest.mark.parametrize("place", [[1, 2, 3], [0, 0, 0]])
def test_points_of_a_part(place):
    grid = Grid((4, 5, 6), np.diag([2.0, 2, 2, 1]))
    part = grid.part(tuple(slice(start, start + 1) for start in place))
    np.testing.assert_allclose(grid_points(grid, part).ravel(), place)
