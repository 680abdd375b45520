"""Between grids: every answer worked out by hand."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from singlestrip.errors import InputError
from singlestrip.space import resample
from singlestrip.space.grid import Grid, corners_apart
from singlestrip.space.scan import Scan


def random_affine(rng, scale=(0.5, 4)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=rng).as_matrix() @ np.diag(rng.uniform(*scale, 3))
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    return affine


def shift(*voxels) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, 3] = voxels
    return affine


def ramp(shape, gradient=(1.0, -2.0, 0.5), offset=3.0) -> np.ndarray:
    return np.tensordot(gradient, np.indices(shape), 1).astype(np.float32) + offset


def test_block_mean_with_remainder():
    data = np.arange(5, dtype=np.int16).reshape(5, 1, 1)
    out = resample.block_mean(Scan(data, np.eye(4)), 2)
    np.testing.assert_array_equal(out.array.ravel(), [0.5, 2.5, 4])  # the last block holds one voxel
    assert out.array.dtype == np.float32
    np.testing.assert_array_equal(out.vox2world, [[2, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_block_mean_of_every_axis():
    data = np.random.default_rng(0).normal(size=(4, 5, 3))
    out = resample.block_mean(Scan(data, np.diag([1, 0.5, 2, 1])), 2).array  # blocks of 2, 4 and 1
    assert out.shape == (2, 2, 3)
    for i, j, k in np.ndindex(out.shape):
        block = data[2 * i : 2 * i + 2, 4 * j : 4 * j + 4, k]
        assert out[i, j, k] == pytest.approx(block.mean(), abs=1e-6)


def test_block_mean_leaves_coarse_voxels():
    data = ramp((3, 3, 3))
    affine = np.diag([2.9, 2, 5, 1])
    out = resample.block_mean(Scan(data, affine), 2)
    np.testing.assert_array_equal(out.array, data)
    np.testing.assert_array_equal(out.vox2world, affine)


def test_block_mean_of_values():
    data = np.array([1, 2, 3, 5], dtype=np.int16).reshape(4, 1, 1)
    out = resample.block_mean(Scan(data, np.eye(4)), 2, lambda part: part.astype(np.float32) * 2 + 10)
    assert out.array.ravel().tolist() == [13, 18]
    full = np.full((2, 1, 1), 65535, dtype=np.uint16)
    assert resample.block_mean(Scan(full, np.eye(4)), 2).array.item() == 65535  # no overflow


@pytest.mark.parametrize("seed", range(5))
def test_block_mean_puts_blocks_where_they_were(seed):
    rng = np.random.default_rng(seed)
    affine = random_affine(rng)
    shape = np.array((8, 12, 10))
    voxels = np.indices(shape).reshape(3, -1)
    world = affine[:3, :3] @ voxels + affine[:3, 3:]
    for axis in range(3):  # the mean of positions is the position of the block
        scan = Scan(world[axis].reshape(shape), affine)
        out = resample.block_mean(scan, 2.0)
        whole = np.array(shape) // np.maximum(1, np.round(2 / scan.grid.voxel_sizes_mm)).astype(int)
        index = np.indices(whole).reshape(3, -1)
        expected = (out.vox2world[:3, :3] @ index + out.vox2world[:3, 3:])[axis].reshape(whole)
        np.testing.assert_allclose(out.array[tuple(map(slice, whole))], expected, atol=1e-3)


def test_identity_returns_the_same():
    data = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
    np.testing.assert_array_equal(resample.sample(data, np.eye(4), data.shape), data)


@pytest.mark.parametrize("seed", range(5))
def test_linear_ramps_are_exact(seed):
    rng = np.random.default_rng(seed)
    shape, target = (20, 22, 24), (4, 5, 6)
    source_from_target = np.eye(4)
    source_from_target[:3, :3] = Rotation.random(random_state=rng).as_matrix() * 1.3
    middle = source_from_target[:3, :3] @ (np.array(target) - 1) / 2
    source_from_target[:3, 3] = (np.array(shape) - 1) / 2 - middle
    at = source_from_target[:3, :3] @ np.indices(target).reshape(3, -1) + source_from_target[:3, 3:]
    expected = np.array([1.0, -2.0, 0.5]) @ at + 3
    found = resample.sample(ramp(shape), source_from_target, target, fill=-999)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-3)


def test_a_voxel_reaches_half_a_voxel():
    data = np.full((1, 1, 3), 7.0)
    positions = np.diag([0.25, 1, 1, 1])
    positions[0, 3] = -1
    found = resample.sample(data, positions, (9, 1, 3), fill=-1)[:, 0, 0].tolist()
    assert found == [-1, -1, 7, 7, 7, 7, 7, -1, -1]  # at -1, -0.75, -0.5 … 0.5, 0.75, 1


@pytest.mark.parametrize("axis", range(3))
def test_fill_beyond_the_source(axis):
    offset = [0, 0, 0]
    offset[axis] = 2
    found = np.moveaxis(resample.sample(np.ones((3, 3, 3)), shift(*offset), (3, 3, 3), fill=-5), axis, 0)
    assert (found[0] == 1).all() and (found[1:] == -5).all()


def test_slabs_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    data, affine = rng.random((9, 8, 7)), random_affine(rng, (0.8, 1.2))
    affine[:3, 3] = 3
    whole = resample.sample(data, affine, (11, 4, 5), fill=-1)
    for voxels in (1, 30, 60):
        monkeypatch.setattr(resample, "SLAB_VOXELS", voxels)
        np.testing.assert_allclose(resample.sample(data, affine, (11, 4, 5), fill=-1), whole, atol=1e-6)


def interpolate(data: np.ndarray, place: np.ndarray, fill: float) -> float:
    """Trilinear by its definition at a place in voxels: the share of each of eight voxels times its value."""
    if (place < -0.5).any() or (place > np.array(data.shape) - 0.5).any():
        return fill
    place = place.clip(0, np.array(data.shape) - 1)  # in the outer half of a voxel its own value holds
    low = np.floor(place).astype(int)
    value = 0.0
    for corner in np.ndindex(2, 2, 2):
        share = np.prod(np.where(corner, place - low, 1 - (place - low)))
        if share > 0:
            value += share * data[tuple(low + corner)]
    return value


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", ["anisotropic", "sheared", "flipped", "beyond", "magnified"])
def test_sampling_is_trilinear_by_its_definition(kind, threads, monkeypatch):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(7, 5, 6))
    turn = Rotation.from_euler("xyz", (10, 25, -40), degrees=True).as_matrix()
    matrix, offset = {
        "anisotropic": (turn @ np.diag([0.4, 2.3, 1.1]), (1.2, -0.7, 2.1)),
        "sheared": (np.array([[0.9, 0.3, 0], [0, 0.8, -0.4], [0.1, 0, 0.7]]), (-0.63, 0.93, 0.32)),
        "flipped": (np.diag([-0.8, 0.7, -0.9]), (6.3, 0.1, 5.2)),
        "beyond": (np.eye(3), (50.3, 0, 0)),
        "magnified": (np.diag([0.21, 0.17, 0.19]), (2.3, 1.6, 2.2)),  # all of it within the source
    }[kind]
    source_from_target = shift(*offset)
    source_from_target[:3, :3] = matrix
    shape = (8, 9, 7)
    monkeypatch.setattr("singlestrip.threads._limit", threads)
    found = resample.sample(data, source_from_target, shape, fill=-9)
    assert found.dtype == np.float32
    expected = np.array([interpolate(data, matrix @ v + offset, -9.0) for v in np.ndindex(shape)])
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-5)
    assert (found == -9).all() == (kind == "beyond") and (found == -9).any() == (kind != "magnified")


def test_threads_change_no_bit(monkeypatch):
    rng = np.random.default_rng(0)
    data, affine = rng.random((30, 28, 26)), random_affine(rng, (0.8, 1.2))
    affine[:3, 3] = 3
    sampled = []
    for threads in (1, 2, 5):
        monkeypatch.setattr("singlestrip.threads._limit", threads)
        sampled.append(resample.sample(data, affine, (31, 24, 25), fill=-1))
    assert (sampled[0] != -1).any()
    np.testing.assert_array_equal(sampled[0], sampled[1])
    np.testing.assert_array_equal(sampled[0], sampled[2])


@pytest.mark.parametrize("seed", range(3))
def test_conform_and_back(seed):
    """A smooth image to a finer conformed grid and back."""
    rng = np.random.default_rng(seed)
    affine = random_affine(rng, (1.5, 2.5))
    shape = (20, 18, 16)
    x = np.indices(shape) / np.array(shape).reshape(3, 1, 1, 1)
    image = np.sin(2 * x[0] + 1) * np.cos(3 * x[1]) + x[2] ** 2
    scan = Scan(image, affine)
    low, high = scan.grid.bounds_mm()
    target = Grid.conformed((low + high) / 2, tuple(int(n) for n in np.ceil(high - low)), 1.0)
    conformed = resample.conform(scan, target)
    back = resample.conform(Scan(conformed, target.vox2world), scan.grid)
    inner = (slice(2, -2),) * 3
    np.testing.assert_allclose(back[inner], image[inner], atol=0.02)


def test_conformed_grid_is_centred():
    grid = Grid.conformed([10, -20, 30], (4, 5, 6), 2.0)
    assert grid.shape == (4, 5, 6)
    np.testing.assert_allclose(grid.vox2world @ [1.5, 2, 2.5, 1], [10, -20, 30, 1])
    np.testing.assert_array_equal(grid.vox2world[:3, :3], np.eye(3) * 2)
    np.testing.assert_array_equal(grid.voxel_sizes_mm, [2, 2, 2])


def test_bounds_by_hand():
    affine = np.array([[0, -2, 0, 10], [1, 0, 0, 0], [0, 0, 3, -6], [0, 0, 0, 1.0]])
    low, high = Grid((4, 5, 2), affine).bounds_mm()
    np.testing.assert_allclose(low, [10 - 9, -0.5, -7.5])
    np.testing.assert_allclose(high, [10 + 1, 3.5, -1.5])


@pytest.mark.parametrize("seed", range(20))
def test_bounds_hold_every_point_and_no_more(seed):
    rng = np.random.default_rng(seed)
    affine, shape = random_affine(rng), rng.integers(1, 9, 3)
    low, high = Grid(tuple(shape), affine).bounds_mm()
    points = rng.uniform(-0.5, shape - 0.5, (2000, 3)) @ affine[:3, :3].T + affine[:3, 3]
    assert (points >= low).all() and (points <= high).all()
    # Extents of a turned box: the sum of the extents of its edges.
    np.testing.assert_allclose(high - low, np.abs(affine[:3, :3]) @ shape)


def test_labels_by_the_larger_share():
    """Three voxels of 1, one of 2 in one block; inside wins its block over two outside classes."""
    labels = np.ones((4, 2, 1), dtype=np.uint8)
    labels[0, 0] = 2
    labels[2, :, 0] = 101
    labels[3] = [[1], [102]]
    out = resample.conform_labels(Scan(labels, np.diag([1, 1, 2, 1])), 2.0, 100)
    assert out.array.dtype == np.uint8
    np.testing.assert_array_equal(out.array.ravel(), [1, 101])
    np.testing.assert_allclose(out.vox2world @ [0, 0, 0, 1], [0.5, 0.5, 0, 1])


def test_labels_take_the_side_first():
    """No class inside holds as many voxels as the one outside (4), but together they hold more (5)."""
    labels = np.array([1, 1, 1, 1, 101, 101, 102, 103, 104], dtype=np.uint8).reshape(3, 3, 1)
    out = resample.conform_labels(Scan(labels, np.diag([1, 1, 3, 1])), 3.0, 100)
    assert out.array.item() == 101


def test_labels_are_zero_where_there_is_no_scan():
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("z", 45, degrees=True).as_matrix()
    scan = Scan(np.full((20, 20, 6), 5, np.uint8), affine)
    labels = resample.conform_labels(scan, 1.0, 100)
    out = labels.array
    assert set(np.unique(out)) == {0, 5}
    voxels = np.vstack([np.indices(out.shape).reshape(3, -1), np.ones(out.size)])
    index = np.linalg.inv(affine) @ labels.vox2world @ voxels
    limit = np.array([[20], [20], [6]])
    within = ((index[:3] > -0.4) & (index[:3] < limit - 0.6)).all(0).reshape(out.shape)
    beyond = ((index[:3] < -0.6) | (index[:3] > limit - 0.4)).any(0).reshape(out.shape)
    assert (out[within] == 5).all() and (out[beyond] == 0).all()


def test_a_part_of_a_grid_has_its_voxels_in_the_same_place():
    vox2world = random_affine(np.random.default_rng(3))
    part = Grid((9, 9, 9), vox2world).part((slice(2, 5), slice(0, 4), slice(7, 9)))
    assert part.shape == (3, 4, 2)
    np.testing.assert_allclose(part.vox2world @ [1, 3, 0, 1], vox2world @ [3, 3, 7, 1], atol=1e-9)


def test_a_part_of_a_grid_by_hand():
    """It may reach beyond the grid, and leaves the grid as it is."""
    grid = Grid((4, 5, 2), np.array([[0, -2, 0, 10], [1, 0, 0, 0], [0, 0, 3, -6], [0, 0, 0, 1.0]]))
    before = grid.vox2world.copy()
    part = grid.part((slice(1, 3), slice(2, 9), slice(-1, 2)))
    assert part.shape == (2, 7, 3)
    np.testing.assert_allclose(part.vox2world, [[0, -2, 0, 6], [1, 0, 0, 1], [0, 0, 3, -9], [0, 0, 0, 1]])
    np.testing.assert_array_equal(grid.vox2world, before)


def test_how_far_corners_lie_apart_by_hand():
    """Voxels of 1 × 2 × 4 mm; the other grid begins 3 mm and 4 mm aside, and is longer along the last axis."""
    grid = Grid((10, 10, 10), np.diag([1.0, 2, 4, 1]))
    aside = Grid((10, 10, 10), np.array([[1, 0, 0, 3], [0, 2, 0, 4], [0, 0, 4, 0], [0, 0, 0, 1.0]]))
    assert corners_apart(aside, grid) == pytest.approx((5, np.hypot(3, 2)))
    longer = Grid((10, 10, 10), np.diag([1.0, 2, 5, 1]))
    assert corners_apart(longer, grid) == pytest.approx((9.5, 9.5 / 4))
    assert corners_apart(grid, longer) == pytest.approx((9.5, 9.5 / 5))
    assert corners_apart(grid, grid) == (0, 0)


def test_codes_of_axes_by_hand():
    assert Grid((1, 1, 1), np.eye(4)).axis_codes() == "RAS"
    assert Grid((1, 1, 1), np.diag([-2.0, -1, 3, 1])).axis_codes() == "LPS"
    sagittal = np.array([[0, 0, -1.2, 0], [-1, 0.3, 0, 0], [0.3, -1, 0, 0], [0, 0, 0, 1]])
    assert Grid((1, 1, 1), sagittal).axis_codes() == "PIL"


def test_index_of_another_grid_by_hand():
    """Voxels of 2 mm from (10, 0, -6) on, in a grid of 1 × 4 × 3 mm whose axes are turned."""
    grid = Grid((9, 9, 9), np.array([[0, -4, 0, 18], [1, 0, 0, -1], [0, 0, 3, -12], [0, 0, 0, 1.0]]))
    other = Grid((3, 3, 3), np.array([[2, 0, 0, 10], [0, 2, 0, 0], [0, 0, 2, -6], [0, 0, 0, 1.0]]))
    index = grid.index_of(other)
    np.testing.assert_allclose(index @ [0, 0, 0, 1], [1, 2, 2, 1])  # 10 mm is 8 below 18, two voxels of 4 mm
    np.testing.assert_allclose(index @ [1, 0, 0, 1], [1, 1.5, 2, 1])
    np.testing.assert_allclose(index @ [0, 1, 3, 1], [3, 2, 4, 1])
    np.testing.assert_allclose(other.index_of(grid) @ index, np.eye(4), atol=1e-12)


def test_the_box_around_bounds_by_hand():
    """Bounds of 10 mm by 4 by 6, a tenth of the longest around them, in voxels of 2 mm."""
    grid = Grid((20, 20, 20), np.diag([2.0, 2, 2, 1]))
    low, high = np.array([8.5, 11.0, 20.0]), np.array([18.5, 15.0, 26.0])
    assert grid.box_around(low, high, 0.1) == (slice(3, 11), slice(5, 9), slice(9, 15))
    assert grid.box_around(low + 1000, high + 1000, 0.1) == (slice(19, 20),) * 3  # one voxel at least
    assert grid.box_around(low - 1000, high + 1000, 0.1) == (slice(0, 20),) * 3


def test_thin_grids_are_thickened_by_hand():
    grid = Grid((30, 30, 2), np.diag([1.0, 1, 0.5, 1]))
    thick = grid.thickened(4.0)
    assert thick.shape == grid.shape
    np.testing.assert_allclose(thick.voxel_sizes_mm, [1, 1, 1.001 * 2])
    np.testing.assert_allclose(thick.vox2world @ [14.5, 14.5, 0.5, 1], grid.vox2world @ [14.5, 14.5, 0.5, 1])
    np.testing.assert_array_equal(Grid((30, 30, 30), grid.vox2world).thickened(4.0).vox2world, grid.vox2world)


def test_coarsened_is_the_mean_of_blocks_on_no_thinner_a_slab():
    data = np.arange(8, dtype=np.int16).reshape(4, 2, 1)
    scan = Scan(data, np.diag([1.0, 1, 0.5, 1]))
    plain, thick = resample.block_mean(scan, 2.0, np.negative), resample.coarsened(scan, 2.0, np.negative)
    np.testing.assert_array_equal(thick.array.ravel(), [-1.5, -5.5])
    np.testing.assert_array_equal(thick.array, plain.array)
    np.testing.assert_allclose(thick.vox2world, plain.grid.thickened(2.0).vox2world)
    assert thick.grid.voxel_sizes_mm[2] * thick.shape[2] == pytest.approx(2, rel=2e-3)


def test_values_of_a_scan_by_hand():
    scan = Scan(np.array([1, 2, -3], dtype=">i2").reshape(3, 1, 1), np.eye(4), slope=2.0, intercept=-10.0)
    assert scan.values().dtype == np.float32 and scan.values().shape == (3, 1, 1)
    assert scan.values().ravel().tolist() == [-8, -6, -16]
    assert Scan(scan.array, scan.vox2world).values().ravel().tolist() == [1, 2, -3]
    with pytest.raises(InputError, match="beyond what 32 bits hold"):
        Scan(np.ones((1, 1, 1)), np.eye(4), slope=1e39).values()


def test_a_part_of_a_scan_by_hand():
    data = np.arange(24).reshape(2, 3, 4)
    scan = Scan(data, np.array([[0, -2, 0, 10], [1, 0, 0, 0], [0, 0, 3, -6], [0, 0, 0, 1.0]]), 2.0, -1.0)
    part = scan.part((slice(1, 2), slice(0, 2), slice(2, 4)))
    assert part.array.tolist() == [[[14, 15], [18, 19]]]
    assert part.values().tolist() == [[[27, 29], [35, 37]]]  # scaled as before
    np.testing.assert_allclose(part.vox2world, [[0, -2, 0, 10], [1, 0, 0, 1], [0, 0, 3, 0], [0, 0, 0, 1]])
    assert part.shape == part.grid.shape == (1, 2, 2)
